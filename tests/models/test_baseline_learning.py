"""Which events become habits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustwatch.ingest import columns
from trustwatch.ingest.columns import EventColumns
from trustwatch.models.betting import (
    ANOMALOUS_P_VALUE,
    LEARN_ALL,
    LEARN_CREDENTIAL,
    LEARNED_ONE_IN,
    MIN_LEARNED_EVENTS,
    learnable_parts,
)
from trustwatch.models.input_checks import WrongShape

ROWS = 2000
KNOWN = np.full(ROWS, 100)
AT = np.arange(ROWS)


def events(agent: int = 7, start: int = 0, step: int = 60_000, kind: int = 0) -> EventColumns:
    """Columns of one agent's events at a steady pace; only those that the rule looks at are filled."""
    names, codes = np.zeros((ROWS, columns.NAMES), np.uint64), np.zeros((ROWS, columns.CODES), np.int8)
    names[:, columns.AGENT_DRAW], codes[:, columns.TYPE] = np.uint64(agent), kind
    times = start + step * np.arange(ROWS, dtype=np.int64)
    return EventColumns([], names, np.zeros((ROWS, columns.NUMBERS)), codes, times)


def test_what_is_not_odd_becomes_a_habit():
    """Above ODD everything is learned; at it and below, only what is drawn."""
    p_values = np.full(ROWS, np.nextafter(ANOMALOUS_P_VALUE, 1))
    assert learnable_parts(events(), AT, p_values, KNOWN).all()
    assert 0 < learnable_parts(events(), AT, np.full(ROWS, ANOMALOUS_P_VALUE), KNOWN).sum() < ROWS / 4


@given(
    agent=st.integers(0, 2**64 - 1), start=st.integers(0, 2**42), step=st.sampled_from([1, 1000, 60_000, 86_400_000])
)
@settings(deadline=None)
def test_the_draw_is_even(agent, start, step):
    """Whatever an agent's rhythm, about one odd event in eight is drawn, and no long run of them never is."""
    lucky = np.flatnonzero(learnable_parts(events(agent, start, step), AT, np.full(ROWS, 0.001), KNOWN))
    assert len(lucky) == pytest.approx(ROWS / int(LEARNED_ONE_IN), rel=0.4)
    assert np.diff(np.r_[0, lucky, ROWS]).max() < 150


@given(agent=st.integers(0, 2**64 - 1), start=st.integers(0, 2**42), step=st.integers(0, 2**30))
@settings(deadline=None)
def test_the_draw_is_splitmix64(agent, start, step):
    """Of agent and time, one in eight: what was drawn before a release is drawn after it."""
    agents, times = np.full(ROWS, agent, np.uint64), events(agent, start, step).time_ms.astype(np.uint64)
    mixed = agents * np.uint64(0x9E3779B97F4A7C15) + times
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    drawn = (mixed ^ (mixed >> np.uint64(31))) % np.uint64(8) == 0

    learned = learnable_parts(events(agent, start, step), AT, np.full(ROWS, 0.001), KNOWN)

    np.testing.assert_array_equal(learned == LEARN_ALL, drawn)


def test_the_draw_does_not_depend_on_the_cut_of_batches():
    """Rows judged one by one, and in another order, are judged as in one batch."""
    p_values = np.full(ROWS, 0.001)
    whole = learnable_parts(events(), AT, p_values, KNOWN)
    order = np.random.default_rng(1).permutation(ROWS)
    alone = [learnable_parts(events(), order[i : i + 1], p_values, KNOWN[:1])[0] for i in range(200)]
    np.testing.assert_array_equal(alone, whole[order[:200]])


def test_an_agent_that_taught_little_is_learned_whatever_is_odd():
    """The first events of a new agent are odd by nature."""
    taught = np.where(AT % 2 == 0, MIN_LEARNED_EVENTS - 1, MIN_LEARNED_EVENTS)
    learned = learnable_parts(events(), AT, np.full(ROWS, 0.001), taught)
    assert learned[::2].all()
    assert not learned[1::2].all()


@pytest.mark.parametrize("kind", [columns.CLIENT_CHANGE, columns.CLIENT_REGISTER])
def test_what_is_announced_is_learned(kind):
    """What an authorization server says of a client is no habit to be doubted."""
    learned = learnable_parts(events(kind=kind), AT, np.full(ROWS, 0.001), KNOWN)
    lucky = learnable_parts(events(), AT, np.full(ROWS, 0.001), KNOWN) == LEARN_ALL
    assert (learned[~lucky] == LEARN_CREDENTIAL).all()
    assert (learned[lucky] == LEARN_ALL).all()


def test_columns_of_another_length_are_refused():
    """A kernel would read what lies behind their end."""
    p_values = np.full(ROWS, 1.0)
    with pytest.raises(WrongShape, match=r"taught of shape \(3,\)"):
        learnable_parts(events(), AT, p_values, KNOWN[:3])
    with pytest.raises(WrongShape, match=r"agents of shape \(3,\)"):
        learnable_parts(events(), AT, p_values, KNOWN, np.zeros(3, np.uint64))
