"""Acts of people, read from where they are kept anyway: one list over the tables that name who did something.

There is no table of acts. Each source is a query of one table; a page takes the newest of each and merges them. The
cursor is a place in the common order: time, name of the source, id within it. So a page begins where the one before
ended, in every source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from sqlalchemy import Connection, Table, and_, literal_column, select, tuple_

from ..records.acts import Act, ActKind
from ..records.agents import AgentName, RiskLevel
from ..records.cases import BY_SERVICE
from ..records.decisions import RiskReason
from . import codec
from .database import MAX_PAGE, Database, Page, Tenants, between, from_cursor, to_cursor, visible, with_values
from .decision_store import IS_READABLE
from .sql_schema import (
    AGENT_NAME_COLUMNS,
    CASE_AGENTS,
    CASE_ENTRIES,
    DECISIONS,
    ERASURES,
    EVENT_STREAMS,
    FEEDBACK,
    INTERVENTIONS,
    MODEL_HISTORY,
)

if TYPE_CHECKING:
    from sqlalchemy import Column, ColumnElement

    from .database import AnySelect

RELEASES_READ = 200
"""Releases that are read in one go."""
MODEL_NAMES_OF_SERVICE: Final = ("keeper", "pipeline", "service")
"""Names under which the service itself appears in the history of models."""

RELEASE: Final = "release"
_IS_RELEASE = DECISIONS.c.cause == literal_column("'release'")  # spelt as in the partial index
_ActKey = tuple[int, str, str, int]
"""Time, source, id, place within the id: the common order."""
_KEY_SHAPE: Any = _ActKey
_object_decoder = msgspec.json.Decoder(dict[str, Any])
_reasons_decoder = msgspec.json.Decoder(tuple[RiskReason, ...])
_scopes_decoder = msgspec.json.Decoder(tuple[str, ...])
_APPROVAL_ACTIONS: Final = {"rejected": "reject", "ended": "withdraw"}
_CASE_DETAILS: Final = ("verdict", "owner", "until", "into", "from")
"""Members of what a case keeps of an act that are shown with it, the first that is there."""


class ActFilters(NamedTuple):
    """Filters of a list; None = all. Times bound the act, 0 = no bound."""

    by: str | None = None
    kind: ActKind | None = None
    agent: AgentName | None = None
    since_ms: int = 0
    until_ms: int = 0


class _Source(NamedTuple):
    """One table that holds acts, and its layout.

    Attributes:
        name: in cursors.
        at, by: columns with when and who.
        order: columns that distinguish acts of the same time: an id, and where it has several a number.
        service: names of the service itself, which is not a person.
        about: condition of acts about an agent; None = they are about none.
        tenant: column with the tenant; None = of the deployment, for readers of all tenants alone.
    """

    name: str
    kind: ActKind
    query: AnySelect
    at: Column[int]
    by: Column[str]
    order: Sequence[Column[Any]]
    make: Callable[[Mapping[Any, Any]], Act]
    about: Callable[[AgentName, Tenants], ColumnElement[bool]] | None
    tenant: Column[str] | None
    service: Sequence[str]


class ActStore:
    """Acts of people, newest first."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(
        self, tenants: Tenants = None, filters: ActFilters | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page[Act]:
        """Acts, newest first; see `ActFilters`. Raises BadCursor."""
        given, limit = filters or ActFilters(), min(max(limit, 1), MAX_PAGE)
        before: _ActKey | None = None if cursor is None else from_cursor(cursor, _KEY_SHAPE)
        keyed_acts: list[tuple[_ActKey, Act]] = []
        with self._database.read() as connection:
            for source in _SOURCES:
                if _speaks_of(source, given, tenants):
                    keyed_acts += _newest(connection, source, given, tenants, before, limit + 1)
            if given.kind in (None, RELEASE):
                keyed_acts += islice(_releases(connection, given, tenants, before), limit + 1)
        keyed_acts.sort(key=lambda keyed: keyed[0], reverse=True)
        more = len(keyed_acts) > limit
        return Page([act for _, act in keyed_acts[:limit]], to_cursor(keyed_acts[limit - 1][0]) if more else None)


def _speaks_of(source: _Source, filters: ActFilters, tenants: Tenants) -> bool:
    if filters.kind not in (None, source.kind):
        return False
    if filters.agent is not None and source.about is None:
        return False
    return source.tenant is not None or tenants is None


