"""What an agent's stored state tells of evidence that is missing, after events as they come."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from trustwatch.ingest.columns import AGENT
from trustwatch.ingest.features import layout
from trustwatch.ingest.features.evidence_beside_features import (
    is_latest_unvouched,
    unordered_sessions,
    used_sessions,
    was_never_vouched,
)
from trustwatch.ingest.features.layout import Array

from ...support.feature_histories import SingleEventBuilder, columns, event, order_doubted_agents

STEPS = ("login", "search", "open", "read", "save", "close")
HOUR = 3600.0


def work(count: int, start_s: float = 0.0, **members: Any) -> list[dict[str, Any]]:
    """Calls of one session, twenty seconds apart, in order."""
    return [event(start_s + 20.0 * n, action=STEPS[n % len(STEPS)], **members) for n in range(count)]


def spans(count: int, start_s: float = 0.0, **members: Any) -> list[dict[str, Any]]:
    """The same by an agent's own word."""
    return work(count, start_s, self_asserted=True, **members)


def token(at_s: float) -> dict[str, Any]:
    """A request for a token, as its authorization server tells it."""
    return event(at_s, type="token.request", action="token.request")


def state_after(*events: dict[str, Any]) -> Array:
    """The stored row of their agent, of which the pipeline counts what the row tells."""
    watch = SingleEventBuilder()
    watch.feed(*events)
    slots = watch.builder.slots.find(columns([event(0.0)]).names[:, AGENT])
    row = watch.builder.pack(slots)[0]
    assert order_doubted_agents(watch.builder) == (sessions_without_order(row) > 0)
    return row


def sessions_without_order(row: Array) -> int:
    """Sessions of a stored row in which order is no evidence."""
    one = row[None]
    return int(unordered_sessions(one["disorder"], one["session_last"], one["session_doubt"])[0])


def shuffled(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return random.Random(1).sample(events, len(events))


def test_sessions_that_come_shuffled_are_counted_and_others_not() -> None:
    """One session comes in any order, the other one as it happened: its order is judged."""
    beside = [one for at in range(6) for one in work(5, 2000.0 + 100.0 * at, session="calm")]
    row = state_after(*work(40, session="calm"), *shuffled(work(60, 1000.0, session="wild")), *beside)

    assert (sessions_without_order(row), used_sessions(row)) == (1, 2)


def test_work_in_order_has_all_evidence_of_order() -> None:
    """Neither a session nor its beginning counts."""
    row = state_after(*work(60, session="a"), *work(2, 1300.0, session="b"))

    assert (sessions_without_order(row), used_sessions(row)) == (0, 2)


def test_order_comes_back_with_work_in_order() -> None:
    """A gateway that is mended is believed again."""
    wild = shuffled(work(60, session="s"))

    assert sessions_without_order(state_after(*wild)) == 1
    assert sessions_without_order(state_after(*wild, *work(120, 1300.0, session="s"))) == 0


@pytest.mark.parametrize(
    ("events", "never", "latest"),
    [
        pytest.param(spans(20), True, True, id="spans alone"),
        pytest.param([token(0.0), *spans(20, 5.0)], False, True, id="one token, then spans"),
        pytest.param([*spans(10), token(195.0), *spans(10, 200.0)], False, True, id="a token amid spans"),
        pytest.param([one for n in range(30) for one in (token(HOUR * n), *spans(20, HOUR * n + 60.0))], False, True),
        pytest.param(work(20), False, False, id="work of a gateway"),
        pytest.param([token(0.0)], False, False, id="a token alone"),
        pytest.param([*spans(10), *work(10, 300.0)], False, False, id="spans, then work of a gateway"),
        pytest.param([*work(20, session="g"), *spans(3, 500.0, session="o")], False, False, id="some spans beside it"),
        pytest.param([*work(20), *spans(3, 9 * HOUR)], False, True, id="spans long after work"),
    ],
)
def test_events_that_teach_nothing_are_told(events: list[dict[str, Any]], never: bool, latest: bool) -> None:
    """One token that is vouched for beside work that is not teaches nothing of that work."""
    row = state_after(*events)

    assert (was_never_vouched(row), is_latest_unvouched(row)) == (never, latest)


def test_a_new_agent_misses_nothing() -> None:
    """Nothing has come of it yet."""
    row = np.zeros(1, layout.STATE_ROW)[0]

    assert (sessions_without_order(row), used_sessions(row)) == (0, 0)
    assert not was_never_vouched(row) and not is_latest_unvouched(row)
