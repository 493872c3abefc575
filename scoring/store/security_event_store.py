"""Shared signals: streams of security event tokens (SETs) to receivers, and the SETs that other transmitters sent.

SETs are derived from rows of the outbox. One transaction marks the row and queues its SETs, so each change is sent
once, wherever the process stops. A SET is deleted when its receiver has it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, case, delete, exists, func, insert, or_, select, update

from trustwatch.ingest.timestamps import DAY_MS

from ..records.commits import OutboxRow
from ..records.security_events import PUSH_METHOD, EventStream, SecurityEvent, StreamStatus, StreamSubject
from .codec import RowCodec, to_outbox
from .database import TableStore
from .dialects.statements import insert_or_skip, insert_or_succeed, upsert
from .sql_schema import EVENT_STREAMS, OUTBOX, RECEIVED_SIGNALS, SECURITY_EVENTS, SIGNAL_STATEMENTS, STREAM_SUBJECTS

_INSERT_EVENT = insert_or_skip(SECURITY_EVENTS, "stream_id", "jti")
_UPSERT_SUBJECT = upsert(STREAM_SUBJECTS, ("stream_id", "digest"))
_INSERT_SIGNAL = insert_or_skip(RECEIVED_SIGNALS, "transmitter", "digest")
_CLAIM_STATEMENT = insert_or_succeed(SIGNAL_STATEMENTS, ("transmitter", "statement"), "said_ms", DAY_MS)
_STREAM_ROWS = RowCodec(EventStream, EVENT_STREAMS)
_EVENT_ROWS = RowCodec(SecurityEvent, SECURITY_EVENTS)
_subject_decoder = msgspec.json.Decoder(dict[str, Any])
_NOT_FAILING: dict[str, Any] = {"failures": 0, "failing_since_ms": 0, "next_push_ms": 0}
_COMPOUND_FORMATS = ("complex", "aliases")

MAX_VERIFICATIONS = 10
"""Verifications that may wait in one stream: one is enough, and none of them carries a change."""
MAX_COMPOUND_SUBJECTS = 1_000
"""Complex subjects and aliases that one stream may have: they are read for each change, whatever its subject."""
AnnounceStop = Callable[[EventStream], SecurityEvent]
"""Makes the SET that notifies a receiver that its stream has stopped."""


class PendingOutboxRow(NamedTuple):
    """A row of the outbox from which no SETs were derived yet."""

    seq: int
    row: OutboxRow


class SignalStatement(NamedTuple):
    """A statement of a received SET about a subject, as evidence.

    Attributes:
        digest: of the SET's `jti`, see `signal_digest`.
        statement: digest of its statement and subject.
    """

    digest: str
    statement: str


def signal_digest(*parts: str) -> str:
    """Return the digest of texts, for the columns of the tables."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


