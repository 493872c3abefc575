"""Erasure in the store: finds every row that names the subject, and deletes or changes it.

What happens to a table is derived from its columns, so that new tables are included:

* a row *about* the agent (`agent_key`) is deleted; a decision becomes a tombstone; an edge is deleted, or renamed for a
  principal;
* a dead letter that names the subject is deleted: its other content is unknown;
* in every other text, and in every JSON blob, the pseudonym replaces the name.

The agent's row is deleted by a commit of the pipeline (`Commit.removed_agents`), which would otherwise write it again.
Blobs of the feature builder and the risk kernel have numbers and keyed hashes, and no names.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    LargeBinary,
    Table,
    Text,
    and_,
    delete,
    false,
    or_,
    select,
    tuple_,
    update,
)

from trustwatch.ingest.record_erasure import ErasureSubject, NameEraser
from trustwatch.ingest.timestamps import DAY_MS

from ..records.agents import AgentName
from ..records.commits import ALERT_KEY_PREFIX
from . import codec
from .case_store import remove_empty_cases
from .containment_store import write_edges
from .database import Database
from .decision_chain import content_digest
from .dialects.statements import contains
from .sql_schema import (
    AGENTS,
    CASE_TIES,
    DEAD_LETTERS,
    DECISIONS,
    DELIVERIES,
    EDGES,
    FEEDBACK_HOLDINGS,
    METADATA,
    OUTBOX,
    TEXT,
)

MAX_EVENT_AHEAD_MS = 300_000
"""Time by which an event may be ahead of its arrival."""
_PAGE_ROWS = 200
_SKIPPED_COLUMNS = frozenset({"features", "risk"})
"""Arrays of kernels; an export has their content as text."""
_DEPLOYMENT_COLUMNS = frozenset(
    {
        *("partition", "offset", "version_epoch", "version_offset", "state_version", "seq", "chain_sequence"),
        *("target", "group", "attempts", "error", "last_error", "original", "desired", "stream_id"),
    }
)
"""Columns about the deployment's structure, settings or volume. `target` is a name in the settings, except in edges."""
_SEPARATE_TABLES = {
    *("agents", "decision_chains", "counters", "dead_letters", "edges", "erasures", "event_ids", "forgotten", "meta"),
    "positions",
}
"""Tables without names, or with a separate method."""
_CREATION_COLUMNS = (
    *("wanted_ms", "created_ms", "queued_ms", "asked_ms", "updated_ms"),
    *("joined_ms", "decided_ms", "last_ms"),  # of an agent of a case, its decisions and ties
)
_BINARY_STATE_COLUMNS = frozenset({"features", "risk", "p_values", "drift"})
_COLUMNS_WITHOUT_NAMES = frozenset(
    {
        *("tenant", "issuer", "agent_id", "kind", "status", "mode", "cause", "target", "decision_id", "state_version"),
        *("model_version", "baseline_version", "policy_version", "erasure_id", "redacted", "fingerprint", "version"),
        *("digest", "installed", "act", "verdict", "tie", "action", "page"),
    }
)
"""Columns with fixed texts, or with the agent that a row is about, which is not the erased agent."""


class ErasureScope(NamedTuple):
    """The rows that one erasure covers: those from before its FORGET record, by offset and arrival.

    `offsets` is by partition of a topic; if None there is one log, and `at_offset` counts.
    """

    erasure_id: str
    subject: ErasureSubject
    at_offset: int
    at_ms: int
    offsets: Mapping[int, int] | None = None

    @property
    def up_to(self) -> Mapping[int, int]:
        """Offset of the FORGET record by partition."""
        return {0: self.at_offset} if self.offsets is None else self.offsets

    def before_record(self, partition: Any, offset: Any, *, later: bool = False) -> ColumnElement[bool]:
        """Return the condition that a row has an offset up to the FORGET record of its partition, or a *later* one."""
        return or_(
            false(),
            *(and_(partition == at, offset > end if later else offset <= end) for at, end in self.up_to.items()),
        )


