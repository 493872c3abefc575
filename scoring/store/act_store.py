"""Acts of people, read from the tables that name who did something: there is no table of acts.

Each source is a query of one table; a page takes the newest acts of each and merges them. The cursor is a place in the
common order: time, name of the source, id within it. Each page therefore begins where the previous one ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple, get_args

import msgspec
from sqlalchemy import Connection, Table, and_, literal_column, select, tuple_

from trustwatch.ingest.described import member

from ..records.agents import AgentName, RiskLevel
from ..records.cases import BY_SERVICE
from ..records.decisions import RiskReason
from . import codec
from .database import MAX_PAGE, Page, TableStore, Tenants, between, from_cursor, to_cursor, visible, with_values
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
    from sqlalchemy import ColumnElement

RELEASES_READ = 200
"""Releases that one query reads."""
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
"""Members of an entry's detail; the first that is set is shown with the act."""


ActKind = Literal["pin", "approval", "release", "case", "feedback", "erasure", "model", "stream"]
ACT_KINDS: tuple[ActKind, ...] = get_args(ActKind)


class Act(msgspec.Struct, frozen=True):
    """Something that a person, or a program acting for a person, ordered, decided or stated; times in UTC ms."""

    at_ms: Annotated[int, member("when it happened")]
    by: Annotated[str, member("who did it; a user of the console appears as `console:NAME`", "analyst")]
    kind: Annotated[ActKind, member("kind of the act")]
    action: Annotated[str, member("what was done, by kind", "approve")]
    subject_id: Annotated[
        str,
        member(
            "id of the pin, approval, case, feedback, erasure or stream; the version of a model; for a "
            "release, the decision that followed",
            "01KAW4CD1JQ4V1S0Z3Y8M4C2QK",
        ),
    ]
    why: Annotated[str, member("reason in the person's words, if one was given", "key leaked, INC-77", null=True)]
    detail: Annotated[str, member("level, scopes or verdict, if any", "as critical", null=True)]
    tenant: Annotated[str | None, member("null = it is about the whole deployment", "acme-corp")]
    agent: AgentName | None


class ActFilters(NamedTuple):
    """Filters of a list; None = all. Times bound the act, 0 = no bound."""

    by: str | None = None
    kind: ActKind | None = None
    agent: AgentName | None = None
    since_ms: int = 0
    until_ms: int = 0


class _Description(NamedTuple):
    action: str
    subject_id: str
    why: str
    detail: str = ""


class _Source(NamedTuple):
    """One table that holds acts. A table without the column `tenant` is shown to readers of all tenants only.

    Attributes:
        name: in cursors.
        columns: when, who, and what orders acts of the same time: an id, and a number if the id has several acts.
        service: names of the service itself, which is not a person.
    """

    name: str
    kind: ActKind
    table: Table
    columns: tuple[str, ...]
    describe: Callable[[Mapping[Any, Any]], _Description]
    conditions: Sequence[ColumnElement[bool]] = ()
    service: Sequence[str] = (BY_SERVICE,)

    def is_about(self, agent: AgentName, tenants: Tenants) -> ColumnElement[bool] | None:
        """Return the condition for acts about an agent; None if acts of this source are about no agent."""
        if "agent_key" in self.table.c:
            return codec.is_about(self.table, agent)
        if self.table is not CASE_ENTRIES:
            return None
        mine = select(CASE_AGENTS.c.case_id).where(codec.is_about(CASE_AGENTS, agent))
        return CASE_ENTRIES.c.case_id.in_(visible(mine, CASE_AGENTS.c.tenant, tenants))

    def newest(
        self, connection: Connection, filters: ActFilters, tenants: Tenants, before: _ActKey | None, limit: int
    ) -> Iterator[tuple[_ActKey, Act]]:
        about = None if filters.agent is None else self.is_about(filters.agent, tenants)
        if (
            filters.kind not in (None, self.kind)
            or (filters.agent is not None and about is None)
            or (tenants is not None and "tenant" not in self.table.c)
        ):
            return
        at, by, *order = (self.table.c[name] for name in self.columns)
        query = select(self.table).where(*self.conditions, by.not_in(("", *self.service)))
        query = with_values(visible(query, self.table.c.get("tenant"), tenants), {by: filters.by})
        query = between(query if about is None else query.where(about), at, filters.since_ms, filters.until_ms)
        if before is not None:
            query = query.where(_is_before(self.name, at, order, before))
        newest_first = query.order_by(at.desc(), *(column.desc() for column in order))
        for row in connection.execute(newest_first.limit(limit)):
            act = self._act(row._mapping)
            number = row._mapping[order[1].name] if len(order) > 1 else 0
            yield (act.at_ms, self.name, row._mapping[order[0].name], number), act

    def _act(self, values: Mapping[Any, Any]) -> Act:
        at, by = self.columns[:2]
        agent = codec.to_agent_name(values) if "agent_key" in values else None
        return Act(values[at], values[by], self.kind, *self.describe(values), values.get("tenant"), agent)


