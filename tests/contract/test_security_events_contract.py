"""What every store promises of streams of security event tokens."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from sqlalchemy import text

from trustwatch.ingest.timestamps import DAY_MS
from trustwatch.scoring.records.commits import OutboxRow
from trustwatch.scoring.records.security_events import (
    POLL_METHOD,
    PUSH_METHOD,
    EventStream,
    SecurityEvent,
    StreamSubject,
)
from trustwatch.scoring.store import security_event_store
from trustwatch.scoring.store.migrate import migrate
from trustwatch.scoring.store.security_event_store import MAX_VERIFICATIONS, SignalStatement, signal_digest
from trustwatch.scoring.store.sql_store import SqlStore

from ..support.stream_figures import StreamFigures, stream_figures

NOW = 1_764_000_000_000
STREAM = EventStream("s1", "gateway", "aud", NOW, NOW, ("urn:a", "urn:b"), POLL_METHOD, "", "", "mine")
PUSHED = msgspec.structs.replace(STREAM, stream_id="p1", method=PUSH_METHOD, endpoint_url="https://rp.example/")


def event(jti: str, stream_id: str = "s1", **more: object) -> SecurityEvent:
    return SecurityEvent(stream_id, jti, b'{"jti": "' + jti.encode() + b'"}', NOW, 2**64 - 5, "acme", **more)


def stopped(stream: EventStream) -> SecurityEvent:
    return event(f"stopped-{stream.stream_id}", stream.stream_id, announces_status=True)


def derive(store: SqlStore, derived: dict[int, Sequence[SecurityEvent]], most: int = 100) -> int:
    return store.security_events.add_derived(derived, NOW + 1, most, stopped)[0]


def jtis(store: SqlStore, stream: EventStream = STREAM) -> list[str]:
    return [one.jti for one in store.security_events.waiting(stream, 100)]


@pytest.fixture
def seqs(store: SqlStore) -> list[int]:
    """Three rows of the outbox, and two streams."""
    store.outbox.enqueue([OutboxRow(f"alert-{number}", "alert", "", b"{}", NOW) for number in range(3)])
    assert all(store.security_events.add_stream(stream, 10) for stream in (STREAM, PUSHED))
    return [pending.seq for pending in store.security_events.list_underived(10)]


def test_streams_come_back_as_they_were_written(store: SqlStore, seqs: list[int]) -> None:
    """By owner; what a receiver changes, and nothing else of it."""
    streams = store.security_events
    assert streams.list_streams("gateway") == [PUSHED, STREAM]
    assert streams.list_streams("other") == []
    assert streams.find_stream("gateway", "s1") == STREAM
    assert streams.find_stream("other", "s1") is None
    assert not streams.add_stream(msgspec.structs.replace(STREAM, stream_id="s2"), 2)
    assert streams.add_stream(msgspec.structs.replace(STREAM, stream_id="s2", owner="other"), 2)

    changed = msgspec.structs.replace(STREAM, events_requested=(), description="", updated_ms=NOW + 1)
    assert streams.change_configuration(changed)
    assert streams.get_stream("s1") == changed
    assert not streams.change_configuration(msgspec.structs.replace(STREAM, stream_id="gone"))
    assert not streams.change_configuration(msgspec.structs.replace(changed, description="late"), NOW)
    assert streams.get_stream("s1") == changed
    assert not streams.delete_stream("other", "s1")
    assert streams.delete_stream("gateway", "s1")
    assert streams.get_stream("s1") is None


def test_a_row_is_derived_from_once(store: SqlStore, seqs: list[int]) -> None:
    """Whoever does it again, or at the same time, adds nothing: not even what was settled meanwhile."""
    both = {seqs[0]: [event("a"), event("a", "p1")], seqs[1]: [event("b"), event("b", "gone")]}
    assert derive(store, both) == 3
    assert [pending.seq for pending in store.security_events.list_underived(10)] == seqs[2:]
    assert store.security_events.settle("s1", ["a", "unknown"]) == 1
    assert derive(store, both) == 0

    assert jtis(store) == ["b"]
    assert jtis(store, PUSHED) == ["a"]
    assert store.security_events.waiting(STREAM, 1) == [event("b")]


def test_nothing_is_left_of_a_stream_that_is_deleted(store: SqlStore, seqs: list[int]) -> None:
    """Neither SETs nor subjects."""
    derive(store, {seqs[0]: [event("a")]})
    store.security_events.put_subject(STREAM, StreamSubject({"format": "opaque", "id": "x"}, True, NOW), 10)
    store.security_events.delete_stream("gateway", "s1")

    assert jtis(store) == []
    assert store.security_events.list_subjects(["s1"], []) == {}


def test_a_full_stream_is_disabled_and_says_so(store: SqlStore, seqs: list[int]) -> None:
    """What waits in it is dropped; other streams stay."""
    derived = {seqs[0]: [event(f"{number}") for number in range(4)] + [event("x", "p1")]}
    queued, full = store.security_events.add_derived(derived, NOW + 1, 3, stopped)
    found = store.security_events.get_stream("s1")

    assert queued == 5
    assert full == [found]
    assert found is not None
    assert (found.status, found.updated_ms) == ("disabled", NOW + 1)
    assert jtis(store, found) == ["stopped-s1"]
    assert jtis(store, PUSHED) == ["x"]
    assert derive(store, {seqs[1]: [event("later")]}) == 0


def test_statuses(store: SqlStore, seqs: list[int]) -> None:
    """Paused keeps, disabled does not."""
    derive(store, {seqs[0]: [event("a")]})
    streams = store.security_events
    assert streams.change_status("s1", "paused", "why", NOW + 2)
    paused = streams.get_stream("s1")
    assert paused is not None
    assert (paused.status_reason, jtis(store, paused)) == ("why", [])
    assert derive(store, {seqs[1]: [event("b")]}) == 1
    assert streams.change_status("s1", "enabled", "", NOW + 3)
    assert jtis(store) == ["a", "b"]
    assert streams.change_status("s1", "disabled", "", NOW + 4)
    assert jtis(store) == []
    assert not streams.change_status("gone", "enabled", "", NOW)


def test_pushes_are_put_off(store: SqlStore, seqs: list[int]) -> None:
    """Until they succeed; a receiver that changed its stream meanwhile is tried anew."""
    streams = store.security_events
    assert streams.list_push_due(NOW) == []
    derive(store, {seqs[0]: [event("a"), event("a", "p1")]})
    assert streams.list_push_due(NOW) == [PUSHED]
    assert streams.record_push_failure(PUSHED, NOW, NOW + 1000)
    assert streams.list_push_due(NOW + 999) == []
    (due,) = streams.list_push_due(NOW + 1000)
    assert (due.failures, due.failing_since_ms) == (1, NOW)

    assert streams.change_configuration(msgspec.structs.replace(due, updated_ms=NOW + 5))
    assert not streams.record_push_failure(due, NOW, NOW + 10**6)
    assert not streams.pause_failing(due, "late", NOW)
    (anew,) = streams.list_push_due(NOW)
    assert anew.failures == 0
    assert streams.pause_failing(anew, "dead", NOW + 6)
    assert streams.list_push_due(NOW + 10**9) == []


def test_what_was_said_of_a_subject_last(store: SqlStore, seqs: list[int]) -> None:
    """One row for a subject, however its members stand."""
    bot, other = {"format": "iss_sub", "iss": "i", "sub": "bot"}, {"format": "opaque", "id": "x"}
    turned = dict(reversed(bot.items()))
    streams = store.security_events
    assert streams.put_subject(STREAM, StreamSubject(bot, False, NOW), 2)
    assert streams.put_subject(STREAM, StreamSubject(other, True, NOW + 1), 2)
    assert streams.put_subject(STREAM, StreamSubject(turned, True, NOW + 2), 2)
    assert not streams.put_subject(STREAM, StreamSubject({"format": "opaque", "id": "y"}, True, NOW), 2)

    said = streams.list_subjects(["s1", "p1"], [other, turned])["s1"]
    assert [(one.subject, one.wanted) for one in said] == [(other, True), (bot, True)]


def test_words_of_one_millisecond_keep_their_order(store: SqlStore, seqs: list[int]) -> None:
    """The last word counts, whatever the clock says of it."""
    streams = store.security_events
    said = [{"format": "opaque", "id": f"x{number}"} for number in range(10)]
    for subject in said:
        assert streams.put_subject(STREAM, StreamSubject(subject, True, NOW), 100)

    assert [one.subject for one in streams.list_subjects(["s1"], said)["s1"]] == said


def test_of_many_subjects_few_are_read(store: SqlStore, seqs: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Simple ones where they are asked for; complex ones and aliases always, so those are bounded."""
    monkeypatch.setattr(security_event_store, "MAX_COMPOUND_SUBJECTS", 2)
    streams = store.security_events
    bots = [{"format": "opaque", "id": f"bot-{number}"} for number in range(20)]
    alias, whole, further = (
        {"format": "aliases", "identifiers": bots[:1]},
        {"format": "complex", "application": bots[0]},
        {"format": "complex", "application": bots[1]},
    )
    for subject in (*bots, alias, whole):
        assert streams.put_subject(STREAM, StreamSubject(subject, True, NOW), 100)
    assert not streams.put_subject(STREAM, StreamSubject(further, True, NOW), 100)
    assert streams.put_subject(STREAM, StreamSubject(whole, False, NOW), 100)

    said = streams.list_subjects(["s1"], [bots[7], {"format": "opaque", "id": "nobody"}])["s1"]
    assert [one.subject for one in said] == [bots[7], alias, whole]


