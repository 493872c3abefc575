"""Honest feature vectors of a history: each event measured against baselines that have not seen it.

Otherwise a detector would learn from vectors in which everything is known, and no new event will ever look like that.
Where there are enough agents, each is measured against the history of *others* and its own past, as live: a baseline
that knows other sessions of the same agent knows its future, too, and what is new to the agent would look known. Few
agents leave no others; then each session is measured against the other sessions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ..ingest import columns as c
from ..ingest.columns import EventColumns
from ..ingest.features.baseline import fit_baseline
from ..ingest.features.builder import FeatureBuilder
from ..ingest.features.declaration import BITS, Z
from ..ingest.features.kernel import IGNORED_EVENT, RowObservations
from ..ingest.features.table import FEATURE_COUNT, FEATURE_IMPORTANCE, FEATURE_NAMES, FEATURES
from .detector import DetectorSettings, ForestDetector, Scores
from .habits import learnable_parts
from .training import fit_detector_with_held_out

AGENTS_PER_FOLD = 4
"""Agents that each fold must have before agents are kept apart."""

CROSS_FIT_ROUNDS = 2
"""The first tells which events are odd; the second learns those as rarely as the live service does."""

_RESOLUTION = {BITS: 0.25, Z: 0.25}
_DECADES_PER_UNIT = {BITS: float(np.log10(2.0))}


def cross_fit_detector(
    columns: EventColumns,
    found: RowObservations,
    sessions: npt.NDArray[np.uint64],
    settings: DetectorSettings,
    version: str,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[ForestDetector, Scores]:
    """A detector on cross-fitted vectors, and the held-out scores of the history.

    Args:
        found: what the kernel found in the history, for the baselines.
        sessions: (n,), number of each event's session.
        progress: told the number of folds done, up to `TURNS * settings.folds`.

    Raises:
        NotEnoughHistory: fewer events than a detector can be fitted on.
    """
    folds = event_folds(columns.names[:, c.AGENT], sessions, settings.folds)
    agents, everything = columns.names[:, c.AGENT], np.arange(len(columns))
    p_values, taught = np.ones(len(columns)), agent_event_numbers(agents)
    for turn in range(CROSS_FIT_ROUNDS):
        learned = learnable_parts(columns, everything, p_values, taught)
        vectors = np.zeros((len(columns), FEATURE_COUNT))
        for fold in range(settings.folds):
            held = folds == fold
            if held.any():
                vectors[held] = _held_out_vectors(columns, found, held, learned)[held]
            progress(turn * settings.folds + fold + 1)
        detector, scores = fit_detector_with_held_out(
            vectors,
            columns.names[:, c.GROUP].copy(),
            sessions,
            settings,
            FEATURE_NAMES,
            resolution=[_RESOLUTION.get(f.unit, 0.05) for f in FEATURES],
            importance=FEATURE_IMPORTANCE,
            decades=[_DECADES_PER_UNIT.get(f.unit, 0.0) for f in FEATURES],
            version=version,
        )
        p_values = scores.p_value
    return detector, scores


def _held_out_vectors(
    columns: EventColumns, found: RowObservations, held: npt.NDArray[np.bool_], learned: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float64]:
    """Vectors (n, F) of the agents that occur in *held*, against a baseline of all that is not held."""
    agents = columns.names[:, c.AGENT]
    acting = np.unique(agents[held])
    rows = np.flatnonzero(np.isin(agents, acting))
    builder = FeatureBuilder(fit_baseline(columns, found, ~held), len(acting))
    builder.set_shared_counts(agents[rows][~held[rows] & (found.flags[rows] != IGNORED_EVENT)])
    return builder.observe_and_learn(columns, learned, rows)[0]


def event_folds(agents: npt.NDArray[np.uint64], sessions: npt.NDArray[np.uint64], folds: int) -> npt.NDArray[np.int64]:
    """Fold of each event, (n,) in [0, folds): by agent, or by session where there are too few agents."""
    number = first_appearance_numbers(agents)
    if int(number.max(initial=0)) + 1 < AGENTS_PER_FOLD * folds:
        number = sessions
    return (number % np.uint64(folds)).astype(np.int64)


def first_appearance_numbers(ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Ids as numbers in the order of their first appearance: folds then do not depend on the salt of the hashes."""
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first)).astype(np.uint64)[inverse]


def agent_event_numbers(agents: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """How many events of the same agent come before each event, (n,)."""
    order = np.argsort(agents, kind="stable")
    ordered = agents[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    turn = np.empty(len(agents), np.int64)
    turn[order] = np.arange(len(agents)) - np.repeat(starts, np.diff(np.r_[starts, len(agents)]))
    return turn