class SubjectStore:
    """Exports and erases all rows about one agent or principal."""

    def __init__(self, database: Database, new_salt: Callable[[], bytes]) -> None:
        self._database = database
        self._new_salt = new_salt

    def erase(self, scope: ErasureScope, *, dry: bool = False) -> dict[str, int]:
        """Erase a subject from every table, a few rows a transaction; *dry* only counts what is left."""
        counts: dict[str, int] = {}
        for name, count in self._steps(scope, dry):
            if count:
                counts[name] = counts.get(name, 0) + count
        return counts

    def _steps(self, scope: ErasureScope, dry: bool) -> list[tuple[str, int]]:
        work = _SubjectErasure(self._database, self._new_salt, scope, dry)
        steps = [
            ("dead_letters", work.remove_dead_letters()),
            ("edges", work.remove_edges()),
            ("decisions", work.write_tombstones()),
            ("outbox", work.removed_alerts),
        ]
        for table in METADATA.sorted_tables[::-1]:  # those that refer to others first
            if table.name not in _SEPARATE_TABLES:
                if table is not DECISIONS and "agent_key" in table.c:
                    steps.append((table.name, work.remove_own_rows(table)))
                steps.append((f"{table.name}.changed", work.pseudonymise_table(table)))
        if not dry:
            remove_empty_cases(self._database)
        steps.append(("agents.changed", work.pseudonymise_table(AGENTS)))
        if scope.subject.kind == "agent":
            steps.append(("agents", work.count_stale_agents()))
        return steps

    def export(
        self, subject: ErasureSubject, sources: Collection[str] | None = None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Iterate over the rows about a subject, with their table names, in pages with a transaction each."""
        hidden = _SKIPPED_COLUMNS if sources is None else _SKIPPED_COLUMNS | _DEPLOYMENT_COLUMNS
        agent = codec.agent_of(subject, self._database.known_identities())
        key = codec.to_signed(agent.key)
        for table in METADATA.sorted_tables:
            if "agent_key" in table.c:
                yield from self._iterate_rows(table, _is_own_row(table, agent), hidden)
        yield from self._iterate_rows(AGENTS, codec.is_about(AGENTS, agent), hidden)
        ends = [and_(EDGES.c[f"{end}_key"] == key, EDGES.c[end] == subject.name) for end in _ENDS]
        of_tenant = and_(EDGES.c.tenant == subject.tenant, EDGES.c.issuer == subject.issuer)
        yield from self._iterate_rows(EDGES, and_(of_tenant, or_(*ends)), hidden - {"target"})
        names = NameEraser(subject.name, "")
        filters = [contains(DEAD_LETTERS.c.raw, needle) for needle in (*names.needles, b"\\u")]
        where = or_(*filters) if sources is None else and_(or_(*filters), DEAD_LETTERS.c.source.in_(sorted(sources)))
        for name, row in self._iterate_rows(DEAD_LETTERS, where, hidden, raw=True):
            if names.is_in_bytes(row["raw"]):
                yield name, row | {"raw": _export_value(row["raw"])}

    def _iterate_rows(
        self, table: Table, where: ColumnElement[bool], hidden: Collection[str], *, raw: bool = False
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        keys = tuple(table.primary_key.columns)
        for row in self._database.iterate(select(table).where(where), keys, _PAGE_ROWS):
            values = {name: value for name, value in row._mapping.items() if name not in hidden}
            yield table.name, values if raw else {name: _export_value(value) for name, value in values.items()}


def _is_own_row(table: Table, agent: AgentName) -> ColumnElement[bool]:
    """Match rows about the agent by key and name, or by tenant if the table has no names."""
    if "agent_id" in table.c:
        return codec.is_about(table, agent)
    mine = table.c.agent_key == codec.to_signed(agent.key)
    if table is DELIVERIES:  # of the tenant whose alert it is
        return and_(mine, table.c.seq.in_(select(OUTBOX.c.seq).where(OUTBOX.c.tenant == agent.tenant)))
    return and_(mine, table.c.tenant == agent.tenant)


class _SubjectErasure:
    def __init__(self, database: Database, new_salt: Callable[[], bytes], scope: ErasureScope, dry: bool) -> None:
        self._database = database
        self._new_salt = new_salt
        self._scope = scope
        self._subject = scope.subject
        self._names = NameEraser(scope.subject.name, scope.subject.pseudonym)
        self._agent = codec.agent_of(scope.subject, database.known_identities())
        self._dry = dry
        self.removed_alerts = 0
        """Alerts that were deleted with their decisions."""

    def remove_own_rows(self, table: Table) -> int:
        if self._subject.kind != "agent":
            return 0
        born = next((table.c[name] for name in _CREATION_COLUMNS if name in table.c), None)
        mine: list[ColumnElement[bool]] = [_is_own_row(table, self._agent)]
        if born is not None:
            mine.append(born <= self._scope.at_ms)
        return self._for_each_row(table, and_(*mine), lambda connection, row: self._remove(connection, table, row))

    def count_stale_agents(self) -> int:
        """Count the agent's row if it is from before the order, which means that the pipeline still has it."""
        is_early = self._scope.before_record(AGENTS.c.partition, AGENTS.c.version_offset)
        return len(self._database.scalars(select(AGENTS.c.key).where(codec.is_about(AGENTS, self._agent), is_early)))

    def write_tombstones(self) -> int:
        if self._subject.kind != "agent":
            return 0
        is_later = self._scope.before_record(DECISIONS.c.partition, DECISIONS.c.offset, later=True)
        mine = and_(_is_own_row(DECISIONS, self._agent), ~is_later)
        return self._for_each_row(DECISIONS, mine, self._write_tombstone)

    def remove_dead_letters(self) -> int:
        columns = [DEAD_LETTERS.c[name] for name in ("raw", "reason", "path")]

        def remove(connection: Connection, row: Any) -> bool:
            names_subject = self._names.is_in_bytes(row.raw) or any(map(self._names.is_in_text, (row.reason, row.path)))
            return names_subject and self._remove(connection, DEAD_LETTERS, row)

        return self._for_each_row(DEAD_LETTERS, self._candidate_filter(columns), remove)

    def remove_edges(self) -> int:
        """Delete edges of the agent; rename those of a principal."""
        mine = [EDGES.c.tenant == self._subject.tenant, or_(*(EDGES.c[end] == self._subject.name for end in _ENDS))]
        if self._subject.kind == "agent":
            mine += [EDGES.c.issuer == self._subject.issuer, EDGES.c.first_ms <= self._scope.at_ms + MAX_EVENT_AHEAD_MS]
        else:
            mine += [EDGES.c.kind == "acts_for", EDGES.c.target == self._subject.name]

        def remove(connection: Connection, row: Any) -> bool:
            if self._subject.kind == "principal":
                renamed = msgspec.structs.replace(codec.EDGE_ROWS.read(row), target=self._subject.pseudonym)
                write_edges(connection, [renamed], self._database.identities)
            return self._remove(connection, EDGES, row)

        return self._for_each_row(EDGES, and_(*mine), remove)

    def pseudonymise_table(self, table: Table) -> int:
        columns = [column for column in table.columns if may_contain_names(column)]
        if not columns:
            return 0
        where = [self._candidate_filter(columns)]
        if "tenant" in table.c:
            where.append(table.c.tenant == self._subject.tenant)
        if "agent_id" in table.c:
            where.append(table.c.agent_id != self._subject.name)  # the agent's rows, or those of a namesake
        return self._for_each_row(
            table, and_(*where), lambda connection, row: self._rewrite(connection, table, columns, row)
        )

    def _candidate_filter(self, columns: Sequence[Any]) -> ColumnElement[bool]:
        """Preselect rows in the database; JSON with escapes is checked row by row."""
        filters: list[ColumnElement[bool]] = []
        for column in columns:
            if isinstance(column.type, LargeBinary):
                filters += [contains(column, needle) for needle in (*self._names.needles, b"\\u")]
            else:
                filters.append(contains(column, self._names.name))
        return or_(*filters)

    def _rewrite(self, connection: Connection, table: Table, columns: Sequence[Any], row: Any) -> bool:
        values: dict[str, Any] = {}
        if table is FEEDBACK_HOLDINGS and msgspec.json.decode(row.rule).get("tenant", "") != self._subject.tenant:
            return False
        if table is CASE_TIES:  # its key is a digest of the name
            return self._names.is_in_text(row.value) and self._remove(connection, table, row)
        for column in columns:
            old = row._mapping[column.name]
            new: Any
            if not isinstance(old, bytes):
                new = self._names.erase_in_text(old)
            elif table is FEEDBACK_HOLDINGS:
                new = self._names.erase_in_command(old)
            else:
                new = self._names.erase_in_json(old, keep_members=True)
            if new != old:
                values[column.name] = new
        if values and not self._dry:
            if table is DECISIONS and row.chain_sequence:  # the chain keeps the digest of the old content
                salt = self._new_salt().hex()
                redacted = content_digest(salt, dict(row._mapping) | values)
                values |= {"erasure_id": self._scope.erasure_id, "chain_salt": salt, "redacted": redacted}
            connection.execute(update(table).where(_primary_key_equals(table, row)).values(values))
        return bool(values)

    def _write_tombstone(self, connection: Connection, row: Any) -> bool:
        """Replace a decision by a tombstone that keeps its tenant and the day of its time."""
        values = {
            column.name: b"" if isinstance(column.type, LargeBinary) else "" if _is_text(column) else 0
            for column in DECISIONS.columns
        }
        values |= {name: row._mapping[name] for name in ("tenant", "partition", *_TOMBSTONE_COLUMNS)}
        values |= {
            "decision_id": f"erased-{row.partition}-{row.chain_sequence}",
            "decided_ms": row.decided_ms // DAY_MS * DAY_MS,
            "reasons": b"[]",
            "feature_vector": b"{}",
            "evidence": b"{}",
            "offset": -1,
            "erasure_id": self._scope.erasure_id,
        }
        if not self._dry:  # by its decision: an alert has no offset, and its event's time may be after the order's
            gone = delete(OUTBOX).where(OUTBOX.c.key == f"{ALERT_KEY_PREFIX}{row.decision_id}")
            self.removed_alerts += connection.execute(gone).rowcount
        if not row.chain_sequence:  # from before there was a chain
            return self._remove(connection, DECISIONS, row)
        if not self._dry:
            connection.execute(update(DECISIONS).where(_primary_key_equals(DECISIONS, row)).values(values))
        return True

    def _remove(self, connection: Connection, table: Table, row: Any) -> bool:
        if not self._dry:
            connection.execute(delete(table).where(_primary_key_equals(table, row)))
        return True

    def _for_each_row(self, table: Table, where: ColumnElement[bool], act: Callable[[Connection, Any], bool]) -> int:
        """Process the selected rows, a page per transaction; count those that *act* changed."""
        keys = tuple(table.primary_key.columns)
        done, query, after = 0, select(*keys).where(where).order_by(*keys).limit(_PAGE_ROWS), None
        while True:
            page = query if after is None else query.where(tuple_(*keys) > tuple(after))
            with self._database.read() as connection:  # the long search takes no lock
                rows = connection.execute(page).all()
            if rows:
                with self._database.read() if self._dry else self._database.write() as connection:
                    for key in rows:
                        mine = and_(where, *(column == value for column, value in zip(keys, key, strict=True)))
                        row = connection.execute(select(table).where(mine)).one_or_none()
                        done += row is not None and act(connection, row)
            if len(rows) < _PAGE_ROWS:
                return done
            after = rows[-1]


_ENDS = ("source", "target")
_TOMBSTONE_COLUMNS = ("chain_sequence", "chain_content", "chain_previous", "chain_digest")


def _primary_key_equals(table: Table, row: Any) -> ColumnElement[bool]:
    return and_(*(column == row._mapping[column.name] for column in table.primary_key.columns))


def may_contain_names(column: Any) -> bool:
    """Return whether a column may have text chosen by a person: not a key, and not an array of a kernel."""
    if column.name in _BINARY_STATE_COLUMNS | _COLUMNS_WITHOUT_NAMES or column.name.startswith("chain_"):
        return False
    if column.primary_key or column.unique:
        return False
    return isinstance(column.type, LargeBinary) or _is_text(column)


def _is_text(column: Any) -> bool:
    return isinstance(column.type, Text) or column.type is TEXT


def _export_value(value: Any) -> Any:
    """Return the value of a column for an export: bytes as JSON if possible, otherwise in base64."""
    if not isinstance(value, bytes):
        return value
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {"base64": base64.b64encode(value).decode()}
