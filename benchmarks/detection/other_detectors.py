"""Other detectors behind one shape: a history goes in, scores of test events come out. Each library is imported here
and nowhere else, when it is used: one that is not installed is a skipped row, not an error.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .count_features import Event, session_rows

Matrix = NDArray[np.float64]
Fitted = Callable[[Matrix], Matrix]
"""Scores of rows, higher is more anomalous."""


def sklearn_forest(train: Matrix) -> Fitted:
    """scikit-learn's IsolationForest."""
    from sklearn.ensemble import IsolationForest

    model = IsolationForest(n_estimators=100, random_state=0).fit(train)
    return lambda rows: -model.score_samples(rows)


def isotree_forest(train: Matrix) -> Fitted:
    """isotree's extended isolation forest with its defaults."""
    from isotree import IsolationForest

    model = IsolationForest(ntrees=100, random_seed=1, nthreads=1).fit(train)
    return lambda rows: np.asarray(model.predict(rows))


def _pyod(name: str) -> Callable[[Matrix], Fitted]:
    def fit(train: Matrix) -> Fitted:
        from importlib import import_module

        model = getattr(import_module(f"pyod.models.{name.lower()}"), name)()
        model.fit(train)
        return lambda rows: np.asarray(model.decision_function(rows))

    return fit


def river_half_space_trees(train: Matrix) -> Fitted:
    """river's HalfSpaceTrees behind its MinMaxScaler; learns the history, then only scores."""
    from river.anomaly import HalfSpaceTrees
    from river.preprocessing import MinMaxScaler

    scaler = MinMaxScaler()
    trees = HalfSpaceTrees(n_trees=25, height=8, window_size=max(10, len(train) // 4), seed=0)
    for row in train:
        x = dict(enumerate(row.tolist()))
        scaler.learn_one(x)
        trees.learn_one(scaler.transform_one(x))
    return lambda rows: np.array([trees.score_one(scaler.transform_one(dict(enumerate(row.tolist())))) for row in rows])


MATRIX_DETECTORS: dict[str, Callable[[Matrix], Fitted]] = {
    "scikit-learn IsolationForest": sklearn_forest,
    "isotree IsolationForest": isotree_forest,
    "PyOD ECOD": _pyod("ECOD"),
    "PyOD COPOD": _pyod("COPOD"),
    "PyOD KNN": _pyod("KNN"),
    "river HalfSpaceTrees": river_half_space_trees,
}
"""Detectors on a matrix, by name."""


def agentnorm(train: list[Event]) -> Callable[[list[Event]], Matrix]:
    """agentnorm's five detectors per session. It does not fuse them; here the largest counts, each in units of its
    own spread over the history."""
    from agentnorm import Monitor, Run, ToolCall

    def runs(events: list[Event]) -> tuple[list[Any], NDArray[np.int64]]:
        at = session_rows(events)
        made: list[Any] = [None] * (int(at.max()) + 1)
        for row, event in zip(at, events, strict=True):
            run = made[row]
            if run is None:
                agent, tenant = event["agent"], event.get("tenant") or ""
                run = made[row] = Run(agent["id"], agent.get("version") or "unversioned", tenant)
            run.calls.append(_call(ToolCall, event, len(run.calls) + 1))
        return made, at

    history, _ = runs(train)
    monitor = Monitor.fit(history)
    names = sorted(monitor.thresholds)
    seen = np.array([[monitor.score(run).scores[name] for name in names] for run in history])
    with np.errstate(invalid="ignore"):
        middle, spread = np.nanmean(seen, axis=0), np.maximum(np.nanstd(seen, axis=0), 0.05)

    def score(events: list[Event]) -> Matrix:
        made, at = runs(events)
        values = np.array([[monitor.score(run).scores[name] for name in names] for run in made])
        largest: Matrix = np.nan_to_num((values - middle) / spread, nan=0.0).max(axis=1)
        return largest[at]

    return score


def _call(make: Any, event: Event, step: int) -> Any:
    resource, outcome = event.get("resource") or {}, event.get("outcome")
    return make(
        tool=event["action"],
        step=step,
        ok=outcome == "success",
        result_size=int(event.get("bytes_out") or 0),
        resource=str(resource.get("id") or ""),
        scope=event.get("tenant") or "",
    )


def _agent_scope(event: Event) -> Any:
    return (event["agent"]["id"], event["agent"].get("type"))


def _type_scope(event: Event) -> Any:
    return event["agent"].get("type")


def _task_scope(event: Event) -> Any:
    return (event["agent"].get("type"), event.get("task"))


def first_seen(scope: Callable[[Event], Any]) -> Callable[[list[Event]], Callable[[list[Event]], Matrix]]:
    """The rule: is the action new in its scope, is the resource new in its scope; 0, 1 or 2."""

    def fit(train: list[Event]) -> Callable[[list[Event]], Matrix]:
        known: dict[Any, set[str]] = defaultdict(set)
        for event in train:
            known[scope(event)].update(_named(event))
        return lambda events: np.array(
            [float(sum(name not in known.get(scope(event), ()) for name in _named(event))) for event in events]
        )

    return fit


def _named(event: Event) -> list[str]:
    resource = (event.get("resource") or {}).get("id")
    return [f"action {event['action']}"] + ([f"resource {resource}"] if resource else [])


EVENT_DETECTORS: dict[str, Callable[[list[Event]], Callable[[list[Event]], Matrix]]] = {
    "agentnorm 0.2": agentnorm,
    "rule: first seen by the agent": first_seen(_agent_scope),
    "rule: first seen in the agent type": first_seen(_type_scope),
    "rule: first seen for the declared task": first_seen(_task_scope),
}
"""Detectors that read events themselves, by name."""
