"""Conversion between rows of the tables and the values of `scoring/records`."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import msgspec
from sqlalchemy import Column, ColumnElement, LargeBinary, Table, and_, select

from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.record_erasure import ErasureSubject

from ..records.agents import AgentEdge, AgentName, AgentRow, AgentSummary
from ..records.commits import OutboxRow, Position
from ..records.decisions import Decision
from .sql_schema import AGENT_NAME_COLUMNS, AGENTS, DECISIONS, EDGES, OUTBOX, StoredMember, stored_members

if TYPE_CHECKING:
    from sqlalchemy import Row

    # SQLAlchemy 2.1 types a row by all of its columns; our code accesses columns by name.
    AnyRow = Row[*tuple[Any, ...]]

T = TypeVar("T", bound=msgspec.Struct)
Convert = Callable[[Any], Any]

_HALF = 1 << 63
_FULL = 1 << 64
_encode_json = msgspec.json.Encoder().encode


def to_signed(key: int) -> int:
    """Return the signed 64-bit number with the bits of the unsigned *key*.

    >>> to_signed(2**64 - 1), to_signed(7)
    (-1, 7)
    """
    return key - _FULL if key >= _HALF else key


def to_unsigned(number: int) -> int:
    """Invert `to_signed`."""
    return number + _FULL if number < 0 else number


def key_range(after: int | None, last: int | None) -> tuple[int, int]:
    """Return the least and greatest signed number of the keys after *after* up to *last* (unsigned; None = no bound).

    >>> key_range(None, 2**64 - 1), key_range(2**64 - 1, None), key_range(2**63 - 1, None)
    ((-9223372036854775808, -1), (0, 9223372036854775807), (0, -1))
    """
    least = -_HALF if after is None else to_signed(after) + 1
    greatest = _HALF - 1 if last is None else to_signed(last)
    return (least, greatest) if least < _HALF else (0, -1)  # an empty range: no key comes after the greatest


def to_agent_name(values: Mapping[Any, Any]) -> AgentName:
    """Return the name of the agent that a row with `agent_key` is about."""
    return AgentName(to_unsigned(values["agent_key"]), *(values[name] for name in AGENT_NAME_COLUMNS))


class RowCodec(Generic[T]):
    """Converts between a struct and the columns that `sql_schema.struct_table` makes from its members.

    Both directions run for every agent of every commit, so each is an expression that is compiled once.
    """

    values: Callable[[T], tuple[Any, ...]]
    """Returns the values of `columns` of an item."""

    def __init__(
        self, struct: type[T], *tables: Table, agent_key: str = "agent_key", without: Collection[str] = ()
    ) -> None:
        table_columns = {column.name: column for table in reversed(tables) for column in table.columns}
        by_name_alone = [name for name, it in signature(struct).parameters.items() if it.kind is it.KEYWORD_ONLY]
        used: dict[str, Any] = {"to_signed": to_signed, "to_unsigned": to_unsigned, "Name": AgentName, "struct": struct}
        names: list[str] = []
        written: list[str] = []
        read: list[str] = []
        for member in stored_members(struct):
            name, value, kept = member.name, f"item.{member.name}", member.name
            if member.type is AgentName:
                names += (agent_key, *AGENT_NAME_COLUMNS)
                written += (f"to_signed({value}.key)", *(f"{value}.{part}" for part in AGENT_NAME_COLUMNS))
                kept = f"Name(to_unsigned({agent_key}), {', '.join(AGENT_NAME_COLUMNS)})"
            elif name in without:
                kept = "None"
            else:
                names.append(name)
                if (converters := _converters(member)) is not None:
                    used[f"encode_{name}"], used[f"decode_{name}"] = converters
                    value, kept = f"encode_{name}({value})", f"decode_{name}({kept})"
                written.append(value)
            read.append(f"{name}={kept}" if name in by_name_alone else kept)
        self.columns: Final = tuple(table_columns[name] for name in names)
        """Columns of the members, in their order."""
        self._table = tables[0]
        self._names = names
        self.values = eval(f"lambda item: ({', '.join(written)},)", used)  # noqa: S307 (our own names)
        self._make = eval(f"lambda {', '.join(names)}: struct({', '.join(read)})", used)  # noqa: S307

    def select(self, tenants: Collection[str] | None = None, *conditions: ColumnElement[bool]) -> Any:
        """Return the query for rows that meet *conditions* and belong to one of *tenants*; None = any tenant."""
        query = select(*self.columns).where(*conditions)
        return query if tenants is None else query.where(self._table.c.tenant.in_(sorted(tenants)))

    def params(self, item: T) -> dict[str, Any]:
        """Return values by column name, as parameters of a statement."""
        return dict(zip(self._names, self.values(item), strict=True))

    def read(self, row: Sequence[Any]) -> T:
        """Return the item in a row that begins with `columns`, as rows of its table do."""
        made: T = self._make(*row[: len(self.columns)])
        return made


def _converters(member: StoredMember) -> tuple[Convert, Convert] | None:
    if member.name == "agent_key":
        return to_signed, to_unsigned
    if member.type is bool:
        return int, bool
    if member.column_type is not LargeBinary or member.type is bytes:
        return None
    return _encode_json, msgspec.json.Decoder(member.type).decode


AGENT_ROWS: Final = RowCodec(AgentRow, AGENTS, agent_key="key")
AGENT_SUMMARIES: Final = RowCodec(AgentSummary, AGENTS, agent_key="key")
DECISION_ROWS: Final = RowCodec(Decision, DECISIONS)
OUTBOX_ROWS: Final = RowCodec(OutboxRow, OUTBOX)
EDGE_ROWS: Final = RowCodec(AgentEdge, EDGES)

AGENT_COLUMNS = AGENT_ROWS.columns
to_agent, to_summary = AGENT_ROWS.read, AGENT_SUMMARIES.read
to_decision, to_outbox = DECISION_ROWS.read, OUTBOX_ROWS.read
_AGENT_COLUMN_NAMES = tuple(column.name for column in AGENTS.columns)


def agent_values(row: AgentRow, version: Position) -> tuple[Any, ...]:
    """Return the values of a row of `agents` in the order of its columns."""
    return (*AGENT_ROWS.values(row), version.partition, version.epoch, version.offset)


def agent_params(row: AgentRow, version: Position) -> dict[str, Any]:
    """Return the parameters of an upsert into `agents`."""
    return dict(zip(_AGENT_COLUMN_NAMES, agent_values(row, version), strict=True))


def agent_of(subject: ErasureSubject, identities: IdentityHasher) -> AgentName:
    """Return the agent that an erasure is about."""
    return AgentName(identities.agent_key(*subject.agent_identity), *subject.agent_identity)


def is_about(table: Table, agent: AgentName) -> ColumnElement[bool]:
    """Return the condition that a row of *table* is about *agent*: by its key, which has an index, and its full
    name."""
    names = (table.c[name] == getattr(agent, name) for name in AGENT_NAME_COLUMNS)
    return and_(key_column(table) == to_signed(agent.key), *names)


def key_column(table: Table) -> Column[int]:
    """Return the column of a table with the keys of agents."""
    return table.c.key if table is AGENTS else table.c.agent_key


def decision_params(decision: Decision) -> dict[str, Any]:
    """Return the parameters of an insert into `decisions`. Raises ValueError if a feature is not finite, as JSON cannot
    have it."""
    vector = decision.feature_vector
    if not all(map(math.isfinite, vector.values())):
        name, value = next((name, value) for name, value in vector.items() if not math.isfinite(value))
        raise ValueError(f"decision {decision.decision_id}: feature {name!r} is {value}")
    return DECISION_ROWS.params(decision)