def test_a_known_subject_can_be_changed_where_no_other_fits(
    store: SqlStore, seqs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store from before may hold more than a stream may name now: what is there can be taken back."""
    streams = store.security_events
    bots = [{"format": "opaque", "id": f"bot-{number}"} for number in range(3)]
    complexes = [{"format": "complex", "application": bot} for bot in bots]
    for subject in (*bots, *complexes):
        assert streams.put_subject(STREAM, StreamSubject(subject, True, NOW), 100)
    monkeypatch.setattr(security_event_store, "MAX_COMPOUND_SUBJECTS", 1)
    assert not streams.put_subject(STREAM, StreamSubject({"format": "aliases", "identifiers": bots}, True, NOW), 100)
    assert not streams.put_subject(STREAM, StreamSubject({"format": "opaque", "id": "new"}, True, NOW), 2)
    for subject in (bots[0], complexes[0]):
        assert streams.put_subject(STREAM, StreamSubject(subject, False, NOW), 2)

    said = streams.list_subjects(["s1"], bots)["s1"]
    assert [one.subject for one in said if not one.wanted] == [bots[0], complexes[0]]
    assert len(said) == 6


def test_subjects_of_a_store_from_before_are_found(store: SqlStore, seqs: list[int]) -> None:
    """Builds before 0017 did not know which subjects are compound: all of theirs are read for each change."""
    subjects = [{"format": "opaque", "id": "bot"}, {"format": "aliases", "identifiers": [{"format": "opaque"}]}]
    for subject in subjects:
        assert store.security_events.put_subject(STREAM, StreamSubject(subject, True, NOW), 100)
    engine = store.database.writing_engine
    with engine.begin() as connection:
        connection.execute(text("DROP INDEX ix_stream_subjects_compound"))
        connection.execute(text("ALTER TABLE stream_subjects DROP COLUMN compound"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0016'"))

    migrate(engine)

    found = store.security_events.list_subjects(["s1"], [])["s1"]
    assert sorted(one.subject["format"] for one in found) == ["aliases", "opaque"]
    assert store.security_events.put_subject(STREAM, StreamSubject(subjects[0], False, NOW), 100)
    assert not store.security_events.list_subjects(["s1"], subjects[:1])["s1"][-1].wanted


def test_verifications_are_of_a_stream(store: SqlStore, seqs: list[int]) -> None:
    """One is refused for a stream that is gone."""
    streams = store.security_events
    first = msgspec.structs.replace(event("v1"), agent_key=0, tenant="")
    assert streams.add_verification(first, 100)
    assert streams.add_verification(msgspec.structs.replace(first, jti="v2"), 100)
    assert not streams.add_verification(msgspec.structs.replace(first, stream_id="gone"), 100)
    assert jtis(store) == ["v1", "v2"]
    assert stream_figures(streams) == StreamFigures({"enabled": 2}, 2, NOW)


def test_verifications_are_bounded(store: SqlStore, seqs: list[int]) -> None:
    """By a handful of their own, and by all that waits; what is taken makes room."""
    streams = store.security_events

    def asked(number: int, most: int = 100) -> bool:
        return streams.add_verification(
            msgspec.structs.replace(event(f"v{number}"), agent_key=0, tenant="", queued_ms=NOW + number), most
        )

    assert [asked(number) for number in range(MAX_VERIFICATIONS + 2)] == [True] * MAX_VERIFICATIONS + [False] * 2
    assert streams.settle("s1", ["v0"]) == 1
    assert not asked(90, MAX_VERIFICATIONS - 1)
    assert derive(store, {seqs[0]: [event("a")]}) == 1
    assert asked(91)
    assert not asked(92)


def test_one_process_transmits(store: SqlStore) -> None:
    """The other one of a shared database takes over when it ends; a file has one service."""
    first = store.database.acquire_leader_lock("transmitter")
    assert first is not None
    first.ensure_held()
    shared = store.database.engine.dialect.name == "postgresql"
    assert (store.database.acquire_leader_lock("transmitter") is None) == shared
    first.release()
    taken = store.database.acquire_leader_lock("transmitter")
    assert taken is not None
    taken.release()


def test_received_signals_are_remembered(store: SqlStore) -> None:
    """By transmitter; what is written twice stays as it was; what is old is forgotten."""
    taken, now = store.received_signals, NOW
    first, second, third, fourth = (signal_digest(jti) for jti in ("j1", "j2", "j3", "j4"))
    taken.add("idp", [first, second], now)
    taken.add("idp", [first, third], now + 10)
    taken.add("other", [first], now + 10)
    taken.add("idp", [], now)

    asked = [first, third, fourth]
    assert taken.find_taken("idp", asked) == {first, third}
    assert taken.find_taken("nobody", asked) == taken.find_taken("idp", []) == set()
    assert taken.count_taken() == {"idp": 3, "other": 1}

    assert taken.forget(now + 10, now) == 2
    assert taken.find_taken("idp", asked) == {third}
    assert taken.count_taken() == {"idp": 1, "other": 1}


def test_what_is_said_again_within_a_day_does_not_count(store: SqlStore) -> None:
    """The first of those that say it, also when it is claimed for again; a day later another one; by transmitter."""
    claim = store.received_signals.claim
    assert claim("idp", [SignalStatement("j2", "s"), SignalStatement("j1", "s"), SignalStatement("j3", "r")], NOW) == {
        "j2",
        "j3",
    }
    assert claim("idp", [SignalStatement("j2", "s"), SignalStatement("j4", "r")], NOW + DAY_MS - 1) == {"j2"}
    assert claim("other", [SignalStatement("j1", "s")], NOW) == {"j1"}
    assert claim("idp", [SignalStatement("j5", "s")], NOW + DAY_MS) == {"j5"}
    assert claim("idp", [SignalStatement("j2", "s")], NOW + DAY_MS) == set()
    store.received_signals.forget(NOW, NOW + 1)
    assert claim("idp", [SignalStatement("j6", "r"), SignalStatement("j7", "s")], NOW + DAY_MS) == {"j6"}


def test_of_those_that_say_it_at_the_same_time_one_counts(store: SqlStore) -> None:
    """Whatever processes they come to, and in whatever order they say several things."""
    said = [f"s{number}" for number in range(10)]
    barrier = threading.Barrier(4)

    def push(number: int) -> set[str]:
        order = said if number % 2 else said[::-1]
        barrier.wait(10.0)
        return store.received_signals.claim("idp", [SignalStatement(f"{number}-{one}", one) for one in order], NOW)

    with ThreadPoolExecutor(4) as pool:
        counting = [digest for digests in pool.map(push, range(4)) for digest in digests]
    assert sorted(digest.partition("-")[2] for digest in counting) == sorted(said)
