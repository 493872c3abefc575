"""The outbox: rows become deliveries, which are leased and settled.

States: pending -> delivered | failed (the target refused permanently) | dead (too old) | suppressed (by the cool-down,
or because the delivery does not concern the target).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from sqlalchemy import Column, Connection, bindparam, func, insert, literal, select, update

from trustwatch.ingest.timestamps import format_rfc3339

from ..records.agents import AgentName, RiskLevel
from ..records.cases import CaseOfAlert
from ..records.commits import CASE_KEY_PREFIX, Delivery, LeasedDelivery, OutboxRow
from . import codec
from .case_assignment import assign_cases
from .database import Page, TableStore, Tenants, visible, with_values
from .dialects.statements import INSERT_COUNTER, insert_or_skip, upsert
from .sql_schema import COUNTERS, DELIVERIES, OUTBOX, TARGET_STOPS

if TYPE_CHECKING:
    from .codec import AnyRow

PENDING, DELIVERED, FAILED, SUPPRESSED, DEAD = "pending", "delivered", "failed", "suppressed", "dead"

COOLDOWN_REASON = "cool-down: an alert about this {subject} with this reason and no lower level was just sent"
"""Reason of most suppressed deliveries; the subject is a case, or an agent if there is no case."""
SNOOZE_REASON = "snoozed: until {until}, alerts are sent only for a higher level"
"""Reason of deliveries about a snoozed case."""
LAST_HEARD_PREFIX = "source.heard_ms."
"""Prefix of the name of a source in `counters`."""

_INSERT_OUTBOX = insert_or_skip(OUTBOX, "key")
_DELIVERY_ROWS = codec.RowCodec(Delivery, DELIVERIES, OUTBOX)
_UPSERT_STOP = upsert(TARGET_STOPS, ("name",))
_UNROUTED = select(OUTBOX).where(OUTBOX.c.routed_ms == 0).order_by(OUTBOX.c.seq).limit(bindparam("most"))


def _cooldown_queries(subject: Column[Any]) -> tuple[Any, Any]:
    """Return the queries for the last alert about a subject that was sent, and for how many were suppressed since."""
    same = (DELIVERIES.c.target == bindparam("t"), subject == bindparam("a"), DELIVERIES.c.group == bindparam("g"))
    last_sent = (
        select(DELIVERIES.c.seq, DELIVERIES.c.status, OUTBOX.c.created_ms, OUTBOX.c.level)
        .join_from(DELIVERIES, OUTBOX)
        .where(*same, DELIVERIES.c.status != SUPPRESSED)
        .order_by(DELIVERIES.c.seq.desc())
        .limit(1)
    )
    suppressed = select(func.count()).select_from(DELIVERIES)
    since = (DELIVERIES.c.status == SUPPRESSED, DELIVERIES.c.seq > bindparam("s"))
    return last_sent, suppressed.where(*same, *since)


_OF_AGENT, _OF_CASE = _cooldown_queries(DELIVERIES.c.agent_key), _cooldown_queries(DELIVERIES.c.case_id)
_SET_PAYLOAD = update(OUTBOX).where(OUTBOX.c.seq == bindparam("s")).values(payload=bindparam("of_case"))
_SELECT_DUE = (
    select(OUTBOX, *(DELIVERIES.c[name] for name in ("attempts", "queued_ms", "suppressed_before")))
    .join_from(DELIVERIES, OUTBOX)
    .where(
        DELIVERIES.c.target == bindparam("t"),
        DELIVERIES.c.status == PENDING,
        DELIVERIES.c.next_attempt_ms <= bindparam("now"),
    )
    .order_by(DELIVERIES.c.next_attempt_ms, DELIVERIES.c.seq)
    .limit(bindparam("most"))
    .with_for_update(of=DELIVERIES, skip_locked=True)
)
_LEASED = (
    DELIVERIES.c.seq == bindparam("of_seq"),
    DELIVERIES.c.target == bindparam("of_target"),
    DELIVERIES.c.attempts == bindparam("of_attempt"),
    DELIVERIES.c.status == PENDING,
)
_EARLIER_DELIVERY = DELIVERIES.alias("earlier")
_EARLIER_OF_CASE = (
    select(_EARLIER_DELIVERY.c.seq)
    .where(
        DELIVERIES.c.case_id != "",
        _EARLIER_DELIVERY.c.case_id == DELIVERIES.c.case_id,
        _EARLIER_DELIVERY.c.target == DELIVERIES.c.target,
        _EARLIER_DELIVERY.c.seq < DELIVERIES.c.seq,
        _EARLIER_DELIVERY.c.status == PENDING,
    )
    .exists()
)
"""Condition that an earlier alert of the same case is not delivered yet."""
_LATER_DELIVERY = DELIVERIES.alias("later")
_SELECT_SUPERSEDED = select(DELIVERIES.c.seq).where(
    DELIVERIES.c.target == bindparam("t"),
    DELIVERIES.c.seq.in_(bindparam("seqs", expanding=True)),
    DELIVERIES.c.group != "",
    DELIVERIES.c.case_id == "",  # those of a case are leased in order
    select(_LATER_DELIVERY.c.seq)
    .where(
        _LATER_DELIVERY.c.target == DELIVERIES.c.target,
        _LATER_DELIVERY.c.agent_key == DELIVERIES.c.agent_key,
        _LATER_DELIVERY.c.group != "",
        _LATER_DELIVERY.c.seq > DELIVERIES.c.seq,
        _LATER_DELIVERY.c.status == DELIVERED,
    )
    .exists(),
)
_LEASE = (
    update(DELIVERIES).where(*_LEASED).values(attempts=DELIVERIES.c.attempts + 1, next_attempt_ms=bindparam("until"))
)
_SETTLE = (
    update(DELIVERIES)
    .where(*_LEASED)
    .values(
        status=bindparam("of_status"),
        next_attempt_ms=bindparam("of_next_attempt_ms"),
        last_error=bindparam("of_error"),
        delivered_ms=bindparam("of_at_ms"),
    )
)


class DeliveryRoute(msgspec.Struct, frozen=True):
    """Selects the outbox rows that a configured target gets."""

    target: str
    kind: str
    levels: frozenset[int]
    cooldown_ms: int


class TargetStop(NamedTuple):
    """A target that refused permanently: since when (UTC ms), and the reason."""

    name: str
    stopped_ms: int
    reason: str


class DeliverySettlement(NamedTuple):
    """Outcome of a leased delivery. It is ignored if the lease was lost meanwhile."""

    seq: int
    target: str
    attempt: int
    status: str  # pending (again at next_attempt_ms) | delivered | failed | suppressed
    next_attempt_ms: int
    error: str
    at_ms: int


class OutboxStore(TableStore):
    """Outbox rows and their deliveries. It keeps all state of a dispatcher, which may stop at any moment."""

    def route(self, routes: Sequence[DeliveryRoute], now_ms: int, limit: int = 200) -> int:
        """Assign alerts to cases and turn outbox rows into deliveries, in order; return how many rows were routed.

        A row within the cool-down of (target, case or agent, group) becomes `suppressed`, unless its level is higher
        than that of the alert before it or that alert did not arrive; so does a row about a snoozed case, unless the
        case has risen. A row for a target that is not configured becomes `dead`.
        """
        # An idle dispatcher never takes the write lock.
        if self._database.scalar(select(OUTBOX.c.seq).where(OUTBOX.c.routed_ms == 0).limit(1)) is None:
            return 0
        with self._database.write() as connection:
            # Cool-down depends on earlier alerts: two concurrent routers would both send an agent's first alert.
            if not self._database.dialect.try_transaction_lock(connection, "route"):
                return 0
            rows = connection.execute(_UNROUTED, {"most": limit}).all()
            case_of_row = assign_cases(connection, rows)
            payload_of = {row.seq: row.payload for row in rows}
            payloads = [{"s": seq, "of_case": _with_case(payload_of[seq], case)} for seq, case in case_of_row.items()]
            if payloads:
                connection.execute(_SET_PAYLOAD, payloads)
            targets = {route.target for route in routes}
            for row in rows:
                for route in routes:
                    if route.kind == row.kind and row.level in route.levels and row.target in ("", route.target):
                        _insert_delivery(connection, row, route, now_ms, case_of_row.get(row.seq))
                if row.target and row.target not in targets:
                    dead = _new_delivery(row, row.target, now_ms) | {"status": DEAD}
                    error = "the target is not configured"
                    connection.execute(insert(DELIVERIES), dead | {"last_error": error})
            done = OUTBOX.c.seq.in_([row.seq for row in rows])
            connection.execute(update(OUTBOX).where(done).values(routed_ms=now_ms))
        return len(rows)

    def lease(
        self, target: str, now_ms: int, limit: int, lease_ms: int, *, in_case_order: bool = False
    ) -> list[LeasedDelivery]:
        """Lease the due deliveries of *target* and count the attempt; no other process gets them for *lease_ms*.

        With *in_case_order*, a delivery of a case waits until every earlier delivery of that case has ended.
        """
        due = self.next_due_ms(target)
        if due is None or due > now_ms:
            return []
        with self._database.write() as connection:
            due_rows = _SELECT_DUE.where(~_EARLIER_OF_CASE) if in_case_order else _SELECT_DUE
            rows = connection.execute(due_rows, {"t": target, "now": now_ms, "most": limit}).all()
            common = {"of_target": target, "until": now_ms + lease_ms}
            if leases := [common | {"of_seq": row.seq, "of_attempt": row.attempts} for row in rows]:
                connection.execute(_LEASE, leases)
        return [
            LeasedDelivery(it.seq, codec.to_outbox(it), target, it.attempts + 1, it.queued_ms, it.suppressed_before)
            for it in rows
        ]

    def settle(self, settlements: Sequence[DeliverySettlement]) -> None:
        """Write the outcomes of leased deliveries."""
        if not settlements:
            return
        ended = [item if item.status == DELIVERED else item._replace(at_ms=0) for item in sorted(settlements)]
        rows = [{f"of_{name}": value for name, value in item._asdict().items()} for item in ended]
        with self._database.write() as connection:
            connection.execute(_SETTLE, rows)

    def superseded(self, target: str, seqs: Collection[int]) -> set[int]:
        """Return those of *seqs* whose agent's level a later delivery to *target* has already reported.

        A delivery without a cool-down group reports no level: it neither supersedes nor is superseded.
        """
        with self._database.read() as connection:
            return set(connection.scalars(_SELECT_SUPERSEDED, {"t": target, "seqs": list(seqs)}))

    def next_due_ms(self, target: str) -> int | None:
        """Return when the next pending delivery of *target* is due; None if there is none."""
        mine = (DELIVERIES.c.target == target, DELIVERIES.c.status == PENDING)
        due_ms: int | None = self._database.scalar(select(func.min(DELIVERIES.c.next_attempt_ms)).where(*mine))
        return due_ms

    def expire(self, queued_before_ms: int, now_ms: int) -> int:
        """Give up (`dead`) deliveries pending since before *queued_before_ms*; return how many."""
        # A leased delivery (its next attempt is in the future) is left alone: it may just be arriving.
        old = (
            DELIVERIES.c.status == PENDING,
            DELIVERIES.c.queued_ms < queued_before_ms,
            DELIVERIES.c.next_attempt_ms <= now_ms,
        )
        if self._database.scalar(select(DELIVERIES.c.seq).where(*old).limit(1)) is None:
            return 0
        error = literal("given up: too old; last error: ") + DELIVERIES.c.last_error
        return self._database.change(update(DELIVERIES).where(*old).values(status=DEAD, last_error=error))

    def page(
        self,
        tenants: Tenants = None,
        status: str | None = None,
        target: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
        *,
        agent: AgentName | None = None,
        key: str | None = None,
        case_id: str | None = None,
    ) -> Page[Delivery]:
        """List deliveries, newest first. *key* is that of the outbox row. Raises BadCursor."""
        query = select(*_DELIVERY_ROWS.columns, DELIVERIES.c.seq).where(DELIVERIES.c.seq == OUTBOX.c.seq)
        query = visible(query, OUTBOX.c.tenant, tenants)
        if agent is not None:
            mine = DELIVERIES.c.agent_key == codec.to_signed(agent.key)
            query = query.where(mine, OUTBOX.c.tenant == agent.tenant)
        wanted = {DELIVERIES.c.status: status, DELIVERIES.c.target: target, DELIVERIES.c.case_id: case_id}
        query = with_values(query, {OUTBOX.c.key: key, **wanted})
        order = (DELIVERIES.c.seq, DELIVERIES.c.target)
        return self._database.newest(query, order, limit, cursor, _DELIVERY_ROWS.read)

    def stop_target(self, name: str, fingerprint: str, at_ms: int, reason: str) -> None:
        """Stop deliveries to the target as long as its configuration has this *fingerprint*."""
        row = {"name": name, "fingerprint": fingerprint, "stopped_ms": at_ms, "reason": reason}
        with self._database.write() as connection:
            _UPSERT_STOP.execute(connection, row)

    def stopped_targets(self) -> dict[str, str]:
        """Return the fingerprint of each stopped target."""
        return dict(self._database.fetch_all(select(TARGET_STOPS.c.name, TARGET_STOPS.c.fingerprint), tuple))

    def target_stops(self) -> list[TargetStop]:
        """List every stopped target."""
        columns = (TARGET_STOPS.c[name] for name in TargetStop._fields)
        return self._database.fetch_all(select(*columns).order_by(TARGET_STOPS.c.name), lambda row: TargetStop(*row))

    def record_last_heard(self, source: str, at_ms: int) -> None:
        """Record that *source* sent something; if several processes record times, the latest is kept."""
        mine = COUNTERS.c.name == LAST_HEARD_PREFIX + source
        with self._database.write() as connection:
            INSERT_COUNTER.execute(connection, {"name": LAST_HEARD_PREFIX + source, "value": at_ms})
            connection.execute(update(COUNTERS).where(mine, COUNTERS.c.value < at_ms).values(value=at_ms))

    def enqueue(self, rows: Sequence[OutboxRow]) -> None:
        """Add rows without a commit; skips rows whose key exists."""
        if rows:  # an idle caller never takes the write lock
            with self._database.write() as connection:
                insert_outbox_rows(connection, rows)

    def enqueue_silence(self, source: str, since_ms: int, row: Callable[[int], OutboxRow]) -> bool:
        """Enqueue that *source* is silent, unless it sent something after *since_ms*; return whether it is silent.

        *row* gets the time when it was heard last (0 = never) and makes the key from it. So each silence is reported
        once, by any number of processes and after any number of restarts.
        """
        mine = COUNTERS.c.name == LAST_HEARD_PREFIX + source
        with self._database.write() as connection:
            INSERT_COUNTER.execute(connection, {"name": LAST_HEARD_PREFIX + source, "value": 0})
            # Locked, so that the source cannot report in between.
            heard_ms = connection.execute(select(COUNTERS.c.value).where(mine).with_for_update()).scalar_one()
            if heard_ms > since_ms:
                return False
            insert_outbox_rows(connection, [row(heard_ms)])
            return True


def insert_outbox_rows(connection: Connection, rows: Sequence[OutboxRow]) -> None:
    """Add outbox rows in the caller's transaction; skips rows whose key exists."""
    _INSERT_OUTBOX.execute(connection, list(map(codec.OUTBOX_ROWS.params, rows)))


