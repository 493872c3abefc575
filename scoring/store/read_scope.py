"""Whose rows a read may show. Said once, where a request is authenticated; every statement of a read is held to it.

Stores are told the tenants of a caller by the services that call them, and one of those could forget to. So a request
carries its scope in the context that it runs in (threads that read for it inherit it), and `Database.read` lets no
statement through that does not restrict each table to that scope itself. A route that forgets it fails for all but
callers of all tenants, and shows nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

from sqlalchemy import BinaryExpression, BindParameter, BooleanClauseList, ClauseElement, Column, Select, Table
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import Grouping
from sqlalchemy.sql.selectable import Alias, Join

from .sql_schema import (
    CHAINS,
    COUNTERS,
    DEAD_LETTERS,
    DELIVERIES,
    EVENT_IDS,
    EVENT_STREAMS,
    FEEDBACK,
    FEEDBACK_HOLDINGS,
    FEEDBACK_STEPS,
    FORGOTTEN,
    META,
    MODEL_HISTORY,
    MODEL_SWITCHES,
    MODEL_VERSIONS,
    OUTBOX,
    POSITIONS,
    RECEIVED_SIGNALS,
    SIGNAL_STATEMENTS,
    STREAM_SUBJECTS,
    TARGET_STOPS,
)


class ReadScope(NamedTuple):
    """Rows that a reader may see: of *tenants* (None = all of everything) and, where they have none, of *source*, which
    is the reader's name in the settings."""

    tenants: Collection[str] | None
    source: str = ""


WHOLE_DEPLOYMENT: Final = ReadScope(None)
"""The service's own work, which is about every tenant."""
NOBODY: Final = ReadScope(())
"""A request that is not authenticated yet."""

READ_SCOPE_OPTION: Final = "trustwatch_read_scope"
"""Execution option of connections that read for a caller."""

_scope: ContextVar[ReadScope] = ContextVar("read_scope", default=WHOLE_DEPLOYMENT)

PART_OF: Final[Mapping[Table, Table]] = {
    FEEDBACK_STEPS: FEEDBACK,
    FEEDBACK_HOLDINGS: FEEDBACK,
    DELIVERIES: OUTBOX,
}
"""Tables whose rows belong to whom the row of another table belongs to."""
OF_CALLER: Final[Mapping[Table, str]] = {
    DEAD_LETTERS: "source",
    EVENT_STREAMS: "owner",
    STREAM_SUBJECTS: "owner",
}
"""Tables whose rows belong to one caller, and the column with its name."""
OF_DEPLOYMENT: Final = frozenset(
    {
        CHAINS,
        COUNTERS,
        EVENT_IDS,
        FORGOTTEN,
        META,
        MODEL_HISTORY,
        MODEL_SWITCHES,
        MODEL_VERSIONS,
        POSITIONS,
        RECEIVED_SIGNALS,
        SIGNAL_STATEMENTS,
        TARGET_STOPS,
    }
)
"""Tables of the deployment, which say nothing of any tenant's agents or people; services decide who sees them."""


class UnscopedRead(RuntimeError):
    """A fault of ours: a read for one caller that is not restricted to what that caller may see. Nothing was read."""


def current_read_scope() -> ReadScope:
    """Whose rows may be read here and now."""
    return _scope.get()


def restrict_reads(scope: ReadScope) -> None:
    """Hold every read of this task, and of what it starts, to *scope* from now on."""
    _scope.set(scope)


class reads_of:
    """Hold every read within to *scope*, and to what was before after it.

    A class, since each request enters one: a generator's context manager takes three times as long.
    """

    __slots__ = ("_before", "_scope")

    def __init__(self, scope: ReadScope) -> None:
        self._scope = scope

    def __enter__(self) -> None:
        self._before = _scope.set(self._scope)

    def __exit__(self, *_: object) -> None:
        _scope.reset(self._before)


def check_executed_statement(
    _connection: object, statement: Any, _many: object, parameters: Mapping[str, Any], options: Mapping[str, Any]
) -> None:
    """Listen to the execution of statements. Raises UnscopedRead where one reads more than its connection may."""
    scope = options.get(READ_SCOPE_OPTION)
    if scope is not None:
        check_statement(statement, scope, parameters)


