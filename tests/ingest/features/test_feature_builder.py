"""Which agent lives in which slot."""

from __future__ import annotations

import random

import numpy as np
import pytest

from trustwatch.ingest.features.baseline import empty_baseline
from trustwatch.ingest.features.feature_builder import AgentSlotTable, FeatureBuilder, agent_rounds


def keys(*values: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array(values, np.uint64)


def nobody(capacity: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.zeros(capacity, np.bool_)


@pytest.mark.parametrize("seed", range(5))
def test_slots_agree_with_a_dict(seed: int) -> None:
    """Over thousands of random arrivals and departures, with keys that collide in the index, a dict says the same."""
    rng = random.Random(seed)
    table, model = AgentSlotTable(50), dict[int, int]()
    universe = [rng.randrange(1, 1 << 20) << 40 | rng.randrange(4) for _ in range(120)]  # low bits alike: long probes
    for _ in range(2000):
        key = rng.choice(universe)
        if key in model:
            if rng.random() < 0.5:
                table.remove(np.array([model.pop(key)], np.int32))
        elif len(model) < 50:
            model[key] = int(table.add(keys(key))[0])
        assert len(table) == len(model)
    assert table.find(keys(*universe)).tolist() == [model.get(key, -1) for key in universe]


def test_slots_choose_the_quietest() -> None:
    """The least recently used leave first; pinned ones last; those of the latest batch never."""
    table = AgentSlotTable(4)
    slot = dict(zip("abcd", table.add(keys(1, 2, 3, 4)).tolist(), strict=True))
    table.find(keys(1))
    table.find(keys(2, 3))
    pinned = nobody(4)
    pinned[slot["d"]] = True

    table.find(keys(3))

    assert table.least_recent(1, nobody(4)).tolist() == [slot["d"]]
    assert table.least_recent(4, pinned).tolist() == [slot["a"], slot["b"], slot["d"]]


def test_a_new_agent_finds_a_clean_slot() -> None:
    """Nothing of the agent that left is seen by the one that moves in."""
    builder = FeatureBuilder(empty_baseline(), 1)
    for array in builder.state:
        array[:] = 77
    builder.pinned[:] = True

    slots = builder.admit(keys(5))

    assert all(not array[slots].any() for array in builder.state)
    assert not builder.pinned[slots].any()


@pytest.mark.parametrize("seed", range(5))
def test_rounds_keep_each_agents_order(seed: int) -> None:
    """Rounds hold every row once, no agent twice in a round, and an agent's rows in their order over the rounds."""
    rng = np.random.default_rng(seed)
    slots = rng.integers(0, 9, 60).astype(np.int32)

    found = agent_rounds(slots)

    assert sorted(np.concatenate(found).tolist()) == list(range(60))
    assert all(len(set(slots[rows].tolist())) == len(rows) for rows in found)
    for slot in range(9):
        order = [row for rows in found for row in rows.tolist() if slots[row] == slot]
        assert order == np.flatnonzero(slots == slot).tolist()