def _newest(
    connection: Connection,
    source: _Source,
    filters: ActFilters,
    tenants: Tenants,
    before: _ActKey | None,
    limit: int,
) -> Iterator[tuple[_ActKey, Act]]:
    query = source.query.where(source.by.not_in(("", *source.service)))
    if source.tenant is not None:
        query = visible(query, source.tenant, tenants)
    query = with_values(query, {source.by: filters.by})
    if filters.agent is not None and source.about is not None:
        query = query.where(source.about(filters.agent, tenants))
    query = between(query, source.at, filters.since_ms, filters.until_ms)
    if before is not None:
        query = query.where(_is_before(source.name, source.at, source.order, before))
    for row in connection.execute(
        query.order_by(source.at.desc(), *(column.desc() for column in source.order)).limit(limit)
    ):
        values = row._mapping
        act = source.make(values)
        number = values[source.order[1].name] if len(source.order) > 1 else 0
        yield (act.at_ms, source.name, values[source.order[0].name], number), act


def _is_before(name: str, at: Any, order: Sequence[Any], before: _ActKey) -> ColumnElement[bool]:
    """Condition that an act of the source *name* stands behind a place in the common order."""
    at_ms, source, *rest = before
    if name == source:
        return tuple_(at, *order) < tuple_(at_ms, *rest[: len(order)])
    condition: ColumnElement[bool] = at <= at_ms if name < source else at < at_ms
    return condition


# Releases are control records of the log: what is stored of them is the decision that came of each.


def _releases(
    connection: Connection, filters: ActFilters, tenants: Tenants, before: _ActKey | None
) -> Iterator[tuple[_ActKey, Act]]:
    """Releases, newest first. The reason names who released, so those of others are skipped here."""
    order = (DECISIONS.c.decided_ms, DECISIONS.c.decision_id)
    columns = (DECISIONS.c[name] for name in ("agent_key", *AGENT_NAME_COLUMNS, "level", "reasons"))
    query = visible(select(*order, *columns).where(_IS_RELEASE, IS_READABLE), DECISIONS.c.tenant, tenants)
    query = between(query, DECISIONS.c.decided_ms, filters.since_ms, filters.until_ms)
    if filters.agent is not None:
        query = query.where(codec.is_about(DECISIONS, filters.agent))
    query = query.order_by(*(column.desc() for column in order)).limit(RELEASES_READ)
    while True:
        page = query if before is None else query.where(_is_before(RELEASE, order[0], order[1:], before))
        rows = connection.execute(page).all()
        for row in rows:
            before = (row.decided_ms, RELEASE, row.decision_id, 0)
            act = _release_act(row._mapping)
            if act is not None and filters.by in (None, act.by):
                yield before, act
        if len(rows) < RELEASES_READ:
            return


def _release_act(values: Mapping[Any, Any]) -> Act | None:
    reasons = _reasons_decoder.decode(values["reasons"])
    if not reasons:
        return None
    by = reasons[0].observed
    why = reasons[0].text.removeprefix(f"released by {by}").removeprefix(": ")
    agent = codec.to_agent_name(values)
    level = f"to {RiskLevel(values['level']).label}"
    return Act(values["decided_ms"], by, "release", RELEASE, values["decision_id"], why, level, agent.tenant, agent)


# The other sources, one for each kind of time and name in a table.


def _pinned(values: Mapping[Any, Any]) -> Act:
    agent = codec.to_agent_name(values)
    what = (values["intervention_id"], values["asked_why"], f"as {RiskLevel(values['level']).label}")
    return Act(values["asked_ms"], values["asked_by"], "pin", "pin", *what, agent.tenant, agent)


def _unpinned(values: Mapping[Any, Any]) -> Act:
    agent = codec.to_agent_name(values)
    what = (values["intervention_id"], values["why"], "")
    return Act(values["decided_ms"], values["decided_by"], "pin", "unpin", *what, agent.tenant, agent)


def _decided(values: Mapping[Any, Any]) -> Act:
    agent, action = codec.to_agent_name(values), _APPROVAL_ACTIONS.get(values["status"], "approve")
    what = (values["intervention_id"], values["why"], ", ".join(_scopes_decoder.decode(values["scopes"])))
    return Act(values["decided_ms"], values["decided_by"], "approval", action, *what, agent.tenant, agent)


def _done_to_case(values: Mapping[Any, Any]) -> Act:
    kept = _object_decoder.decode(values["detail"])
    detail = next((f"{name} {kept[name]}" for name in _CASE_DETAILS if kept.get(name)), "")
    what = (values["action"], values["case_id"], values["note"], detail)
    return Act(values["at_ms"], values["by"], "case", *what, values["tenant"], None)


