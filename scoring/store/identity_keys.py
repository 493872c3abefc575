"""Keys of agents in the tables: one identity key for a database, and new keys in every row if it changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Connection, LargeBinary, Table, and_, bindparam, delete, select, update

from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.identities import IdentityHasher

from . import codec
from .containment_store import edge_params
from .database import IDENTITY_PROOF, Database
from .dialects.statements import insert_or_skip
from .partition_store import UPSERT_META
from .sql_schema import (
    ACTUATIONS,
    AGENT_NAME_COLUMNS,
    AGENTS,
    DELIVERIES,
    EDGES,
    EVENT_IDS,
    META,
    METADATA,
    OUTBOX,
    POSITIONS,
)

_NAMED_TABLES = [table for table in METADATA.sorted_tables if "agent_id" in table.c]
"""Tables with the keys and the names of agents."""
_UNNAMED_TABLES = [table for table in METADATA.sorted_tables if "agent_key" in table.c and "agent_id" not in table.c]
_CHUNK = 2_000
_INSERT_META = insert_or_skip(META, "key")

KeyChange = Mapping[str, Any]
"""Parameters of an update: `o` and `n`, the old and the new key, signed, and the full name `t`, `i`, `a`."""


def has_identity_key(database: Database) -> bool:
    """Return whether the keys in the database are made with an identity key; those of 0.1 are not."""
    with database.read() as connection:
        return _stored_proof(connection) is not None


def adopt_identity_key(database: Database, identities: IdentityHasher, *, renew: bool = False) -> int:
    """Use *identities* for the database; return how many rows got new keys, all in one transaction.

    A database without a key (it is new, or of 0.1) gets this one: each row's key is made from its stored name. Raises
    ConfigError if the database has another key.
    """
    with database.write() as connection:
        proof = {"key": IDENTITY_PROOF, "value": identities.proof}
        # If two processes start at the same time, the second waits here and then finds the first one's key.
        _INSERT_META.execute(connection, proof | {"value": ""})
        stored = _stored_proof(connection)
        if stored == identities.proof:
            return 0
        if stored and not renew:
            raise _another_key_error()
        # Done first: a worker of 0.1, or a worker with the old key, waits here with its commit, and is then fenced.
        connection.execute(update(POSITIONS).values(epoch=POSITIONS.c.epoch + 1))
        connection.execute(delete(EVENT_IDS))  # hashes under the old key
        changed = sum(_change_unnamed(connection, identities, table) for table in _UNNAMED_TABLES)
        changed += sum(_change_blobs(connection, identities, *column) for column in _BLOBS)
        for table in _NAMED_TABLES:
            changed += _update(connection, _named_update(table), _changes_of(connection, identities, table))
        changed += _change_edges(connection, identities)
        UPSERT_META.execute(connection, proof)
        return changed


def check_identity_key(database: Database, identities: IdentityHasher) -> None:
    """Raise ConfigError unless the database has this identity key."""
    with database.read() as connection:
        if _stored_proof(connection) != identities.proof:
            raise _another_key_error()


def _another_key_error() -> ConfigError:
    return ConfigError(
        "identity.key_file: this is not the identity key of this database, under which its agents are known. "
        "All processes on one database have the same file: copy the one that the others use, or put it back "
        "from a back-up. If it is lost, `trustwatch identities renew` gives every row a new key"
    )


def correct_agent_keys(database: Database) -> int:
    """Correct the rows of agents with another key; return how many there were.

    A process of 0.1 that still runs, and took its partition again, writes such rows.
    """
    if not database.identities.is_keyed:
        return 0
    with database.write() as connection:
        changes = _changes_of(connection, database.identities, AGENTS)
        return _update(connection, _named_update(AGENTS), changes)


def _stored_proof(connection: Connection) -> str | None:
    return connection.execute(select(META.c.value).where(META.c.key == IDENTITY_PROOF)).scalar_one_or_none()


def _changes_of(connection: Connection, identities: IdentityHasher, table: Table) -> list[KeyChange]:
    """Return changes of keys in a table with the names of its agents; rows without a name (erased) keep theirs."""
    names = [table.c[name] for name in AGENT_NAME_COLUMNS]
    rows = connection.execute(select(codec.key_column(table), *names).where(table.c.agent_id != "").distinct()).all()
    changes: list[KeyChange] = []
    for old, *name in rows:
        new = codec.to_signed(identities.agent_key(*name))
        if new != old:
            changes.append({"o": old, "n": new, **dict(zip("tia", name, strict=True))})
    return changes


def _named_update(table: Table) -> Any:
    column = codec.key_column(table)
    names = (table.c[name] == bindparam(at) for name, at in zip(AGENT_NAME_COLUMNS, "tia", strict=True))
    return update(table).where(column == bindparam("o"), *names).values({column.name: bindparam("n", type_=BigInteger)})


def _update(connection: Connection, statement: Any, changes: Sequence[KeyChange]) -> int:
    for start in range(0, len(changes), _CHUNK):
        connection.execute(statement, list(changes[start : start + _CHUNK]))
    return len(changes)


def _change_unnamed(connection: Connection, identities: IdentityHasher, table: Table) -> int:
    """Change keys in a table without names, if other tables have the names of these agents."""
    new = {
        (change["o"], change["t"]): change["n"]
        for named in _NAMED_TABLES
        for change in _changes_of(connection, identities, named)
    }
    keys = tuple(table.primary_key.columns)
    rows = select(*keys, table.c.agent_key, (OUTBOX if table is DELIVERIES else table).c.tenant)
    if table is DELIVERIES:
        rows = rows.join_from(table, OUTBOX, table.c.seq == OUTBOX.c.seq)
    changes = []
    for *at, old, tenant in connection.execute(rows):
        if (old, tenant) in new:
            changes.append({"n": new[old, tenant], **_at(keys, at)})
    statement = update(table).where(_is_at(keys)).values(agent_key=bindparam("n", type_=BigInteger))
    return _update(connection, statement, changes)


def _is_at(keys: Sequence[Any]) -> Any:
    return and_(*(key == bindparam(f"k_{key.name}") for key in keys))


def _at(keys: Sequence[Any], values: Sequence[Any]) -> dict[str, Any]:
    return {f"k_{key.name}": value for key, value in zip(keys, values, strict=True)}


def _change_edges(connection: Connection, identities: IdentityHasher) -> int:
    ends = ("source_key", "target_key")
    statement = (
        update(EDGES)
        .where(EDGES.c.edge_id == bindparam("e"))
        .values(edge_id=bindparam("n_edge_id"), **{end: bindparam(f"n_{end}", type_=BigInteger) for end in ends})
    )
    changes: list[KeyChange] = []
    for row in connection.execute(select(EDGES)):
        params = edge_params(codec.EDGE_ROWS.read(row), identities)
        changes.append({"e": row.edge_id, **{f"n_{name}": params[name] for name in ("edge_id", *ends)}})
    return _update(connection, statement, changes)


_BLOBS = ((OUTBOX, OUTBOX.c.payload), (ACTUATIONS, ACTUATIONS.c.desired))
"""Columns of JSON that may have the key of an agent next to its name."""


def _change_blobs(connection: Connection, identities: IdentityHasher, table: Table, column: Any) -> int:
    keys = tuple(table.primary_key.columns)
    statement = update(table).where(_is_at(keys)).values({column.name: bindparam("blob", type_=LargeBinary)})
    changes: list[KeyChange] = []
    for *at, raw in connection.execute(select(*keys, column)):
        blob = _with_new_key(raw, identities)
        if blob != raw:
            changes.append({"blob": blob, **_at(keys, at)})
    return _update(connection, statement, changes)


def _with_new_key(raw: bytes, identities: IdentityHasher) -> bytes:
    if b'"agent_key"' not in raw:
        return raw
    try:
        content = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return raw
    for part in (content, content.get("data") if isinstance(content, dict) else None):
        if isinstance(part, dict) and "agent_key" in part and isinstance(part.get("agent_id"), str):
            name = part.get("tenant") or "", part.get("issuer") or "", part["agent_id"]
            key = identities.agent_key(*name)
            part["agent_key"] = str(key) if isinstance(part["agent_key"], str) else key
    return msgspec.json.encode(content)