class ActStore(TableStore):
    """Acts of people, newest first."""

    def page(
        self, tenants: Tenants = None, filters: ActFilters | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page[Act]:
        """List acts, newest first; see `ActFilters`. Raises BadCursor."""
        given, limit = filters or ActFilters(), min(max(limit, 1), MAX_PAGE)
        before: _ActKey | None = None if cursor is None else from_cursor(cursor, _KEY_SHAPE)
        keyed_acts: list[tuple[_ActKey, Act]] = []
        with self._database.read() as connection:
            for source in _SOURCES:
                keyed_acts += source.newest(connection, given, tenants, before, limit + 1)
            if given.kind in (None, RELEASE):
                keyed_acts += islice(_releases(connection, given, tenants, before), limit + 1)
        keyed_acts.sort(key=lambda keyed: keyed[0], reverse=True)
        more = len(keyed_acts) > limit
        return Page([act for _, act in keyed_acts[:limit]], to_cursor(keyed_acts[limit - 1][0]) if more else None)


def _is_before(name: str, at: Any, order: Sequence[Any], before: _ActKey) -> ColumnElement[bool]:
    at_ms, source, *rest = before
    if name == source:
        return tuple_(at, *order) < tuple_(at_ms, *rest[: len(order)])
    condition: ColumnElement[bool] = at <= at_ms if name < source else at < at_ms
    return condition


def _releases(
    connection: Connection, filters: ActFilters, tenants: Tenants, before: _ActKey | None
) -> Iterator[tuple[_ActKey, Act]]:
    """Return releases, newest first. They are control records of the log; the store has the decision that followed from
    each.

    The reason of the decision names the person who released the agent, so releases by other people are skipped here.
    """
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
            reasons = _reasons_decoder.decode(row.reasons)
            if reasons and filters.by in (None, reasons[0].observed):
                by, agent = reasons[0].observed, codec.to_agent_name(row._mapping)
                why = reasons[0].text.removeprefix(f"released by {by}").removeprefix(": ")
                what = (row.decision_id, why, f"to {RiskLevel(row.level).label}")
                yield before, Act(row.decided_ms, by, RELEASE, RELEASE, *what, agent.tenant, agent)
        if len(rows) < RELEASES_READ:
            return


def _describe_case_entry(row: Mapping[Any, Any]) -> _Description:
    kept = _object_decoder.decode(row["detail"])
    detail = next((f"{name} {kept[name]}" for name in _CASE_DETAILS if kept.get(name)), "")
    return _Description(row["action"], row["case_id"], row["note"], detail)


_IS_PIN = INTERVENTIONS.c.kind == "pin"
_DECIDED = ("decided_ms", "decided_by", "intervention_id")
_SOURCES: Final = (
    _Source(
        "pin",
        "pin",
        INTERVENTIONS,
        ("asked_ms", "asked_by", "intervention_id"),
        lambda row: _Description(
            "pin", row["intervention_id"], row["asked_why"], f"as {RiskLevel(row['level']).label}"
        ),
        (_IS_PIN,),
    ),
    _Source(
        "unpin",
        "pin",
        INTERVENTIONS,
        _DECIDED,
        lambda row: _Description("unpin", row["intervention_id"], row["why"]),
        (_IS_PIN, INTERVENTIONS.c.status == "ended"),  # of other pins the one who pinned is named as who decided
    ),
    _Source(
        "approval",
        "approval",
        INTERVENTIONS,
        _DECIDED,
        lambda row: _Description(
            _APPROVAL_ACTIONS.get(row["status"], "approve"),
            row["intervention_id"],
            row["why"],
            ", ".join(_scopes_decoder.decode(row["scopes"])),
        ),
        (and_(INTERVENTIONS.c.kind == "approval", INTERVENTIONS.c.decided_ms > 0),),
    ),
    _Source("case", "case", CASE_ENTRIES, ("at_ms", "by", "case_id", "sequence"), _describe_case_entry),
    _Source(
        "judged",
        "feedback",
        FEEDBACK,
        ("created_ms", "author", "feedback_id"),
        lambda row: _Description("judge", row["feedback_id"], row["reason"], row["verdict"].replace("_", " ")),
    ),
    _Source(
        "revoked",
        "feedback",
        FEEDBACK,
        ("revoked_ms", "revoked_by", "feedback_id"),
        lambda row: _Description("revoke", row["feedback_id"], row["revoked_why"], row["verdict"].replace("_", " ")),
        (FEEDBACK.c.revoked_ms > 0,),
    ),
    _Source(
        "erasure",
        "erasure",
        ERASURES,
        ("asked_ms", "asked_by", "erasure_id"),
        lambda row: _Description(
            "erase", row["erasure_id"], row["reason"], "an agent" if row["kind"] == "agent" else "a principal"
        ),
    ),
    _Source(
        "model",
        "model",
        MODEL_HISTORY,
        ("at_ms", "by", "entry_id"),
        lambda row: _Description(
            row["act"],
            row["version"],
            row["why"],
            "against the figures" if _object_decoder.decode(row["detail"]).get("forced") else "",
        ),
        service=MODEL_NAMES_OF_SERVICE,
    ),
    _Source(
        "stream",
        "stream",
        EVENT_STREAMS,
        ("created_ms", "owner", "stream_id"),
        lambda row: _Description("create", row["stream_id"], ""),
    ),
)
