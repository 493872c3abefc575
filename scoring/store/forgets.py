"""Where each partition of a topic met an order to forget, and who was erased while the topic still has their records.

An order is met at an offset of its own in each partition, in the transaction of that position. The row of the erasure
keeps the identifier until the topic has none of its records; then both are removed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec
from sqlalchemy import Connection, delete, or_, select, update

from ...ingest.unread import Bygone
from ..privacy.records import OPEN, Erasure, Met
from ..records import Commit
from .database import Database
from .dialects import insert_or_skip, starts_with, upsert
from .erasures import erasure_of, params_of
from .schema import ERASURES, META

PREFIX = "forget."
FEW = 20
"""Erasures whose places are looked up one by one; those of more are read all at once."""
_UPSERT = upsert(META, ("key",))
_ADD = insert_or_skip(ERASURES, "erasure_id")


class Place(msgspec.Struct, frozen=True):
    """Where a partition met an order, when that was given, and whether the agent's state is kept there."""

    offset: int
    at_ms: int
    ours: bool = False


_place = msgspec.json.Decoder(Place)


def write_forgets(connection: Connection, commits: Sequence[Commit]) -> None:
    """Keep where orders were met. One that the database knows nothing of (it was put back) begins again.

    An order may be in a partition twice: a leader died before it noted that it had given it, or lost its place. The
    later place counts, under the later of both times: it is the same order, whichever of them is noted.
    """
    for partition, met in ((one.position.partition, met) for one in commits for met in one.forgets):
        key = f"{PREFIX}{met.erasure_id}.{partition}"
        known = connection.scalar(select(META.c.value).where(META.c.key == key))
        at_ms = met.at_ms if known is None else max(met.at_ms, _place.decode(known).at_ms)
        value = msgspec.json.encode(Place(met.offset, at_ms, met.ours)).decode()
        connection.execute(_UPSERT.on(connection), {"key": key, "value": value})
        connection.execute(_ADD.on(connection), params_of(_found_again(met)))


def _found_again(met: Met) -> Erasure:
    who = met.subject
    return Erasure(
        met.erasure_id,
        who.kind,
        "waiting",
        who.tenant,
        who.issuer,
        who.name,
        "",
        "",
        "found in the topic again: the database was put back to before it",
        "trustwatch",
        met.at_ms,
        at_ms=met.at_ms,
        rounds=1,
        updated_ms=met.at_ms,
    )


class Forgets(Database):
    """Part of the store."""

    def forgets_of(self, erasure_id: str) -> dict[int, Place]:
        """By partition, where the order of an erasure was met last."""
        with self.read() as connection:
            found = _rows(connection, f"{PREFIX}{erasure_id}.")
        return {partition: place for _, partition, place in found}

    def forgets(self, partition: int, after: int) -> list[Bygone]:
        with self.read() as connection:
            found = {
                erasure: place.offset
                for erasure, at, place in _rows(connection, PREFIX)
                if at == partition and place.ours and place.offset >= after
            }
            rows = connection.execute(select(ERASURES).where(ERASURES.c.erasure_id.in_(sorted(found)))).all()
        made = [erasure_of(row) for row in rows]
        return [Bygone(one.who, {partition: found[one.erasure_id]}) for one in made if one.subject]

    def bygone(self) -> list[Bygone]:
        return [Bygone(made.who, {at: place.offset for at, place in places.items()}) for made, places in self.kept()]

    def kept(self, since_ms: int = 0, also: Collection[str] = ()) -> list[tuple[Erasure, dict[int, Place]]]:
        """Erasures whose identifier is kept since the topic has records of it, oldest first, with where it was met.

        Args:
            since_ms: of those that are done, the ones that changed since then, UTC milliseconds.
            also: ids of others that are done, a few hundred at most.
        """
        recent = or_(
            ERASURES.c.status != "done", ERASURES.c.updated_ms >= since_ms, ERASURES.c.erasure_id.in_(sorted(also))
        )
        query = select(ERASURES).where(ERASURES.c.subject != "", recent)
        with self.read() as connection:
            ordered = connection.execute(query.order_by(ERASURES.c.asked_ms, ERASURES.c.erasure_id))
            made = [erasure_of(row) for row in ordered]
            places = _places(connection, [one.erasure_id for one in made])
        return [(one, places[one.erasure_id]) for one in made if one.erasure_id in places]

    def drop_forgets(self, erasure_id: str) -> None:
        """Remove where the order of an erasure was met."""
        self.drop_meta_from(f"{PREFIX}{erasure_id}.")

    def topic_made_again(self) -> None:
        """Its records are gone, offsets begin anew: no identifier is kept, and what was ordered is ordered again."""
        with self.write() as connection:
            connection.execute(delete(META).where(starts_with(META.c.key, PREFIX)))
            connection.execute(update(ERASURES).where(ERASURES.c.status == "done").values(subject=""))
            connection.execute(update(ERASURES).where(ERASURES.c.status.in_(sorted(OPEN))).values(status="queued"))

    def meta_from(self, begin: str) -> dict[str, str]:
        """All of `meta` whose key begins so."""
        with self.read() as connection:
            rows = connection.execute(select(META.c.key, META.c.value).where(starts_with(META.c.key, begin)))
            return {key: value for key, value in rows}

    def drop_meta_from(self, begin: str) -> None:
        """Remove all of `meta` whose key begins so."""
        with self.write() as connection:
            connection.execute(delete(META).where(starts_with(META.c.key, begin)))


def _places(connection: Connection, ids: Sequence[str]) -> dict[str, dict[int, Place]]:
    """Places by erasure; a few are looked up one by one."""
    begins = [f"{PREFIX}{one}." for one in ids] if len(ids) <= FEW else [PREFIX]
    found: dict[str, dict[int, Place]] = {}
    for begin in begins:
        for erasure, partition, place in _rows(connection, begin):
            found.setdefault(erasure, {})[partition] = place
    return found


def _rows(connection: Connection, begin: str) -> list[tuple[str, int, Place]]:
    """Erasure, partition and place of every row."""
    found = []
    for key, value in connection.execute(select(META.c.key, META.c.value).where(starts_with(META.c.key, begin))):
        erasure, _, partition = key.removeprefix(PREFIX).rpartition(".")
        found.append((erasure, int(partition), _place.decode(value)))
    return found
