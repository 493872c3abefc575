"""What a new version learns from: the newest events, without attacks and without what looked like one."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.scoring.learning.training import ENCODE_CHUNK, TrainingHistory, exclude_windows, suspicious_windows
from trustwatch.scoring.records.agents import AgentName
from trustwatch.scoring.records.decisions import Decision

HOUR, DAY = 3_600_000, 86_400_000


def decision(number: int, key: int, at_ms: int, level: int) -> Decision:
    """A change of level."""
    name = AgentName(key, "acme", "https://as.example", str(key))
    return Decision(
        f"D{number}",
        name,
        "Payer",
        at_ms,
        "",
        at_ms,
        1,
        level,
        0.9,
        0.8,
        0.7,
        0.1,
        (),
        "",
        {},
        {},
        "m",
        "b",
        "p",
        "enforce",
        "event",
        0,
        number,
    )


def test_columns_are_those_of_the_events(make: Any, kit: Any) -> None:
    """Whatever the chunks; events that are none are counted."""
    events = make.stream(4, ENCODE_CHUNK + 300)
    history = TrainingHistory(ColumnEncoder(make.SALT), 10**6, 0)
    for event in events:
        history.add(json.dumps(event).encode())
    history.add(b"rubbish")
    found, expected = history.columns(), kit.columns(events)

    assert found is not None
    for name in ("names", "numbers", "codes", "time_ms"):
        assert np.array_equal(getattr(found, name), getattr(expected, name))
    assert history.malformed == 1


def test_the_newest_are_kept(make: Any, kit: Any) -> None:
    """At most so many, and none older than asked for."""
    events = make.stream(4, 3 * ENCODE_CHUNK)
    history = TrainingHistory(ColumnEncoder(make.SALT), ENCODE_CHUNK + 7, 0)
    recent = TrainingHistory(ColumnEncoder(make.SALT), 10**6, int(kit.columns(events).time_ms[-20]))
    for event in events:
        history.add(json.dumps(event).encode())
        recent.add(json.dumps(event).encode())
    found, late = history.columns(), recent.columns()

    assert found is not None and late is not None
    assert np.array_equal(found.time_ms, kit.columns(events).time_ms[-ENCODE_CHUNK - 7 :])
    assert len(late) == 20
    assert TrainingHistory(ColumnEncoder(make.SALT), 10, 0).columns() is None


def test_an_agent_is_left_out_until_it_came_down(make: Any) -> None:
    """From an hour before it reached high; a day at most; not at all if a person calls it false."""
    newest_first = [
        decision(5, 1, 10 * DAY, 1),
        decision(4, 1, 10 * DAY - 2 * HOUR, 3),
        decision(3, 2, 5 * DAY, 4),
        decision(2, 3, 4 * DAY, 3),
        decision(1, 4, 3 * DAY, 2),
    ]
    windows = suspicious_windows(newest_first, frozenset({"D2"}), IdentityHasher())

    first, second = (IdentityHasher().agent_key(*entry.agent.identity) for entry in (newest_first[1], newest_first[2]))
    assert windows == {first: [(10 * DAY - 3 * HOUR, 10 * DAY)], second: [(5 * DAY - HOUR, 6 * DAY)]}


def test_windows_take_events_of_their_agent_alone(make: Any, kit: Any) -> None:
    """And say how many; an event of both kinds counts as labelled."""
    columns = kit.columns(make.stream(4, 400))
    key, other = (int(one) for one in np.unique(columns.names[:, event_columns.AGENT])[:2])
    half = int(columns.time_ms[200])
    kept, counts = exclude_windows(columns, {key: [(0, half)]}, {key: [(0, half)], other: [(half, 10**15)]}, 3)

    mine, theirs = (
        columns.names[:, event_columns.AGENT] == np.uint64(key),
        columns.names[:, event_columns.AGENT] == np.uint64(other),
    )
    assert counts.labelled == int((mine & (columns.time_ms <= half)).sum()) > 0
    assert counts.suspicious == int((theirs & (columns.time_ms >= half)).sum()) > 0
    assert counts.malformed == 3
    assert len(kept) == len(columns) - counts.labelled - counts.suspicious
    assert exclude_windows(columns, {}, {}, 0)[0] is columns