def check_statement(statement: Any, scope: ReadScope, parameters: Mapping[str, Any] | None = None) -> None:
    """Raise UnscopedRead unless each table in *statement* is restricted to *scope* where it is read."""
    if not isinstance(statement, Select):
        raise UnscopedRead("only a SELECT of the schema's tables is read for a caller, since no other can be checked")
    for element in visitors.iterate(statement):
        if isinstance(element, Select):
            parts = list(_own_parts(element))
            conditions = list(_conditions(element, parts))
            for table in _tables(parts):
                _check_table(table, conditions, scope, parameters or {})


def _check_table(
    table: Table, conditions: Collection[BinaryExpression[Any]], scope: ReadScope, parameters: Mapping[str, Any]
) -> None:
    if table in OF_DEPLOYMENT:
        return
    owner = OF_CALLER.get(table, "tenant")
    allowed = (scope.source,) if table in OF_CALLER else scope.tenants
    column = table.c.get(owner)
    if column is not None:
        is_restricted = any(_limits(condition, column, allowed or (), parameters) for condition in conditions)
    else:
        parent = PART_OF.get(table)
        is_restricted = parent is not None and any(_belongs_to(condition, table, parent) for condition in conditions)
    if not is_restricted:
        raise UnscopedRead(
            f"a read of {table.name} for one caller is not restricted to its {owner}: pass the caller's tenants to the "
            "store (`visible_tenants`), or say in `reads_of` that the whole deployment is read and why"
        )


def _limits(
    condition: BinaryExpression[Any], column: Column[Any], allowed: Collection[str], parameters: Mapping[str, Any]
) -> bool:
    """True if *condition* leaves nothing but values of *column* that are allowed."""
    bound = condition.right
    if condition.left is not column or not isinstance(bound, BindParameter):
        return False
    value = parameters.get(bound.key, bound.value)
    if condition.operator is operators.in_op:
        return set(value) <= set(allowed)
    return condition.operator is operators.eq and value in allowed


def _belongs_to(condition: BinaryExpression[Any], table: Table, parent: Table) -> bool:
    """True if *condition* ties rows of *table* to rows of *parent*, which are held to the scope where they are read."""
    if not isinstance(condition.left, Column) or condition.left.table is not table:
        return False
    if condition.operator is operators.eq:
        return isinstance(condition.right, Column) and condition.right.table is parent
    reads = (part for part in visitors.iterate(condition.right) if isinstance(part, Select))
    return condition.operator is operators.in_op and any(parent in _tables(_own_parts(part)) for part in reads)


def _own_parts(select: Select[*tuple[Any, ...]]) -> Iterator[ClauseElement]:
    """Everything in *select* but what is within its subqueries, which are looked at by themselves."""
    waiting: list[Any] = list(select.get_children())
    while waiting:
        part = waiting.pop()
        yield part
        if not isinstance(part, Select | Table):
            waiting += part.get_children()


def _tables(parts: Iterable[ClauseElement]) -> set[Table]:
    """Tables that are read or named in a SELECT, given its parts."""
    tables: set[Table] = set()
    for part in parts:
        source = part.table if isinstance(part, Column) else part
        while isinstance(source, Alias):
            source = source.element
        if isinstance(source, Table):
            tables.add(source)
    return tables


def _conditions(select: Select[*tuple[Any, ...]], parts: Iterable[ClauseElement]) -> Iterator[BinaryExpression[Any]]:
    """Conditions that every row of *select* meets: those joined by AND, and those of inner joins."""
    waiting: list[Any] = [select.whereclause]
    waiting += [part.onclause for part in parts if isinstance(part, Join) and not (part.isouter or part.full)]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Grouping):
            waiting.append(part.element)
        elif isinstance(part, BooleanClauseList) and part.operator is operators.and_:
            waiting += part.clauses
        elif isinstance(part, BinaryExpression):
            yield part
