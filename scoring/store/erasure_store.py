"""Erasures: orders, how far each of them is, and marks of agents that must not come back from a model's history.

Each partition of a topic meets an order to erase at a separate offset, in the transaction of that position. The row of
the erasure keeps the identifier until the topic has none of its records; then both are deleted.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec
from sqlalchemy import ColumnElement, Connection, and_, delete, or_, select, update

from trustwatch.ingest.record_erasure import ErasedSubject

from ..records.commits import Commit
from ..records.erasures import OPEN_ERASURE_STATUSES, Erasure
from .codec import RowCodec
from .database import Page, TableStore, Tenants
from .dialects.statements import insert_or_skip, starts_with
from .partition_store import UPSERT_META
from .sql_schema import ERASURES, FORGOTTEN, META

FORGET_POSITION_PREFIX = "forget."
FEW_ERASURES = 20
"""Number of erasures up to which positions are looked up one by one; above it, all are read at once."""
_INSERT_ERASURE = insert_or_skip(ERASURES, "erasure_id")
_INSERT_MARK = insert_or_skip(FORGOTTEN, "mark")
_ROWS = RowCodec(Erasure, ERASURES)
_OLDEST_FIRST = (ERASURES.c.asked_ms, ERASURES.c.erasure_id)


class ForgetRecordPosition(msgspec.Struct, frozen=True):
    """Where a partition met an order, when the order was given, and whether the partition has the agent."""

    offset: int
    at_ms: int
    ours: bool = False


_position_decoder = msgspec.json.Decoder(ForgetRecordPosition)


class ErasureStore(TableStore):
    """Reads and writes erasures, and where each partition met their orders; `subject_store.py` executes them in the
    tables."""

    def add(self, erasure: Erasure) -> bool:
        """Write a new erasure; return False and write nothing if its id exists."""
        with self._database.write() as connection:
            return _INSERT_ERASURE.adds(connection, _ROWS.params(erasure))

    def update(self, was: Erasure, erasure: Erasure) -> bool:
        """Overwrite an erasure as it was read; return False and write nothing if another process changed it since."""
        values = _ROWS.params(erasure) | {"updated_ms": max(erasure.updated_ms, was.updated_ms + 1)}
        return self._database.change(update(ERASURES).where(_is_unchanged(was)).values(values)) > 0

    def record_error(self, was: Erasure, error: str) -> None:
        """Write why an erasure cannot continue, unless that is already written or the erasure changed since it was
        read."""
        if was.error != error:
            values = {"error": error, "updated_ms": was.updated_ms + 1}
            self._database.change(update(ERASURES).where(_is_unchanged(was)).values(values))

    def get(self, erasure_id: str, tenants: Tenants = None) -> Erasure | None:
        """Return one erasure."""
        return self._database.get(_ROWS, ERASURES.c.erasure_id == erasure_id, tenants=tenants)

    def list_open(self) -> list[Erasure]:
        """List the erasures that are not done, oldest first."""
        is_open = ERASURES.c.status.in_(sorted(OPEN_ERASURE_STATUSES))
        return self._database.find(_ROWS, is_open, order=_OLDEST_FIRST)

    def page(self, tenants: Tenants = None, limit: int = 50, cursor: str | None = None) -> Page[Erasure]:
        """List erasures, newest first. Raises BadCursor."""
        return self._database.newest(_ROWS.select(tenants), _OLDEST_FIRST, limit, cursor, _ROWS.read)

    def add_mark(self, mark: str, at_ms: int) -> None:
        """Store the keyed mark of an agent that must not come back from a model's history."""
        with self._database.write() as connection:
            _INSERT_MARK.execute(connection, {"mark": mark, "at_ms": at_ms})

    def list_marks(self) -> list[str]:
        """List the marks of all agents that must not come back."""
        return self._database.scalars(select(FORGOTTEN.c.mark))

    def list_ids(self) -> set[str]:
        """Return the ids of all erasures."""
        return set(self._database.scalars(select(ERASURES.c.erasure_id)))

    def forget_positions(self, erasure_id: str) -> dict[int, ForgetRecordPosition]:
        """Return the last position where each partition met the order of an erasure."""
        with self._database.read() as connection:
            rows = _position_rows(connection, f"{FORGET_POSITION_PREFIX}{erasure_id}.")
        return {partition: position for _, partition, position in rows}

    def erased_since(self, partition: int, after: int) -> list[ErasedSubject]:
        """List the agents of *partition* whose order to forget it met at the offset *after* or later."""
        with self._database.read() as connection:
            offsets = {
                erasure_id: position.offset
                for erasure_id, met_in, position in _position_rows(connection, FORGET_POSITION_PREFIX)
                if met_in == partition and position.ours and position.offset >= after
            }
            rows = connection.execute(_ROWS.select(None, ERASURES.c.erasure_id.in_(sorted(offsets)))).all()
        return [
            ErasedSubject(erasure.erasure_subject, {partition: offsets[erasure.erasure_id]})
            for erasure in map(_ROWS.read, rows)
            if erasure.subject
        ]

    def erased_in_topic(self) -> list[ErasedSubject]:
        """List erased subjects that a topic still has records of; empty if there is no topic."""
        return [
            ErasedSubject(erasure.erasure_subject, {at: position.offset for at, position in positions.items()})
            for erasure, positions in self.list_with_positions()
        ]

    def list_with_positions(
        self, since_ms: int = 0, also: Collection[str] = ()
    ) -> list[tuple[Erasure, dict[int, ForgetRecordPosition]]]:
        """List erasures whose order at least one partition met, oldest first, with the positions by partition.

        Erasures that are done are included only if they changed since *since_ms* or are in *also*.
        """
        recent = or_(
            ERASURES.c.status != "done", ERASURES.c.updated_ms >= since_ms, ERASURES.c.erasure_id.in_(sorted(also))
        )
        query = _ROWS.select(None, ERASURES.c.subject != "", recent).order_by(*_OLDEST_FIRST)
        positions: dict[str, dict[int, ForgetRecordPosition]] = {}
        with self._database.read() as connection:
            erasures = [_ROWS.read(row) for row in connection.execute(query)]
            few = [f"{FORGET_POSITION_PREFIX}{erasure.erasure_id}." for erasure in erasures]
            for prefix in few if len(few) <= FEW_ERASURES else [FORGET_POSITION_PREFIX]:
                for erasure_id, partition, position in _position_rows(connection, prefix):
                    positions.setdefault(erasure_id, {})[partition] = position
        return [(erasure, positions[erasure.erasure_id]) for erasure in erasures if erasure.erasure_id in positions]

    def delete_positions(self, erasure_id: str) -> None:
        """Delete the positions where the order of an erasure was met."""
        self._database.change(delete(META).where(starts_with(META.c.key, f"{FORGET_POSITION_PREFIX}{erasure_id}.")))

    def reset_topic(self) -> None:
        """Delete the offsets of a topic that was created again, since its offsets begin at 0.

        No identifier of a done erasure is kept, and open orders are given again.
        """
        is_open = ERASURES.c.status.in_(sorted(OPEN_ERASURE_STATUSES))
        with self._database.write() as connection:
            connection.execute(delete(META).where(starts_with(META.c.key, FORGET_POSITION_PREFIX)))
            connection.execute(update(ERASURES).where(ERASURES.c.status == "done").values(subject=""))
            connection.execute(update(ERASURES).where(is_open).values(status="queued"))


