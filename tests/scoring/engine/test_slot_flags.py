"""Flags of slots: what is set, cleared and set again is as in an array of them all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustwatch.scoring.engine import resident_agents
from trustwatch.scoring.engine.resident_agents import SlotFlags

CAPACITY = 40
SLOTS = st.lists(st.integers(0, CAPACITY - 1), max_size=60)
STEPS = st.lists(st.tuples(st.sampled_from(["set", "clear", "clear_all"]), SLOTS), max_size=30)


@pytest.fixture(autouse=True, scope="module")
def short_lists() -> object:
    """Lists begin so short that they grow all the time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(resident_agents, "_FIRST_SIZE", 2)
        yield


@given(STEPS)
def test_they_are_as_an_array_of_all(steps: list[tuple[str, list[int]]]) -> None:
    flags, all_of_them = SlotFlags(CAPACITY), np.zeros(CAPACITY, np.bool_)
    for what, slots in steps:
        some = np.array(slots, np.int32)
        if what == "clear_all":
            flags.clear_all()
            all_of_them[:] = False
        else:
            getattr(flags, what)(some)
            all_of_them[some] = what == "set"
        assert flags.slots().tolist() == np.flatnonzero(all_of_them).tolist()
        assert len(flags) == all_of_them.sum()
        assert (flags[np.arange(CAPACITY)] == all_of_them).all()
        assert flags.slots().dtype == np.int32
