"""Threads of cases: the first message about a case at a target that keeps threads, so that further ones follow it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import Connection, and_, bindparam, func, select

from ..records.commits import MessageThread
from .dialects.statements import upsert
from .sql_schema import CASE_THREADS, DELIVERIES, OUTBOX

if TYPE_CHECKING:
    from .codec import AnyRow

OF_DELIVERY = and_(CASE_THREADS.c.target == DELIVERIES.c.target, CASE_THREADS.c.case_id == DELIVERIES.c.case_id)
"""Condition of the thread that a delivery belongs to."""

COLUMNS = (
    func.coalesce(CASE_THREADS.c.channel, "").label("thread_channel"),
    func.coalesce(CASE_THREADS.c.ts, "").label("thread_ts"),
    func.coalesce(CASE_THREADS.c.level, 0).label("thread_level"),
)
"""Columns of a thread beside those of its delivery; a `ts` of "" = it has none."""

_UPSERT = upsert(CASE_THREADS, ("target", "case_id"))
_CASE_OF_LEASE = (
    select(DELIVERIES.c.case_id, OUTBOX.c.tenant)
    .join_from(DELIVERIES, OUTBOX)
    .where(
        DELIVERIES.c.seq == bindparam("seq"),
        DELIVERIES.c.target == bindparam("target"),
        DELIVERIES.c.attempts == bindparam("attempt"),
        DELIVERIES.c.case_id != "",
    )
)


def thread_of(row: AnyRow) -> MessageThread | None:
    """The thread of a delivery, from its row; None = nothing was told of its case there."""
    if not row.thread_ts:
        return None
    return MessageThread(row.thread_channel, row.thread_ts, row.thread_level)


class LeasedThread(NamedTuple):
    """A thread that a leased delivery began or went on with; None = it has none."""

    seq: int
    target: str
    attempt: int
    thread: MessageThread | None


def write_threads(connection: Connection, leased: Iterable[LeasedThread]) -> None:
    """Keep the threads that deliveries began or went on with, while their leases hold.

    In the transaction that writes that they were delivered, so that neither is known without the other.
    """
    for item in leased:
        if item.thread is None:
            continue
        lease = {"seq": item.seq, "target": item.target, "attempt": item.attempt}
        row = connection.execute(_CASE_OF_LEASE, lease).one_or_none()
        if row is not None:
            of_case = {"target": item.target, "case_id": row.case_id, "tenant": row.tenant}
            thread = {name: getattr(item.thread, name) for name in MessageThread.__struct_fields__}
            connection.execute(_UPSERT.for_connection(connection), of_case | thread)