def _is_unchanged(was: Erasure) -> ColumnElement[bool]:
    mine = ERASURES.c.erasure_id == was.erasure_id
    return and_(mine, ERASURES.c.status == was.status, ERASURES.c.updated_ms == was.updated_ms)


def write_forget_positions(connection: Connection, commits: Sequence[Commit]) -> None:
    """Store where orders were met. An order that a restored database does not know begins again.

    A partition may meet an order twice, if a leader failed before it noted that it had given the order. The later
    position counts, under the later of both times: it is the same order, whichever of them is noted.
    """
    for partition, met in ((commit.position.partition, met) for commit in commits for met in commit.erasures):
        key = f"{FORGET_POSITION_PREFIX}{met.erasure_id}.{partition}"
        earlier = connection.scalar(select(META.c.value).where(META.c.key == key))
        at_ms = met.at_ms if earlier is None else max(met.at_ms, _position_decoder.decode(earlier).at_ms)
        value = msgspec.json.encode(ForgetRecordPosition(met.offset, at_ms, met.owns_agent)).decode()
        UPSERT_META.execute(connection, {"key": key, "value": value})
        who = met.subject
        found_again = Erasure(
            erasure_id=met.erasure_id,
            kind=who.kind,
            status="waiting",
            tenant=who.tenant,
            issuer=who.issuer,
            subject=who.name,
            subject_salt="",
            subject_digest="",
            reason="found in the topic again: the database was restored to a time before it",
            asked_by="trustwatch",
            asked_ms=met.at_ms,
            at_ms=met.at_ms,
            rounds=1,
            updated_ms=met.at_ms,
        )
        _INSERT_ERASURE.execute(connection, _ROWS.params(found_again))


def _position_rows(connection: Connection, prefix: str) -> list[tuple[str, int, ForgetRecordPosition]]:
    rows = []
    for key, value in connection.execute(select(META.c.key, META.c.value).where(starts_with(META.c.key, prefix))):
        erasure_id, _, partition = key.removeprefix(FORGET_POSITION_PREFIX).rpartition(".")
        rows.append((erasure_id, int(partition), _position_decoder.decode(value)))
    return rows
