"""Converted the stored model from format 4 to 5: `python -m tests.golden.convert_model`, run once.

Format 5 remembers values of arguments and knows concerns. The history of this model tells no origins, so what it knows
of values is nothing, and every other array keeps its content. Scores by concern are calibrated on the stored vectors:
the history itself is gone. Operators, who have theirs, train again.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from trustwatch.ingest.features import earlier_layout, layout
from trustwatch.ingest.features.feature_table import (
    ADDED_FEATURES,
    COMPROMISE_FEATURES,
    FEATURE_NAMES,
    OVERREACH_FEATURES,
    feature_table_hash,
)
from trustwatch.models.calibration import Calibration, PeerScales
from trustwatch.models.concerns import CONCERNS, ConcernModel, FeatureRoles, fit_concerns
from trustwatch.models.evidence_combination import EvidenceCombination, combined_evidence
from trustwatch.models.feature_tails import TailTables
from trustwatch.models.forest_evaluator import ForestArrays
from trustwatch.models.model_directory import manifest_digest

from .collecting import MODEL
from .opening import DATA
from .support import pack, read_rows, unpack

ROLES = FeatureRoles(np.array(ADDED_FEATURES), np.array(COMPROMISE_FEATURES), np.array(OVERREACH_FEATURES))


def main() -> None:
    """Convert it."""
    with tempfile.TemporaryDirectory() as made:
        folder = unpack(MODEL, Path(made) / "model")
        manifest = json.loads((folder / "manifest.json").read_bytes())
        assert manifest["format_version"] == 4, "it is converted"
        convert_history(folder, manifest["files"])
        convert_detector(folder, manifest)
        manifest["feature_names"] = list(FEATURE_NAMES)
        manifest["feature_table_hash"] = feature_table_hash()
        manifest["format_version"] = 5
        manifest["digest"] = manifest_digest(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest, sort_keys=True, indent=1))
        pack(folder, MODEL)


def convert_history(folder: Path, files: dict[str, object]) -> None:
    """Give baseline and agents room for values, of which they know none."""
    totals = np.load(folder / "extras/baseline/totals.npy")
    write_array(folder, files, "extras/baseline/totals.npy", np.pad(totals, ((0, 0), (0, 1), (0, 0))))
    seeds = {name: np.load(folder / f"extras/seeds/{name}.npy") for name in earlier_layout.STATE_ROW.names or ()}
    rows = np.zeros(len(seeds["times"]), earlier_layout.STATE_ROW)
    for name, array in seeds.items():
        rows[name] = array
    made = earlier_layout.converted(rows)
    for name in layout.STATE_ROW.names or ():
        write_array(folder, files, f"extras/seeds/{name}.npy", np.ascontiguousarray(made[name]))


def convert_detector(folder: Path, manifest: dict[str, Any]) -> None:
    """Give the detector the new feature, which brings no evidence, the roles of all, and its concerns."""
    files, settings = manifest["files"], manifest["settings"]["detector"]
    state = {path.stem: np.load(path) for path in sorted((folder / "detector").glob("*.npy"))}
    tail = {"tail_x": np.full(state["tail_x"].shape[1], np.inf), "tail_u": np.zeros(state["tail_u"].shape[1])}
    tail["tail_x"][:2] = 0.0, 2.0
    more = {**tail, "tail_rate": np.zeros(state["tail_rate"].shape[1]), "importance": 1.0}
    for name in (*more, "usual_median", "usual_upper"):
        state[name] = np.concatenate([state[name], np.array(more.get(name, 0.0))[None]])
    state |= concern_arrays(state, settings)
    for name, array in state.items():
        write_array(folder, files, f"detector/{name}.npy", array)


def concern_arrays(state: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Arrays of the concerns, calibrated on the stored vectors."""
    golden = read_rows(DATA / "vectors.jsonl.gz")
    rows = np.array([[*row["vector"], 0.0] for row in golden])
    groups = np.array([row["group"] for row in golden], np.uint64)
    forest = ForestArrays(
        *(state[f"forest_{name}"] for name in ("features", "thresholds", "leaves", "expected")),
        float(state["forest_normaliser"]),
        len(FEATURE_NAMES),
    )
    tails = [TailTables(*(state[f"{tail}_{name}"] for name in TailTables._fields)) for tail in ("tail", "score_tail")]
    parts = EvidenceCombination(
        tails[0], forest, tails[1], settings["forest_weight"], settings["norm"], state["importance"], ROLES.added
    )
    scales = PeerScales(*(state[f"scale_{name}"] for name in PeerScales._fields))
    failed = np.zeros(len(rows), np.bool_)
    made = fit_concerns(scales, combined_evidence(parts, rows), groups, failed, ROLES, settings["group_minimum"])
    return arrays_of(made)


def arrays_of(made: ConcernModel) -> dict[str, Any]:
    """Names as in `model_persistence.detector_state`."""
    named: dict[str, Any] = {f"role_{name}": flags.astype(np.uint8) for name, flags in made.roles._asdict().items()}
    for name, scales in (("compromise", made.compromise_scales), ("overreach", made.overreach_scales)):
        named |= {f"asked_{name}_{field}": array for field, array in scales._asdict().items()}
    for concern, calibration in zip(CONCERNS, made.calibrations, strict=True):
        assert isinstance(calibration, Calibration)
        named |= {f"{concern}_{field}": array for field, array in calibration._asdict().items()}
    return named


def write_array(folder: Path, files: dict[str, object], name: str, array: np.ndarray) -> None:
    """Write one array and its entry in the manifest."""
    raw = BytesIO()
    np.save(raw, array, allow_pickle=False)
    (folder / name).write_bytes(raw.getvalue())
    digest = hashlib.sha256(raw.getvalue()).hexdigest()
    files[name] = {"dtype": array.dtype.str, "sha256": digest, "shape": list(array.shape)}


if __name__ == "__main__":
    main()
