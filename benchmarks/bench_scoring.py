"""Scoring: the compiled forest against scikit-learn's `score_samples`, and the whole detector per row.

Parity is asserted on every size before anything is timed. Targets: 1,000x at one row, 8x at 1,024,
3x at 65,536. Exit status 1 if a target is missed; `--quick` only reports.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import numpy as np
from sklearn.ensemble import IsolationForest

from trustwatch.models.detector import DetectorSettings, ForestDetector
from trustwatch.models.detector_training import fit_detector, flatten_forest
from trustwatch.models.forest_evaluator import forest_scores

from .harness import arguments, finish, interleaved, machine, table

TARGETS = {1: 1000.0, 1024: 8.0, 65_536: 3.0}
BUDGET_US = {1: 40.0, 1024: 3.0}  # the whole detector, per row
FEATURES = (24, 40)
TREES = 100
PARITY = 1e-9


def forest_figures(features: int, quick: bool) -> list[dict[str, Any]]:
    """Microseconds per row of both, their ratio, and the largest difference of a score."""
    rows = np.random.default_rng(features).normal(size=(65_536, features))
    model = IsolationForest(n_estimators=TREES, max_samples=256, random_state=0).fit(rows)
    forest = flatten_forest(model)
    figures = []
    for n, target in TARGETS.items():
        X = rows[:n].copy()
        difference = float(np.abs(forest_scores(forest, X) + model.score_samples(X)).max())
        if difference > PARITY:
            raise SystemExit(f"scores differ from scikit-learn by {difference}")
        seconds = interleaved(
            {"ours": partial(forest_scores, forest, X), "sklearn": partial(model.score_samples, X)},
            rounds=3 if quick else 15,
            calls={"ours": max(1, 2000 // n), "sklearn": 1},
        )
        ours, theirs = (seconds[name] / n * 1e6 for name in ("ours", "sklearn"))
        figures.append(
            {
                "features": features,
                "rows": n,
                "ours_us": ours,
                "sklearn_us": theirs,
                "ratio": theirs / ours,
                "target": target,
                "difference": difference,
            }
        )
    return figures


def history(rows: int, features: int) -> np.ndarray:
    """Rows shaped as feature vectors are: a third of the columns is mostly zero, the others skewed."""
    rng = np.random.default_rng(1)
    X = rng.exponential(size=(rows, features))
    X[:, ::3] *= rng.random((rows, X[:, ::3].shape[1])) < 0.02
    return X


def detector_figures(features: int, quick: bool) -> list[dict[str, Any]]:
    """Microseconds per row of `ForestDetector.score` and of `explain`."""
    X = history(20_000, features)
    rng = np.random.default_rng(2)
    groups = rng.integers(1, 9, len(X)).astype(np.uint64)
    sessions = rng.integers(0, 500, len(X)).astype(np.uint64)
    names = [f"f{i}" for i in range(features)]
    detector = fit_detector(X, groups, sessions, DetectorSettings(trees=TREES), names)[0]
    return [_detector_figure(detector, X[:n].copy(), groups[:n].copy(), quick) for n in BUDGET_US]


def _detector_figure(detector: ForestDetector, X: np.ndarray, groups: np.ndarray, quick: bool) -> dict[str, Any]:
    n = len(X)
    seconds = interleaved(
        {"score": lambda: detector.assess(X, groups), "explain": lambda: detector.explain(X[:1])},
        rounds=3 if quick else 15,
        calls={"score": max(1, 4000 // n), "explain": 20},
    )
    return {
        "features": X.shape[1],
        "rows": n,
        "score_us": seconds["score"] / n * 1e6,
        "budget_us": BUDGET_US[n],
        "explain_us": seconds["explain"] * 1e6,
    }


def main() -> int:
    """Print the tables; returns the exit status."""
    options = arguments("scoring benchmark")
    forest = [figure for features in FEATURES for figure in forest_figures(features, options.quick)]
    columns = ("features", "rows", "ours us/row", "score_samples us/row", "ratio", "target", "largest difference")
    table(f"Forest of {TREES} trees", columns, [tuple(figure.values()) for figure in forest])
    detector = [figure for features in FEATURES for figure in detector_figures(features, options.quick)]
    of_detector = ("features", "rows", "score us/row", "budget", "explain one row, us")
    table("Whole detector: tails, forest, calibration", of_detector, [tuple(figure.values()) for figure in detector])
    finish(machine("numpy", "numba", "scikit-learn"), {"forest": forest, "detector": detector}, options.json)
    missed = [figure for figure in forest if figure["ratio"] < figure["target"]]
    missed += [figure for figure in detector if figure["score_us"] > figure["budget_us"]]
    for figure in missed:
        print(f"missed: {figure}", file=sys.stderr)
    return 1 if missed and not options.quick else 0


if __name__ == "__main__":
    sys.exit(main())
