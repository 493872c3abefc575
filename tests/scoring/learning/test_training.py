"""What a new version learns from: the newest events, without attacks and without what looked like one."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import numpy as np

from tests.support import stored_rows
from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.scoring.learning import training
from trustwatch.scoring.learning.training import ENCODE_CHUNK, TrainingHistory, exclude_windows, suspicious_windows
from trustwatch.scoring.records.agents import AgentName
from trustwatch.scoring.records.decisions import Decision

HOUR, DAY = 3_600_000, 86_400_000


def decision(number: int, key: int, at_ms: int, level: int) -> Decision:
    """A change of level."""
    name = AgentName(key, "acme", "https://as.example", str(key))
    of_agent = stored_rows.decision(number, name)
    return msgspec.structs.replace(of_agent, decided_ms=at_ms, event_time_ms=at_ms, level=level)


def test_peer_groups_are_those_that_live_has(make: Any, kit: Any) -> None:
    """Of agents that change type and go back; events without one, and self-asserted ones, move none."""
    dice, events = random.Random(3), make.stream(4, ENCODE_CHUNK + 300)
    for event in events:
        kind = dice.choice(["Clerk", "Teller", None, None])
        event["agent"] = {"id": event["agent"]["id"], "self_asserted": dice.random() < 0.1}
        event["agent"] |= {"type": kind} if kind else {}
    history = TrainingHistory(ColumnEncoder(make.SALT), 10**6)
    for event in events:
        history.add(json.dumps(event).encode())
    found = history.columns()

    (batch,) = kit.batches(kit.records(events), iter([len(events)]))
    live = [scored.columns for scored, _ in kit.processor(capacity=100).apply(batch).scored]
    assert found is not None
    groups = [columns.names[:, [event_columns.AGENT, event_columns.GROUP]] for columns in live]
    assert np.array_equal(found.names[:, [event_columns.AGENT, event_columns.GROUP]], np.concatenate(groups))
    assert not np.array_equal(found.names, kit.columns(events).names)


def told(events: list[dict[str, Any]]) -> list[bytes]:
    """The events, each with two arguments of its own."""
    hashes = [[{"name": "x", "origin": "prompt", "hash": f"{at:08x}{k}"} for k in (0, 1)] for at in range(len(events))]
    return [json.dumps({**event, "arguments": two}).encode() for event, two in zip(events, hashes, strict=True)]


def test_arguments_are_bounded_too(make: Any, monkeypatch: Any) -> None:
    """Of events with very many, fewer are kept."""
    monkeypatch.setattr(training, "MAX_ARGUMENTS_PER_EVENT", 1)
    history = TrainingHistory(ColumnEncoder(make.SALT), 2 * ENCODE_CHUNK)
    for event in told(make.stream(4, 3 * ENCODE_CHUNK)):
        history.add(event)
    found = history.columns()

    assert found is not None and len(found) == ENCODE_CHUNK


def test_the_newest_are_kept(make: Any, kit: Any) -> None:
    events = make.stream(4, 3 * ENCODE_CHUNK)
    history = TrainingHistory(ColumnEncoder(make.SALT), ENCODE_CHUNK + 7)
    for event in events:
        history.add(json.dumps(event).encode())
    found = history.columns()

    assert found is not None
    assert np.array_equal(found.time_ms, kit.columns(events).time_ms[-ENCODE_CHUNK - 7 :])
    assert TrainingHistory(ColumnEncoder(make.SALT), 10).columns() is None


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
