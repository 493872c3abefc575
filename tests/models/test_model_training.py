"""Cross-fitting: who is measured against whom, and what a detector therefore knows."""

from __future__ import annotations

import numpy as np

from trustwatch.models.model_training import AGENTS_PER_FOLD, agent_event_numbers, event_folds, first_appearance_numbers

FOLDS = 5


def test_many_agents_are_kept_apart() -> None:
    """With agents enough, all events of an agent share a fold, and folds are about equal."""
    agents = np.repeat(np.arange(100, 100 + FOLDS * AGENTS_PER_FOLD, dtype=np.uint64), 7)
    folds = event_folds(agents, np.arange(len(agents), dtype=np.uint64), FOLDS)
    assert all(len(set(folds[agents == agent].tolist())) == 1 for agent in np.unique(agents))
    assert set(np.bincount(folds).tolist()) == {AGENTS_PER_FOLD * 7}


def test_few_agents_share_folds_by_session() -> None:
    """One agent less, and each session is measured against the others."""
    agents = np.repeat(np.arange(FOLDS * AGENTS_PER_FOLD - 1, dtype=np.uint64), 10)
    sessions = np.arange(len(agents), dtype=np.uint64) // np.uint64(2)
    folds = event_folds(agents, sessions, FOLDS)
    assert np.array_equal(folds, sessions % FOLDS)
    assert len(set(folds[agents == 0].tolist())) == FOLDS


def test_folds_do_not_depend_on_hashes() -> None:
    """Other names in the same order give the same folds."""
    rng = np.random.default_rng(1)
    agents = rng.integers(0, 40, 500).astype(np.uint64)
    renamed = (agents * np.uint64(0x9E3779B97F4A7C15)) ^ np.uint64(77)
    assert np.array_equal(first_appearance_numbers(agents), first_appearance_numbers(renamed))
    sessions = np.zeros(500, np.uint64)
    assert np.array_equal(event_folds(agents, sessions, FOLDS), event_folds(renamed, sessions, FOLDS))


def test_turns_count_an_agents_own_events() -> None:
    """Each event knows how many of its agent's came before."""
    assert agent_event_numbers(np.array([7, 3, 7, 7, 3], np.uint64)).tolist() == [0, 0, 1, 2, 1]
    assert agent_event_numbers(np.zeros(0, np.uint64)).tolist() == []
