"""Writes the golden model of the present format version; refuses to touch one that exists."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from trustwatch.models.calibration import Calibration
from trustwatch.models.concerns import FeatureRoles, fit_calibrations
from trustwatch.models.detector import DetectorSettings
from trustwatch.models.detector_training import fit_detector
from trustwatch.models.model_directory import MODEL_FORMAT_VERSION, ModelManifest, TrainingWindow, save_model
from trustwatch.models.model_persistence import detector_state

NAMES, TABLE = ("pace", "novelty", "flag"), "golden-table"
DECADES = (0.0, 0.3, 0.0)  # the second is a logarithm of probabilities itself


def main() -> int:
    """Fit a tiny detector and write it with the scores that it gives."""
    target = Path(__file__).parent / "golden" / f"v{MODEL_FORMAT_VERSION}"
    if target.exists():
        sys.stderr.write(f"{target} exists; golden models are never rewritten\n")
        return 1
    rng = np.random.default_rng(20261124)
    X = np.column_stack([rng.exponential(size=400), rng.normal(size=400), rng.random(400) < 0.03])
    groups = rng.integers(1, 3, 400).astype(np.uint64)
    settings = DetectorSettings(trees=9, max_samples=32, group_minimum=150, knots=128, seed=5)
    sessions = np.arange(400, dtype=np.uint64) // 8
    X[:, 2] += 1.0  # a rank: 1 = it could speak, 2 = it does
    roles = FeatureRoles(np.array([False, False, True]), np.array([False, True, False]), np.array([True, False, False]))
    more = {"roles": roles, "failed": rng.random(400) < 0.2, "rate_between": 0.2}
    detector = fit_detector(X, groups, sessions, settings, NAMES, decades=DECADES, version="golden", **more)[0]
    # Calmer ones, of whom the history was known.
    familiar = Calibration.fit(0.8 * detector.assess(X, groups)[0].anomaly_score, groups, settings.group_minimum)
    _, concerns = detector.assess(X, groups, more["failed"])
    calmer = fit_calibrations(list(0.8 * concerns.anomaly_score.T), groups, settings.group_minimum)
    detector = replace(detector, familiar=familiar, by_concern=detector.by_concern._replace(familiar=calmer))
    document = {"detector": asdict(settings)}
    manifest = ModelManifest("golden", NAMES, TABLE, TrainingWindow(1, 2, 400, 2, 50), document, "0123", 3)
    extras = {"baselines": {"counts": np.arange(5, dtype=np.uint32)}}
    save_model(target / "model", detector_state(detector), extras, manifest)
    rows = np.concatenate([X[:20], X[:20] * [4.0, 4.0, 1.0], [[50.0, 50.0, 2.0], [0.5, 0.5, 1.5]]])
    seen = np.resize(np.array([1, 2, 3], np.uint64), len(rows))
    known = np.arange(len(rows)) % 2 == 0
    scores = detector.assess(rows, seen, None, known)[0]._asdict()
    failed = np.arange(len(rows)) % 3 == 0
    concerns = {
        f"concern_{name}": array for name, array in detector.assess(rows, seen, failed, known)[1]._asdict().items()
    }
    given = {"rows": rows, "groups": seen, "familiar": known, "failed": failed}
    for name, array in {**given, **scores, **concerns}.items():
        np.save(target / f"{name}.npy", array)
    return 0


if __name__ == "__main__":
    sys.exit(main())
