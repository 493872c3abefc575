"""The rows that a read may return. Set when a request is authenticated, and checked for every statement of a read.

Services pass the tenants of a caller to the stores, and one of them could forget to. So the context of a request has
its scope, which threads that read for it inherit, and `Database.read` refuses a statement that does not restrict each
table to that scope. A route that forgets it fails for all but callers of all tenants, and returns nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

from sqlalchemy import BinaryExpression, BindParameter, BooleanClauseList, ClauseElement, Column, Select, Table
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import Grouping
from sqlalchemy.sql.selectable import Alias, Join


class ReadScope(NamedTuple):
    """The rows that a reader may see: of *tenants* (None = all), or of *source* if they have no tenant.

    The source is the reader's name in the settings.
    """

    tenants: Collection[str] | None
    source: str = ""


WHOLE_DEPLOYMENT: Final = ReadScope(None)
"""The service's internal work, which covers every tenant."""
NOBODY: Final = ReadScope(())
"""A request that is not authenticated yet."""

READ_SCOPE_OPTION: Final = "trustwatch_read_scope"
"""Execution option of connections that read for a caller."""

_scope: ContextVar[ReadScope] = ContextVar("read_scope", default=WHOLE_DEPLOYMENT)

PART_OF: Final = {"feedback_steps": "feedback", "feedback_holdings": "feedback", "deliveries": "outbox"}
"""Tables whose rows belong to rows of another table."""
OF_CALLER: Final = {"dead_letters": "source", "event_streams": "owner", "stream_subjects": "owner"}
"""Tables whose rows belong to one caller, and the column with its name."""
OF_DEPLOYMENT: Final = frozenset(
    {
        *("counters", "decision_chains", "event_ids", "forgotten", "meta", "positions", "target_stops"),
        *("model_history", "model_switches", "model_versions", "received_signals", "signal_statements"),
    }
)
"""Tables without data about any tenant's agents or people; services decide who sees them."""


class UnscopedRead(RuntimeError):
    """Raised because of a bug: a read for one caller is not restricted to what that caller may see. Nothing was
    read."""


def current_read_scope() -> ReadScope:
    """Return the scope of reads in this context."""
    return _scope.get()


def restrict_reads(scope: ReadScope) -> None:
    """Restrict every read of this task, and of tasks that it starts, to *scope*."""
    _scope.set(scope)


class reads_of:
    """Restricts every read within the block to *scope*.

    A class, since each request enters it: a generator's context manager takes three times as long.
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
    """Check a statement before it is executed. Raises UnscopedRead if it reads more than its connection may."""
    scope = options.get(READ_SCOPE_OPTION)
    if scope is not None:
        check_statement(statement, scope, parameters)


def check_statement(statement: Any, scope: ReadScope, parameters: Mapping[str, Any] | None = None) -> None:
    """Raise UnscopedRead unless each SELECT in *statement* restricts its tables to *scope*."""
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
    if table.name in OF_DEPLOYMENT:
        return
    owner = OF_CALLER.get(table.name, "tenant")
    allowed = (scope.source,) if table.name in OF_CALLER else scope.tenants
    column = table.c.get(owner)
    if column is not None:
        is_restricted = any(_limits(condition, column, allowed or (), parameters) for condition in conditions)
    else:
        parent = PART_OF.get(table.name)
        is_restricted = parent is not None and any(_belongs_to(condition, table, parent) for condition in conditions)
    if not is_restricted:
        raise UnscopedRead(
            f"a read of {table.name} for one caller is not restricted to its {owner}: pass the caller's tenants to the "
            "store (`visible_tenants`), or say in `reads_of` that the whole deployment is read and why"
        )


def _limits(
    condition: BinaryExpression[Any], column: Column[Any], allowed: Collection[str], parameters: Mapping[str, Any]
) -> bool:
    bound = condition.right
    if condition.left is not column or not isinstance(bound, BindParameter):
        return False
    value = parameters.get(bound.key, bound.value)
    if condition.operator is operators.in_op:
        return set(value) <= set(allowed)
    return condition.operator is operators.eq and value in allowed


def _belongs_to(condition: BinaryExpression[Any], table: Table, parent: str) -> bool:
    """Return whether *condition* ties rows of *table* to rows of *parent*, which are checked themselves."""
    if not isinstance(condition.left, Column) or condition.left.table is not table:
        return False
    if condition.operator is operators.eq:
        other = condition.right.table if isinstance(condition.right, Column) else None
        return isinstance(other, Table) and other.name == parent
    reads = (part for part in visitors.iterate(condition.right) if isinstance(part, Select))
    return condition.operator is operators.in_op and any(
        parent == read.name for part in reads for read in _tables(_own_parts(part))
    )


def _own_parts(select: Select[*tuple[Any, ...]]) -> Iterator[ClauseElement]:
    """Return the parts of *select* except those of its subqueries, which are checked separately."""
    waiting: list[Any] = list(select.get_children())
    while waiting:
        part = waiting.pop()
        yield part
        if not isinstance(part, Select | Table):
            waiting += part.get_children()


def _tables(parts: Iterable[ClauseElement]) -> set[Table]:
    tables: set[Table] = set()
    for part in parts:
        source = part.table if isinstance(part, Column) else part
        while isinstance(source, Alias):
            source = source.element
        if isinstance(source, Table):
            tables.add(source)
    return tables


def _conditions(select: Select[*tuple[Any, ...]], parts: Iterable[ClauseElement]) -> Iterator[BinaryExpression[Any]]:
    """Return the conditions that every row of *select* meets: those combined with AND, and those of inner joins."""
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
