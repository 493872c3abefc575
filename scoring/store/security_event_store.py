"""Streams of security event tokens (SETs): what receivers asked for, and what waits for them.

SETs are derived from rows of the outbox. The mark on the row and the SETs are one transaction, so each change is told
once, wherever the process dies. A SET goes when its receiver has it; its content is not kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from sqlalchemy import Connection, case, delete, exists, func, insert, or_, select, update

from ..records.commits import OutboxRow
from ..records.security_events import PUSH_METHOD, EventStream, SecurityEvent, StreamStatus, StreamSubject
from .codec import RowCodec, to_outbox
from .database import Database
from .dialects.statements import insert_or_skip, upsert
from .sql_schema import EVENT_STREAMS, OUTBOX, SECURITY_EVENTS, STREAM_SUBJECTS

if TYPE_CHECKING:
    from .codec import AnyRow

_INSERT_EVENT = insert_or_skip(SECURITY_EVENTS, "stream_id", "jti")
_UPSERT_SUBJECT = upsert(STREAM_SUBJECTS, ("stream_id", "digest"))
_STREAM_ROWS = RowCodec(EventStream, EVENT_STREAMS)
_EVENT_ROWS = RowCodec(SecurityEvent, SECURITY_EVENTS)
_subject_decoder = msgspec.json.Decoder(dict[str, Any])


class PendingOutboxRow(NamedTuple):
    """A row of the outbox that no SETs were derived from yet."""

    seq: int
    row: OutboxRow


MAX_VERIFICATIONS = 10
"""Verifications that wait in one stream: one would do, and none of them says anything."""
MAX_COMPOUND_SUBJECTS = 1_000
"""Subjects of one stream that are complex or aliases: those are read for each change, whoever it is about."""
_COMPOUND_FORMATS = ("complex", "aliases")
AnnounceStop = Callable[[EventStream], SecurityEvent]
"""The SET that tells a receiver that its stream is stopped, as it is now."""


class SecurityEventStore:
    """Streams, their subjects, and the SETs that wait in them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_stream(self, stream: EventStream, most: int) -> bool:
        """Write a new stream; False = its owner has *most* already, and nothing is written."""
        mine = select(func.count()).select_from(EVENT_STREAMS).where(EVENT_STREAMS.c.owner == stream.owner)
        with self._database.write() as connection:
            if connection.execute(mine).scalar_one() >= most:
                return False
            connection.execute(insert(EVENT_STREAMS), _STREAM_ROWS.params(stream))
        return True

    def find_stream(self, owner: str, stream_id: str) -> EventStream | None:
        """The stream of *owner* with that id; None = it has none."""
        query = select(EVENT_STREAMS).where(EVENT_STREAMS.c.owner == owner, EVENT_STREAMS.c.stream_id == stream_id)
        return self._database.fetch_one(query, _STREAM_ROWS.read)

    def get_stream(self, stream_id: str) -> EventStream | None:
        """A stream of any owner; None = it was deleted."""
        query = select(EVENT_STREAMS).where(EVENT_STREAMS.c.stream_id == stream_id)
        return self._database.fetch_one(query, _STREAM_ROWS.read)

    def list_streams(self, owner: str) -> list[EventStream]:
        """All streams of *owner*, oldest first."""
        query = select(EVENT_STREAMS).where(EVENT_STREAMS.c.owner == owner)
        ordered = query.order_by(EVENT_STREAMS.c.created_ms, EVENT_STREAMS.c.stream_id)
        return self._database.fetch_all(ordered, _STREAM_ROWS.read)

    def list_all_streams(self) -> list[EventStream]:
        """Every stream of the deployment."""
        return self._database.fetch_all(select(EVENT_STREAMS), _STREAM_ROWS.read)

    def change_configuration(self, stream: EventStream, unchanged_since: int | None = None) -> bool:
        """Overwrite what a receiver may say of its stream; False = the stream was deleted, or changed meanwhile."""
        names = ("events_requested", "method", "endpoint_url", "authorization", "description", "updated_ms")
        parameters = _STREAM_ROWS.params(stream)
        values = {name: parameters[name] for name in names} | _NOT_FAILING
        return self._update_stream(stream.stream_id, values, unchanged_since)

    def change_status(self, stream_id: str, status: StreamStatus, reason: str, at_ms: int) -> bool:
        """Write what a receiver says of the status; a disabled stream keeps nothing. False = the stream was deleted."""
        with self._database.write() as connection:
            said: dict[str, Any] = {"status": status, "status_reason": reason, "updated_ms": at_ms}
            values = said | _NOT_FAILING
            mine = EVENT_STREAMS.c.stream_id == stream_id
            was_changed = connection.execute(update(EVENT_STREAMS).where(mine).values(values)).rowcount > 0
            if status == "disabled":
                connection.execute(delete(SECURITY_EVENTS).where(SECURITY_EVENTS.c.stream_id == stream_id))
        return was_changed

    def delete_stream(self, owner: str, stream_id: str) -> bool:
        """Remove a stream with all that waits in it; False = *owner* has none of that id."""
        mine = (EVENT_STREAMS.c.owner == owner, EVENT_STREAMS.c.stream_id == stream_id)
        with self._database.write() as connection:
            return connection.execute(delete(EVENT_STREAMS).where(*mine)).rowcount > 0

    def put_subject(self, stream: EventStream, said: StreamSubject, most: int) -> bool:
        """Write what a receiver says of a subject, as its last word; a new word on a known subject always fits."""
        row = _subject_params(stream, said)
        mine = STREAM_SUBJECTS.c.stream_id == stream.stream_id, STREAM_SUBJECTS.c.digest == row["digest"]
        others = STREAM_SUBJECTS.c.stream_id == stream.stream_id, STREAM_SUBJECTS.c.digest != row["digest"]
        compounds = func.coalesce(func.sum(STREAM_SUBJECTS.c.compound), 0)
        last_ms = func.coalesce(func.max(STREAM_SUBJECTS.c.changed_ms), 0)
        with self._database.write() as connection:
            count, compound, said_ms = connection.execute(select(func.count(), compounds, last_ms).where(*others)).one()
            is_full = count >= most or (row["compound"] and compound >= MAX_COMPOUND_SUBJECTS)
            if is_full and connection.execute(select(STREAM_SUBJECTS.c.digest).where(*mine)).first() is None:
                return False
            row["changed_ms"] = max(said.changed_ms, said_ms + 1)  # of two words in one millisecond one is the last
            _UPSERT_SUBJECT.execute(connection, row)
        return True

    def list_subjects(
        self, stream_ids: Collection[str], identifiers: Sequence[Mapping[str, Any]]
    ) -> dict[str, list[StreamSubject]]:
        """Statements of receivers about subjects that may mean one of *identifiers*, by stream; the last word last.

        A receiver may name as many as it likes: of simple ones those are read that are the same, and no others.
        """
        mine = STREAM_SUBJECTS.c.stream_id.in_(sorted(stream_ids))
        same = STREAM_SUBJECTS.c.digest.in_(sorted({_subject_digest(_encode(part)) for part in identifiers}))
        simple = select(STREAM_SUBJECTS).where(mine, same, STREAM_SUBJECTS.c.compound == 0)
        compound = select(STREAM_SUBJECTS).where(mine, STREAM_SUBJECTS.c.compound == 1)
        subjects: dict[str, list[StreamSubject]] = {}
        with self._database.read() as connection:
            rows = [*connection.execute(simple), *connection.execute(compound)]
        for row in sorted(rows, key=lambda row: (row.changed_ms, row.digest)):
            said = StreamSubject(_subject_decoder.decode(row.subject), bool(row.wanted), row.changed_ms)
            subjects.setdefault(row.stream_id, []).append(said)
        return subjects

    def add_verification(self, event: SecurityEvent, most: int) -> bool:
        """Queue the SET that a receiver asked for; False: too much waits, or the stream was deleted."""
        mine = EVENT_STREAMS.c.stream_id == event.stream_id
        about_stream = case((SECURITY_EVENTS.c.tenant == "", 1), else_=0)
        waiting = select(func.count(), func.coalesce(func.sum(about_stream), 0)).where(
            SECURITY_EVENTS.c.stream_id == event.stream_id
        )
        with self._database.write() as connection:
            count, verifications = connection.execute(waiting).one()
            if count >= most or verifications >= MAX_VERIFICATIONS:
                return False
            asked = update(EVENT_STREAMS).where(mine).values(verified_ms=event.queued_ms)
            if connection.execute(asked).rowcount == 0:
                return False
            _insert_events(connection, [event])
        return True

    def list_underived(self, limit: int) -> list[PendingOutboxRow]:
        """Rows of the outbox, of every kind, that were not processed yet, oldest first."""
        query = select(OUTBOX).where(OUTBOX.c.derived_ms == 0).order_by(OUTBOX.c.seq)
        return self._database.fetch_all(query.limit(limit), lambda row: PendingOutboxRow(row.seq, to_outbox(row)))

    def add_derived(
        self, derived: Mapping[int, Sequence[SecurityEvent]], at_ms: int, most: int, announce: AnnounceStop
    ) -> tuple[int, list[EventStream]]:
        """Queue what was derived from rows of the outbox, by their number, and mark them, in one transaction.

        What another process derived meanwhile, and SETs for streams that are gone or disabled, are left out. A stream
        in which more than *most* wait is disabled: what waits is dropped, and *announce* makes what says so.
        """
        with self._database.write() as connection:
            if not self._database.dialect.try_transaction_lock(connection, "derive"):
                return 0, []
            chosen = OUTBOX.c.seq.in_(list(derived)), OUTBOX.c.derived_ms == 0
            seqs = sorted(connection.scalars(select(OUTBOX.c.seq).where(*chosen)))
            connection.execute(update(OUTBOX).where(OUTBOX.c.seq.in_(seqs)).values(derived_ms=at_ms))
            open_streams = set(
                connection.scalars(select(EVENT_STREAMS.c.stream_id).where(EVENT_STREAMS.c.status != "disabled"))
            )
            events = [event for seq in seqs for event in derived[seq] if event.stream_id in open_streams]
            _insert_events(connection, events)
            full = _full_streams(connection, {event.stream_id for event in events}, most)
            return len(events), [_disable_full(connection, row, at_ms, most, announce) for row in full]

    def waiting(self, stream: EventStream, limit: int) -> list[SecurityEvent]:
        """SETs that may leave, oldest first: all of an enabled stream; of others what tells that they were stopped."""
        query = select(SECURITY_EVENTS).where(SECURITY_EVENTS.c.stream_id == stream.stream_id)
        if stream.status != "enabled":
            query = query.where(SECURITY_EVENTS.c.announces_status == 1)
        return self._database.fetch_all(query.order_by(SECURITY_EVENTS.c.seq).limit(limit), _EVENT_ROWS.read)

    def settle(self, stream_id: str, jtis: Collection[str]) -> int:
        """Remove SETs that their receiver has, or will never take; returns how many of them were there."""
        mine = SECURITY_EVENTS.c.stream_id == stream_id, SECURITY_EVENTS.c.jti.in_(sorted(jtis))
        if not jtis:
            return 0
        with self._database.write() as connection:
            return connection.execute(delete(SECURITY_EVENTS).where(*mine)).rowcount

    def list_push_due(self, now_ms: int) -> list[EventStream]:
        """Streams to which something is to be pushed now."""
        may_leave = or_(EVENT_STREAMS.c.status == "enabled", SECURITY_EVENTS.c.announces_status == 1)
        something = exists().where(SECURITY_EVENTS.c.stream_id == EVENT_STREAMS.c.stream_id, may_leave)
        due = (
            EVENT_STREAMS.c.method == PUSH_METHOD,
            EVENT_STREAMS.c.next_push_ms <= now_ms,
            something,
        )
        return self._database.fetch_all(select(EVENT_STREAMS).where(*due), _STREAM_ROWS.read)

    def record_push_failure(self, stream: EventStream, at_ms: int, next_ms: int) -> bool:
        """Count a failed push and write when to try again; False = the receiver changed its stream meanwhile."""
        values = {
            "failures": stream.failures + 1,
            "failing_since_ms": stream.failing_since_ms or at_ms,
            "next_push_ms": next_ms,
        }
        return self._update_stream(stream.stream_id, values, unchanged_since=stream.updated_ms)

    def record_push_success(self, stream_id: str) -> None:
        """Write that the receiver answers again."""
        self._update_stream(stream_id, _NOT_FAILING)

    def pause_failing(self, stream: EventStream, reason: str, at_ms: int) -> bool:
        """Pauses a stream that is not received; False = the receiver changed it meanwhile, and nothing is written."""
        values = {"status": "paused", "status_reason": reason, "updated_ms": at_ms}
        return self._update_stream(stream.stream_id, values, unchanged_since=stream.updated_ms)

    def _update_stream(self, stream_id: str, values: Mapping[str, Any], unchanged_since: int | None = None) -> bool:
        conditions = [EVENT_STREAMS.c.stream_id == stream_id]
        if unchanged_since is not None:
            conditions.append(EVENT_STREAMS.c.updated_ms == unchanged_since)
        with self._database.write() as connection:
            return connection.execute(update(EVENT_STREAMS).where(*conditions).values(values)).rowcount > 0