class SecurityEventStore(TableStore):
    """Reads and writes streams, their subjects, and the SETs that wait in them."""

    def add_stream(self, stream: EventStream, most: int) -> bool:
        """Write a new stream; return False and write nothing if its owner already has *most*."""
        mine = select(func.count()).select_from(EVENT_STREAMS).where(EVENT_STREAMS.c.owner == stream.owner)
        with self._database.write() as connection:
            if connection.execute(mine).scalar_one() >= most:
                return False
            connection.execute(insert(EVENT_STREAMS), _STREAM_ROWS.params(stream))
        return True

    def find_stream(self, owner: str, stream_id: str) -> EventStream | None:
        """Return the stream of *owner* with that id."""
        mine = (EVENT_STREAMS.c.owner == owner, EVENT_STREAMS.c.stream_id == stream_id)
        return self._database.get(_STREAM_ROWS, *mine)

    def get_stream(self, stream_id: str) -> EventStream | None:
        """Return a stream of any owner."""
        return self._database.get(_STREAM_ROWS, EVENT_STREAMS.c.stream_id == stream_id)

    def list_streams(self, owner: str) -> list[EventStream]:
        """List the streams of *owner*, oldest first."""
        order = (EVENT_STREAMS.c.created_ms, EVENT_STREAMS.c.stream_id)
        return self._database.find(_STREAM_ROWS, EVENT_STREAMS.c.owner == owner, order=order)

    def list_all_streams(self) -> list[EventStream]:
        """List every stream of the deployment."""
        return self._database.find(_STREAM_ROWS)

    def change_configuration(self, stream: EventStream, unchanged_since: int | None = None) -> bool:
        """Overwrite what a receiver configures; return False if the stream was deleted or changed meanwhile."""
        names = ("events_requested", "method", "endpoint_url", "authorization", "description", "updated_ms")
        parameters = _STREAM_ROWS.params(stream)
        values = {name: parameters[name] for name in names} | _NOT_FAILING
        return self._update_stream(stream.stream_id, values, unchanged_since)

    def change_status(self, stream_id: str, status: StreamStatus, reason: str, at_ms: int) -> bool:
        """Write the status that a receiver sets; return False if the stream was deleted. A disabled stream keeps no
        SETs."""
        values = {"status": status, "status_reason": reason, "updated_ms": at_ms, **_NOT_FAILING}
        with self._database.write() as connection:
            mine = EVENT_STREAMS.c.stream_id == stream_id
            was_changed = connection.execute(update(EVENT_STREAMS).where(mine).values(values)).rowcount > 0
            if status == "disabled":
                connection.execute(delete(SECURITY_EVENTS).where(SECURITY_EVENTS.c.stream_id == stream_id))
        return was_changed

    def delete_stream(self, owner: str, stream_id: str) -> bool:
        """Delete a stream and everything that waits in it; return False if *owner* has no stream with that id."""
        mine = (EVENT_STREAMS.c.owner == owner, EVENT_STREAMS.c.stream_id == stream_id)
        return self._database.change(delete(EVENT_STREAMS).where(*mine)) > 0

    def put_subject(self, stream: EventStream, said: StreamSubject, most: int) -> bool:
        """Write whether a receiver wants SETs about a subject; return False if it has too many. A known subject can
        always change."""
        encoded = _encode(said.subject)
        digest, is_compound = _subject_digest(encoded), said.subject["format"] in _COMPOUND_FORMATS
        mine = STREAM_SUBJECTS.c.stream_id == stream.stream_id, STREAM_SUBJECTS.c.digest == digest
        others = STREAM_SUBJECTS.c.stream_id == stream.stream_id, STREAM_SUBJECTS.c.digest != digest
        compounds = func.coalesce(func.sum(STREAM_SUBJECTS.c.compound), 0)
        last_ms = func.coalesce(func.max(STREAM_SUBJECTS.c.changed_ms), 0)
        with self._database.write() as connection:
            count, compound, said_ms = connection.execute(select(func.count(), compounds, last_ms).where(*others)).one()
            is_full = count >= most or (is_compound and compound >= MAX_COMPOUND_SUBJECTS)
            if is_full and connection.execute(select(STREAM_SUBJECTS.c.digest).where(*mine)).first() is None:
                return False
            row = {
                "stream_id": stream.stream_id,
                "digest": digest,
                "owner": stream.owner,
                "wanted": int(said.wanted),
                "changed_ms": max(said.changed_ms, said_ms + 1),  # of two changes in one millisecond one is the last
                "subject": encoded,
                "compound": int(is_compound),
            }
            _UPSERT_SUBJECT.execute(connection, row)
        return True

    def list_subjects(
        self, stream_ids: Collection[str], identifiers: Sequence[Mapping[str, Any]]
    ) -> dict[str, list[StreamSubject]]:
        """List the subjects that may match one of *identifiers*, by stream, in the order of their last change.

        A receiver may name any number of subjects. Only those simple subjects that are equal are read.
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
        """Queue the SET that a receiver requested; return False if too many wait, or the stream was deleted."""
        mine = EVENT_STREAMS.c.stream_id == event.stream_id
        about_stream = case((SECURITY_EVENTS.c.tenant == "", 1), else_=0)
        waiting = select(func.count(), func.coalesce(func.sum(about_stream), 0)).where(
            SECURITY_EVENTS.c.stream_id == event.stream_id
        )
        with self._database.write() as connection:
            count, verifications = connection.execute(waiting).one()
            if count >= most or verifications >= MAX_VERIFICATIONS:
                return False
            verified = update(EVENT_STREAMS).where(mine).values(verified_ms=event.queued_ms)
            if connection.execute(verified).rowcount == 0:
                return False
            _insert_events(connection, [event])
        return True

    def list_underived(self, limit: int) -> list[PendingOutboxRow]:
        """List outbox rows of every kind that were not processed yet, oldest first."""
        query = select(OUTBOX).where(OUTBOX.c.derived_ms == 0).order_by(OUTBOX.c.seq)
        return self._database.fetch_all(query.limit(limit), lambda row: PendingOutboxRow(row.seq, to_outbox(row)))

    def add_derived(
        self, derived: Mapping[int, Sequence[SecurityEvent]], at_ms: int, most: int, announce: AnnounceStop
    ) -> tuple[int, list[EventStream]]:
        """Queue SETs derived from outbox rows, by row number, and mark the rows, in one transaction.

        Skips what another process derived meanwhile, and SETs for streams that are deleted or disabled. A stream in
        which more than *most* wait is disabled: what waits is dropped, and *announce* makes the SET that notifies its
        receiver. Returns the number of queued SETs and the streams that were disabled.
        """
        with self._database.write() as connection:
            if not self._database.dialect.try_transaction_lock(connection, "derive"):
                return 0, []
            chosen = OUTBOX.c.seq.in_(list(derived)), OUTBOX.c.derived_ms == 0
            seqs = sorted(connection.scalars(select(OUTBOX.c.seq).where(*chosen)))
            connection.execute(update(OUTBOX).where(OUTBOX.c.seq.in_(seqs)).values(derived_ms=at_ms))
            enabled = select(EVENT_STREAMS.c.stream_id).where(EVENT_STREAMS.c.status != "disabled")
            open_streams = set(connection.scalars(enabled))
            events = [event for seq in seqs for event in derived[seq] if event.stream_id in open_streams]
            _insert_events(connection, events)
            waiting = select(SECURITY_EVENTS.c.stream_id).group_by(SECURITY_EVENTS.c.stream_id)
            changed = waiting.where(SECURITY_EVENTS.c.stream_id.in_(sorted({event.stream_id for event in events})))
            is_full = EVENT_STREAMS.c.stream_id.in_(changed.having(func.count() > most))
            full = map(_STREAM_ROWS.read, connection.execute(_STREAM_ROWS.select(None, is_full)).all())
            return len(events), [_disable_full(connection, stream, at_ms, most, announce) for stream in full]

    def waiting(self, stream: EventStream, limit: int) -> list[SecurityEvent]:
        """List SETs that may be sent, oldest first: all of an enabled stream, otherwise only the notice that it
        stopped."""
        query = _EVENT_ROWS.select(None, SECURITY_EVENTS.c.stream_id == stream.stream_id)
        if stream.status != "enabled":
            query = query.where(SECURITY_EVENTS.c.announces_status == 1)
        return self._database.fetch_all(query.order_by(SECURITY_EVENTS.c.seq).limit(limit), _EVENT_ROWS.read)

    def settle(self, stream_id: str, jtis: Collection[str]) -> int:
        """Delete SETs that their receiver has, or will never accept; return how many there were."""
        if not jtis:
            return 0
        mine = SECURITY_EVENTS.c.stream_id == stream_id, SECURITY_EVENTS.c.jti.in_(sorted(jtis))
        return self._database.change(delete(SECURITY_EVENTS).where(*mine))

    def list_push_due(self, now_ms: int) -> list[EventStream]:
        """List the streams with a push due now."""
        may_leave = or_(EVENT_STREAMS.c.status == "enabled", SECURITY_EVENTS.c.announces_status == 1)
        something = exists().where(SECURITY_EVENTS.c.stream_id == EVENT_STREAMS.c.stream_id, may_leave)
        due = (EVENT_STREAMS.c.method == PUSH_METHOD, EVENT_STREAMS.c.next_push_ms <= now_ms)
        return self._database.find(_STREAM_ROWS, *due, something)

    def record_push_failure(self, stream: EventStream, at_ms: int, next_ms: int) -> bool:
        """Count a failed push and schedule the next one; return False if the receiver changed its stream meanwhile."""
        values = {
            "failures": stream.failures + 1,
            "failing_since_ms": stream.failing_since_ms or at_ms,
            "next_push_ms": next_ms,
        }
        return self._update_stream(stream.stream_id, values, unchanged_since=stream.updated_ms)

    def record_push_success(self, stream_id: str) -> None:
        """Record that the receiver accepts pushes again."""
        self._update_stream(stream_id, _NOT_FAILING)

    def pause_failing(self, stream: EventStream, reason: str, at_ms: int) -> bool:
        """Pause a stream whose receiver fails; return False and write nothing if the receiver changed it meanwhile."""
        values = {"status": "paused", "status_reason": reason, "updated_ms": at_ms}
        return self._update_stream(stream.stream_id, values, unchanged_since=stream.updated_ms)

    def _update_stream(self, stream_id: str, values: Mapping[str, Any], unchanged_since: int | None = None) -> bool:
        changed = update(EVENT_STREAMS).where(EVENT_STREAMS.c.stream_id == stream_id).values(values)
        if unchanged_since is not None:
            changed = changed.where(EVENT_STREAMS.c.updated_ms == unchanged_since)
        return self._database.change(changed) > 0


def _insert_events(connection: Connection, events: Sequence[SecurityEvent]) -> None:
    _INSERT_EVENT.execute(connection, list(map(_EVENT_ROWS.params, events)))


def _disable_full(
    connection: Connection, stream: EventStream, at_ms: int, most: int, announce: AnnounceStop
) -> EventStream:
    """Disable a stream whose receiver is far behind; only the notice of that stays in it."""
    reason = f"more than {most} SETs waited for the receiver; they were dropped"
    values: dict[str, Any] = {"status": "disabled", "status_reason": reason, "updated_ms": at_ms}
    mine = EVENT_STREAMS.c.stream_id == stream.stream_id
    connection.execute(update(EVENT_STREAMS).where(mine).values(values))
    connection.execute(delete(SECURITY_EVENTS).where(SECURITY_EVENTS.c.stream_id == stream.stream_id))
    disabled = msgspec.structs.replace(stream, **values)
    _insert_events(connection, [announce(disabled)])
    return disabled


def _encode(subject: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(subject, order="deterministic")


def _subject_digest(encoded: bytes) -> str:
    return hashlib.sha256(encoded).hexdigest()


class ReceivedSignalStore(TableStore):
    """Received SETs, by transmitter. Each counts once, even after restarts.

    Only digests of a SET are kept: of its identifier, and of its statement and subject. Times are UTC milliseconds.
    """

    def find_taken(self, transmitter: str, digests: Collection[str]) -> set[str]:
        """Return those of *digests* that were received before."""
        taken = RECEIVED_SIGNALS.c.transmitter == transmitter, RECEIVED_SIGNALS.c.digest.in_(sorted(digests))
        return set(self._database.scalars(select(RECEIVED_SIGNALS.c.digest).where(*taken)))

    def claim(self, transmitter: str, statements: Sequence[SignalStatement], at_ms: int) -> set[str]:
        """Return digests of the SETs that count as evidence: the first of equal statements within a day.

        If several processes claim a statement at the same time, one SET gets it; a SET that claims again, after a
        crash, keeps it.
        """
        # Sorted, so that no two processes wait for each other; equal statements keep their order of arrival.
        ordered = sorted(statements, key=lambda statement: statement.statement)
        rows = [{"transmitter": transmitter, "said_ms": at_ms, **statement._asdict()} for statement in ordered]
        said = SIGNAL_STATEMENTS.c.statement.in_({statement.statement for statement in ordered})
        digests = select(SIGNAL_STATEMENTS.c.digest).where(SIGNAL_STATEMENTS.c.transmitter == transmitter, said)
        with self._database.write() as connection:
            _CLAIM_STATEMENT.execute(connection, rows)
            return {statement.digest for statement in ordered} & set(connection.scalars(digests))

    def add(self, transmitter: str, digests: Collection[str], at_ms: int) -> None:
        """Record that SETs were received; those that another process recorded meanwhile stay as they are."""
        rows = [{"transmitter": transmitter, "digest": digest, "received_ms": at_ms} for digest in digests]
        if rows:
            with self._database.write() as connection:
                _INSERT_SIGNAL.execute(connection, rows)

    def forget(self, before_ms: int, said_before_ms: int) -> int:
        """Delete what was received before *before_ms*, and what was stated before *said_before_ms*."""
        with self._database.write() as connection:
            connection.execute(delete(SIGNAL_STATEMENTS).where(SIGNAL_STATEMENTS.c.said_ms < said_before_ms))
            return connection.execute(
                delete(RECEIVED_SIGNALS).where(RECEIVED_SIGNALS.c.received_ms < before_ms)
            ).rowcount

    def count_taken(self) -> Mapping[str, int]:
        """Count the received SETs that are stored, by transmitter."""
        counts = select(RECEIVED_SIGNALS.c.transmitter, func.count()).group_by(RECEIVED_SIGNALS.c.transmitter)
        return dict(self._database.fetch_all(counts, tuple))