def _case_of_update(row: AnyRow) -> str:
    """Return the id of the case whose change by a person a row reports; "" if it reports something else."""
    if not row.key.startswith(CASE_KEY_PREFIX):
        return ""
    try:
        case_id: str = msgspec.json.decode(row.payload)["data"]["case_id"]
    except (msgspec.DecodeError, LookupError, TypeError):  # of another version: it is delivered, and belongs to no case
        return ""
    return case_id if isinstance(case_id, str) else ""


def _with_case(payload: bytes, case: CaseOfAlert) -> bytes:
    event = msgspec.json.decode(payload)
    event["data"]["case"] = {
        "case_id": case.case_id,
        "status": case.status,
        "opened_at": format_rfc3339(case.opened_ms),
        "is_new": case.is_new,
        "risk_level": RiskLevel(case.level).label,
        "agents": case.agents,
        "agents_above_low": case.above_low,
        "tie": case.tie or None,
    }
    return msgspec.json.encode(event)


def _new_delivery(row: AnyRow, target: str, now_ms: int) -> dict[str, Any]:
    about = {"agent_key": row.agent_key, "group": row.group}
    return {"seq": row.seq, "target": target, "queued_ms": now_ms, "next_attempt_ms": now_ms, **about}


def _insert_delivery(
    connection: Connection, row: AnyRow, route: DeliveryRoute, now_ms: int, case: CaseOfAlert | None
) -> None:
    """Add the delivery of *row* by *route*: suppressed if its case is snoozed, or by the target's cool-down.

    A target that keeps incidents (without a cool-down) still gets the end of one about a snoozed case.
    """
    delivery = _new_delivery(row, route.target, now_ms)
    delivery |= {"case_id": _case_of_update(row) if case is None else case.case_id, "status": PENDING}
    wakes = case is not None and case.wakes
    is_end = route.cooldown_ms == 0 and row.level < RiskLevel.MEDIUM
    if case is not None and not wakes and case.snoozed_until_ms > now_ms and not is_end:
        reason = SNOOZE_REASON.format(until=format_rfc3339(case.snoozed_until_ms))
        delivery |= {"status": SUPPRESSED, "last_error": reason}
    elif row.group and not wakes:
        about = ("agent", row.agent_key) if case is None else ("case", case.case_id)
        delivery |= _cooldown(connection, row, route, *about)
    connection.execute(insert(DELIVERIES), delivery)


def _cooldown(connection: Connection, row: AnyRow, route: DeliveryRoute, sort: str, subject: Any) -> dict[str, Any]:
    """Return the columns of a delivery that depend on the earlier alerts about the same case or agent."""
    last_sent, suppressed_since = _OF_AGENT if sort == "agent" else _OF_CASE
    same = {"t": route.target, "a": subject, "g": row.group}
    last = connection.execute(last_sent, same).one_or_none()
    if last is not None and last.status in (PENDING, DELIVERED):
        recent = row.created_ms < last.created_ms + route.cooldown_ms
        if recent and row.level <= last.level:
            return {"status": SUPPRESSED, "last_error": COOLDOWN_REASON.format(subject=sort)}
    since = 0 if last is None else last.seq
    return {"suppressed_before": connection.execute(suppressed_since, same | {"s": since}).scalar_one()}