_NOT_FAILING: dict[str, Any] = {"failures": 0, "failing_since_ms": 0, "next_push_ms": 0}


def _insert_events(connection: Connection, events: Sequence[SecurityEvent]) -> None:
    _INSERT_EVENT.execute(connection, list(map(_EVENT_ROWS.params, events)))


def _full_streams(connection: Connection, stream_ids: Collection[str], most: int) -> Sequence[AnyRow]:
    count = (
        select(SECURITY_EVENTS.c.stream_id)
        .where(SECURITY_EVENTS.c.stream_id.in_(sorted(stream_ids)))
        .group_by(SECURITY_EVENTS.c.stream_id)
        .having(func.count() > most)
    )
    return connection.execute(select(EVENT_STREAMS).where(EVENT_STREAMS.c.stream_id.in_(count))).all()


def _disable_full(connection: Connection, row: AnyRow, at_ms: int, most: int, announce: AnnounceStop) -> EventStream:
    """Disable a stream whose receiver is far behind; it is notified why, and nothing else is left in the queue."""
    reason = f"more than {most} SETs waited for the receiver; they were dropped"
    values = {"status": "disabled", "status_reason": reason, "updated_ms": at_ms}
    connection.execute(update(EVENT_STREAMS).where(EVENT_STREAMS.c.stream_id == row.stream_id).values(values))
    connection.execute(delete(SECURITY_EVENTS).where(SECURITY_EVENTS.c.stream_id == row.stream_id))
    stream = msgspec.structs.replace(_STREAM_ROWS.read(row), status="disabled", status_reason=reason, updated_ms=at_ms)
    _insert_events(connection, [announce(stream)])
    return stream


def _subject_params(stream: EventStream, said: StreamSubject) -> dict[str, Any]:
    encoded = _encode(said.subject)
    return {
        "stream_id": stream.stream_id,
        "digest": _subject_digest(encoded),
        "owner": stream.owner,
        "wanted": int(said.wanted),
        "changed_ms": said.changed_ms,
        "subject": encoded,
        "compound": int(said.subject["format"] in _COMPOUND_FORMATS),
    }


def _encode(subject: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(subject, order="deterministic")


def _subject_digest(encoded: bytes) -> str:
    return hashlib.sha256(encoded).hexdigest()