def _judged(values: Mapping[Any, Any]) -> Act:
    agent, verdict = codec.to_agent_name(values), values["verdict"].replace("_", " ")
    what = (values["feedback_id"], values["reason"], verdict)
    return Act(values["created_ms"], values["author"], "feedback", "judge", *what, agent.tenant, agent)


def _revoked(values: Mapping[Any, Any]) -> Act:
    agent, verdict = codec.to_agent_name(values), values["verdict"].replace("_", " ")
    what = (values["feedback_id"], values["revoked_why"], verdict)
    return Act(values["revoked_ms"], values["revoked_by"], "feedback", "revoke", *what, agent.tenant, agent)


def _asked_to_erase(values: Mapping[Any, Any]) -> Act:
    what = (values["erasure_id"], values["reason"], "an agent" if values["kind"] == "agent" else "a principal")
    return Act(values["asked_ms"], values["asked_by"], "erasure", "erase", *what, values["tenant"], None)


def _ordered_of_model(values: Mapping[Any, Any]) -> Act:
    forced = "against the figures" if _object_decoder.decode(values["detail"]).get("forced") else ""
    what = (values["act"], values["version"], values["why"], forced)
    return Act(values["at_ms"], values["by"], "model", *what, None, None)


def _made_stream(values: Mapping[Any, Any]) -> Act:
    return Act(values["created_ms"], values["owner"], "stream", "create", values["stream_id"], "", "", None, None)


def _entries_about(agent: AgentName, tenants: Tenants) -> ColumnElement[bool]:
    mine = select(CASE_AGENTS.c.case_id).where(codec.is_about(CASE_AGENTS, agent))
    return CASE_ENTRIES.c.case_id.in_(visible(mine, CASE_AGENTS.c.tenant, tenants))


def _source(
    name: str,
    kind: ActKind,
    table: Table,
    columns: tuple[str, ...],
    make: Callable[[Mapping[Any, Any]], Act],
    *conditions: ColumnElement[bool],
    about: Callable[[AgentName, Tenants], ColumnElement[bool]] | None = None,
    service: Sequence[str] = (BY_SERVICE,),
) -> _Source:
    """A source whose *columns* are when, who, and what orders acts of the same time."""
    at, by, *order = (table.c[column] for column in columns)
    if "agent_key" in table.c:
        about = lambda agent, _: codec.is_about(table, agent)  # noqa: E731
    return _Source(
        name, kind, select(table).where(*conditions), at, by, order, make, about, table.c.get("tenant"), service
    )


_PINNED, _DECIDED = ("asked_ms", "asked_by", "intervention_id"), ("decided_ms", "decided_by", "intervention_id")
_IS_PIN = INTERVENTIONS.c.kind == "pin"
_IS_DECIDED = and_(INTERVENTIONS.c.kind == "approval", INTERVENTIONS.c.decided_ms > 0)
_SAID, _REVOKED = ("created_ms", "author", "feedback_id"), ("revoked_ms", "revoked_by", "feedback_id")
_ENTERED, _ASKED = ("at_ms", "by", "case_id", "sequence"), ("asked_ms", "asked_by", "erasure_id")
_MADE, _WRITTEN = ("created_ms", "owner", "stream_id"), ("at_ms", "by", "entry_id")
_SOURCES: Final = (
    _source("pin", "pin", INTERVENTIONS, _PINNED, _pinned, _IS_PIN),
    # Of other pins their maker stands as who decided.
    _source("unpin", "pin", INTERVENTIONS, _DECIDED, _unpinned, _IS_PIN, INTERVENTIONS.c.status == "ended"),
    _source("approval", "approval", INTERVENTIONS, _DECIDED, _decided, _IS_DECIDED),
    _source("case", "case", CASE_ENTRIES, _ENTERED, _done_to_case, about=_entries_about),
    _source("judged", "feedback", FEEDBACK, _SAID, _judged),
    _source("revoked", "feedback", FEEDBACK, _REVOKED, _revoked, FEEDBACK.c.revoked_ms > 0),
    _source("erasure", "erasure", ERASURES, _ASKED, _asked_to_erase),
    _source("model", "model", MODEL_HISTORY, _WRITTEN, _ordered_of_model, service=MODEL_NAMES_OF_SERVICE),
    _source("stream", "stream", EVENT_STREAMS, _MADE, _made_stream),
)
