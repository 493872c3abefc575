"""The chain of decisions (`trustwatch.scoring.store.decision_chain`) in the store.

Written with them, read to verify it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, func, select, update

from .database import Database
from .decision_chain import DIGESTED_COLUMNS, GENESIS_DIGEST, ChainHead, ChainLink, content_digest, link_digest
from .dialects.statements import MAX_IN_LIST, chunked, insert_or_skip, upsert
from .sql_schema import CHAINS, DECISIONS, ERASURES

_INSERT_CHAIN = insert_or_skip(CHAINS, "partition")
_UPSERT_CHAIN_HEAD = upsert(CHAINS, ("partition",), keep=("anchor_sequence", "anchor_digest"))
_LINK_COLUMNS = tuple(
    DECISIONS.c[name]
    for name in (
        "chain_sequence",
        "chain_salt",
        "chain_content",
        "chain_previous",
        "chain_digest",
        "erasure_id",
        "redacted",
    )
)


def link_decisions(connection: Connection, rows: Sequence[dict[str, Any]], new_salt: Any) -> list[dict[str, Any]]:
    """Parameters of decisions with their links; those that are stored already are left out, as they are linked.

    The heads move with them, in this transaction. Whoever else appends to the same chains waits for it.
    """
    stored: set[str] = set()
    for part in chunked(rows, MAX_IN_LIST):
        ids = [row["decision_id"] for row in part]
        stored.update(connection.scalars(select(DECISIONS.c.decision_id).where(DECISIONS.c.decision_id.in_(ids))))
    fresh = list({row["decision_id"]: row for row in rows if row["decision_id"] not in stored}.values())
    by_partition: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in fresh:
        by_partition[row["partition"]].append(row)
    for partition in sorted(by_partition):
        _append_to_chain(connection, partition, by_partition[partition], new_salt)
    return fresh


def _append_to_chain(connection: Connection, partition: int, rows: list[dict[str, Any]], new_salt: Any) -> None:
    start = {
        "partition": partition,
        "sequence": 0,
        "digest": GENESIS_DIGEST,
        "anchor_sequence": 0,
        "anchor_digest": GENESIS_DIGEST,
    }
    query = select(CHAINS).where(CHAINS.c.partition == partition).with_for_update()
    found = connection.execute(query).one_or_none()
    if found is None:
        connection.execute(_INSERT_CHAIN.for_connection(connection), start)
        found = connection.execute(query).one()
    head = ChainHead(**found._mapping)
    sequence, digest = head.sequence, head.digest
    for row in rows:
        sequence += 1
        salt = new_salt().hex()
        content = content_digest(salt, row)
        previous, digest = digest, link_digest(partition, sequence, digest, content)
        row.update(
            chain_sequence=sequence,
            chain_salt=salt,
            chain_content=content,
            chain_previous=previous,
            chain_digest=digest,
            erasure_id="",
            redacted="",
        )
    connection.execute(_UPSERT_CHAIN_HEAD.for_connection(connection), start | {"sequence": sequence, "digest": digest})


def advance_anchors(connection: Connection, removed: Iterable[tuple[int, int, str]]) -> None:
    """Decisions are removed by retention: the chains begin behind the last of them from now on.

    Args:
        removed: partition, sequence and digest of each.
    """
    last: dict[int, tuple[int, str]] = {}
    for partition, sequence, digest in removed:
        if sequence > last.get(partition, (0, ""))[0]:
            last[partition] = sequence, digest
    for partition, (sequence, digest) in sorted(last.items()):
        older = (CHAINS.c.partition == partition, CHAINS.c.anchor_sequence < sequence)
        connection.execute(update(CHAINS).where(*older).values(anchor_sequence=sequence, anchor_digest=digest))


class DecisionStore(Database):
    """Part of the store that a verification reads."""

    def chain_heads(self) -> list[ChainHead]:
        with self.read() as connection:
            return [
                ChainHead(**row._mapping) for row in connection.execute(select(CHAINS).order_by(CHAINS.c.partition))
            ]

    def chain_links(self, partition: int, after: int, limit: int = 500) -> list[ChainLink]:
        query = select(DECISIONS).where(DECISIONS.c.partition == partition, DECISIONS.c.chain_sequence > after)
        with self.read() as connection:
            rows = connection.execute(query.order_by(DECISIONS.c.chain_sequence).limit(limit)).all()
        return [_to_link(row._mapping) for row in rows]

    def unchained_decisions(self) -> int:
        with self.read() as connection:
            query = select(func.count()).select_from(DECISIONS).where(DECISIONS.c.chain_sequence == 0)
            return int(connection.execute(query).scalar_one())

    def erasure_ids(self) -> set[str]:
        with self.read() as connection:
            return set(connection.scalars(select(ERASURES.c.erasure_id)))


def _to_link(row: Mapping[Any, Any]) -> ChainLink:
    sequence, salt, content, previous, digest, erasure_id, redacted = (row[column.name] for column in _LINK_COLUMNS)
    values = {name: row[name] for name in DIGESTED_COLUMNS}
    return ChainLink(row["partition"], sequence, salt, content, previous, digest, erasure_id, redacted, values)
