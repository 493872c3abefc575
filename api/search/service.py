"""Search: everything that a query fits, by kind. Each look is bounded and says whether it saw all there is."""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, Generic, NamedTuple, TypeVar

from trustwatch.ingest.errors import Unavailable
from trustwatch.ingest.timestamps import HOUR_MS
from trustwatch.scoring.policy.risk_view import RiskViewEntry
from trustwatch.scoring.records.agents import AgentName, AgentSummary, RiskLevel
from trustwatch.scoring.records.cases import Case
from trustwatch.scoring.records.decisions import Decision
from trustwatch.scoring.records.erasures import Erasure
from trustwatch.scoring.store.case_store import CaseFilters
from trustwatch.scoring.store.database import Page, Tenants
from trustwatch.scoring.store.search_store import NO_NAMES, CaseNames, SeenPrincipal
from trustwatch.scoring.store.sql_store import SqlStore

from ..agents.recent_events import event_locations
from ..cases.case_reports import ListedCase
from ..http.agent_lookup import visible_tenants
from ..http.auth.callers import AuthenticatedCaller
from ..http.filtered_pages import FilteredPage, read_filtered_page
from ..http.runtime import Runtime
from ..http.store_executor import StoreExecutor
from .event_search import EventSearchResult, FoundEvent, search_stored_events
from .query import ANY_FIELD, FOUND_KINDS, FoundKind, SearchQuery, SearchTerm, parse_search_query

T = TypeVar("T")

DEFAULT_FOUND = 20
MAX_AGENTS_READ = 100
"""Agents of one id whose decisions are looked through."""
MAX_ALIASED_TENANTS = 200
"""Tenants in which a person is looked for by pseudonym, where the query names no tenant."""
AGENTS_AT_ONCE = 10_000
SAMPLED: Final = 100
"""Agents that tell whether looking through all names at once is worth it."""
_SEPARATOR: Final = "\n"
"""Between names of agents in one text."""
SEARCH_S = 2.0
"""Seconds after which a search looks at no more: what it has found by then is the answer."""
MAX_FOUND = 100
"""Things of each kind that one search returns at most."""
DECISION_PAGE, MAX_DECISION_PAGES = 400, 10
CASE_PAGE, MAX_CASE_PAGES = 200, 10


class Found(NamedTuple, Generic[T]):
    """Results of one kind.

    Attributes:
        looked_at: how many were looked at; None = all there are.
        complete: whether nothing else fits.
    """

    items: Sequence[T] = ()
    looked_at: int | None = None
    complete: bool = True


class FoundDecision(NamedTuple):
    """A decision that fits, and its case; "" = it belongs to none."""

    decision: Decision
    case_id: str


class EventWithDecision(NamedTuple):
    """An event that fits, and the decision that it brought; None = none, or it is not stored any more."""

    found: FoundEvent
    decision: Decision | None


class EventsFound(NamedTuple):
    """Events that fit, and how far was looked; see `EventSearchResult`."""

    items: Sequence[EventWithDecision]
    result: EventSearchResult


class SearchResult(NamedTuple):
    """Results by kind; None = that kind was not looked for, or can not have what the query asks for."""

    query: SearchQuery
    agents: Found[AgentSummary] | None = None
    people: Found[SeenPrincipal] | None = None
    cases: Found[ListedCase] | None = None
    decisions: Found[FoundDecision] | None = None
    events: EventsFound | None = None


class SearchService:
    """Finds what a caller may see. For one event loop.

    Args:
        runtime: store, risk of agents and settings.
        executor: the way into the store.
        open_erasures: those that are asked for and not done: events of whom they are about are not shown.
    """

    def __init__(
        self, runtime: Runtime, executor: StoreExecutor, open_erasures: Callable[[], Awaitable[Sequence[Erasure]]]
    ) -> None:
        self._runtime = runtime
        self._executor = executor
        self._open_erasures = open_erasures

    async def search(
        self,
        caller: AuthenticatedCaller,
        text: str,
        kinds: Collection[FoundKind] = FOUND_KINDS,
        limit: int = DEFAULT_FOUND,
    ) -> SearchResult:
        """Everything of *kinds* that fits, at most *limit* of each.

        Raises:
            ProblemError: 422, the query can not be read.
            Unavailable: the store does not answer, or the event log can not be read.
        """
        tenants = visible_tenants(caller, None)
        query = parse_search_query(text, self._runtime.now_ms())
        all_aliased = True
        if self._runtime.principal_alias is not None and any(map(_may_be_alias, query.terms)):
            query, all_aliased = await self._executor(self._with_aliases, query, tenants)
        looked_for = [kind for kind in query.kinds if kind in kinds]
        end, monotonic = self._runtime.monotonic() + SEARCH_S, self._runtime.monotonic

        def expired() -> bool:
            return monotonic() > end

        erasures = await self._open_erasures() if "events" in looked_for else ()
        store = self._runtime.store
        result = SearchResult(query)
        if "agents" in looked_for:
            entries = self._entries_of(query, tenants)
            result = result._replace(agents=await self._executor(find_agents, entries, query, tenants, limit, expired))
        if "people" in looked_for:
            people = await self._executor(find_people, store, query, tenants, limit)
            result = result._replace(people=people._replace(complete=people.complete and all_aliased))
        if "cases" in looked_for:
            result = result._replace(cases=await self._executor(find_cases, store, query, tenants, limit))
        if "decisions" in looked_for:
            known = self._agents_of(query, tenants)
            decisions = await self._executor(find_decisions, store, query, tenants, known, limit, expired)
            result = result._replace(decisions=decisions)
        if "events" in looked_for:
            events = await self._find_events(query, tenants, erasures, limit, expired)
            extent = events.result._replace(complete=events.result.complete and all_aliased)
            result = result._replace(events=events._replace(result=extent))
        return result

    async def _find_events(
        self,
        query: SearchQuery,
        tenants: Tenants,
        erasures: Sequence[Erasure],
        limit: int,
        expired: Callable[[], bool],
    ) -> EventsFound:
        locations = event_locations(self._runtime.settings)
        try:
            seen = _narrowed(tenants, query)
            result = await self._executor(search_stored_events, locations, query, seen, erasures, limit, expired)
        except OSError as error:
            raise Unavailable(f"the event log can not be read: {error}") from None
        offsets: dict[int, list[int]] = {}
        for found in result.events:
            offsets.setdefault(found.partition, []).append(found.offset)
        brought = await self._executor(self._runtime.store.search.decisions_at, offsets, tenants)
        items = [
            EventWithDecision(found, _brought_by(found, brought.get((found.partition, found.offset))))
            for found in result.events
        ]
        return EventsFound(items, result)

    def _entries_of(self, query: SearchQuery, tenants: Tenants) -> Sequence[RiskViewEntry]:
        """Agents in memory that may fit."""
        agent_id = query.exact_value("agent")
        view = self._runtime.risk_view
        return view.entries() if agent_id is None else view.find_by_id(agent_id, None, None, tenants)

    def _agents_of(self, query: SearchQuery, tenants: Tenants) -> Sequence[AgentName]:
        """Agents in memory whose id the query has."""
        agent_id, tenant = query.exact_value("agent"), query.exact_value("tenant")
        if agent_id is None:
            return ()
        return [entry.summary.name for entry in self._runtime.risk_view.find_by_id(agent_id, tenant, None, tenants)]

    def _with_aliases(self, query: SearchQuery, tenants: Tenants) -> tuple[SearchQuery, bool]:
        """*query*, with the pseudonyms that people whom it names have in each tenant, and whether these are all."""
        alias, tenant = self._runtime.principal_alias, query.exact_value("tenant")
        if alias is None:
            return query, True
        among = [tenant] if tenant is not None else sorted(self._known_tenants() if tenants is None else tenants)
        named = among[:MAX_ALIASED_TENANTS]

        def aliased(term: SearchTerm) -> SearchTerm:
            if not _may_be_alias(term):
                return term
            return term._replace(aliases=frozenset(alias(name, term.value) for name in named))

        return query._replace(terms=tuple(map(aliased, query.terms))), len(named) == len(among)

    def _known_tenants(self) -> set[str]:
        return {entry.summary.name.tenant for entry in self._runtime.risk_view.entries()}


def _may_be_alias(term: SearchTerm) -> bool:
    """True if a term may name a person, who may stand under a pseudonym."""
    return term.field in ("principal", ANY_FIELD) and "*" not in term.value


def _brought_by(found: FoundEvent, decision: Decision | None) -> Decision | None:
    """*decision*, if it is about the event; the log before a restore had other records at its offsets."""
    is_its = decision is not None and (not found.event.id or decision.event_id == found.event.id)
    return decision if is_its else None


def find_agents(
    entries: Iterable[RiskViewEntry], query: SearchQuery, tenants: Tenants, limit: int, expired: Callable[[], bool]
) -> Found[AgentSummary]:
    """Agents that fit, the worst first."""
    fits = [_agent_check(term) for term in query.terms]
    fitting: list[AgentSummary] = []
    looked_at, rest = 0, iter(entries)
    while part := [entry.summary for entry in islice(rest, AGENTS_AT_ONCE)]:
        looked_at += len(part)
        for term in query.terms:
            part = _may_fit(part, term)
        fitting += [
            agent
            for agent in part
            if (tenants is None or agent.name.tenant in tenants)
            and all(each(agent) for each in fits)
            and query.times.contains(agent.last_seen_ms)
        ]
        if expired():
            break
    whole = next(rest, None) is None
    worst = heapq.nlargest(limit, fitting, key=lambda one: (one.level, one.risk_score, one.last_seen_ms))
    return Found(worst, None if whole else looked_at, whole and len(fitting) <= limit)


def _may_fit(agents: list[AgentSummary], term: SearchTerm) -> list[AgentSummary]:
    """Agents that a term may fit, found in one text of all names: asking each by itself takes several times as long."""
    literals = [literal.lower() for literal in term.literals] if term.field in ("agent", ANY_FIELD) else []
    some = [agent.name.agent_id.lower() for agent in agents[:SAMPLED]] if literals else []
    if sum(any(one in name for one in literals) for name in some) * 4 > len(some):  # most have it: nothing is won
        return agents
    text = _SEPARATOR.join([agent.name.agent_id for agent in agents]).lower() if literals else ""
    if not literals or text.count(_SEPARATOR) != len(agents) - 1:  # an id has the separator in it
        return agents
    places = {place for literal in literals for place in _places_of(literal, text)}
    if term.field == ANY_FIELD:
        types = {
            kind for kind in {agent.agent_type for agent in agents} if any(one in kind.lower() for one in literals)
        }
        places.update(place for place, agent in enumerate(agents) if types and agent.agent_type in types)
    return [agents[place] for place in sorted(places)]


def _places_of(literal: str, text: str) -> Iterator[int]:
    """Positions of the names in *text* that have *literal* in them, counted from 0."""
    place = begin = 0
    while (found := text.find(literal, begin)) >= 0:
        place += text.count(_SEPARATOR, begin, found)
        yield place
        end = text.find(_SEPARATOR, found)
        if end < 0:
            return
        place, begin = place + 1, end + 1


def _agent_check(term: SearchTerm) -> Callable[[AgentSummary], bool]:
    """Check that a term makes on an agent; built once, since there may be a million agents."""
    if term.field == "level":
        level = RiskLevel[term.value.upper()]
        return lambda agent: agent.level == level
    matches = term.matcher()
    if term.field == "agent":
        return lambda agent: matches(agent.name.agent_id)
    if term.field == "tenant":
        return lambda agent: matches(agent.name.tenant)
    if term.field == "type":
        return lambda agent: matches(agent.agent_type)
    return lambda agent: matches(agent.name.agent_id) or matches(agent.agent_type)


def find_people(store: SqlStore, query: SearchQuery, tenants: Tenants, limit: int) -> Found[SeenPrincipal]:
    """Principals that fit, last seen first."""
    named = [term for term in query.terms if term.field in ("principal", ANY_FIELD)]
    wanted = _narrowed(tenants, query)
    if wanted is not None and not wanted:
        return Found()
    parts = [term.literals for term in named if term.literals]
    most = MAX_FOUND * 5
    since_ms = max(0, query.times.since_ms - HOUR_MS) if query.times.since_ms else 0  # edges are that late
    listed = store.search.principals(wanted, parts, since_ms, query.times.until_ms, limit=most)
    fitting = [
        person
        for person in listed
        if all(term.matches(person.tenant if term.field == "tenant" else person.principal_id) for term in query.terms)
    ]
    return Found(fitting[:limit], None, len(fitting) <= limit and len(listed) < most)


def _narrowed(tenants: Tenants, query: SearchQuery) -> Tenants:
    """Tenants that may be seen and are asked for."""
    exact = query.exact_value("tenant")
    if exact is None:
        return tenants
    return [exact] if tenants is None or exact in tenants else []


def find_cases(store: SqlStore, query: SearchQuery, tenants: Tenants, limit: int) -> Found[ListedCase]:
    """Cases that fit, last changed first."""
    case_id = query.exact_value("case")
    filters = CaseFilters(since_ms=query.times.since_ms, until_ms=query.times.until_ms)
    names: dict[str, CaseNames] = {}

    def page_at(cursor: str | None) -> Page[Case]:
        if case_id is not None:
            one = store.cases.get(case_id, tenants)
            page: Page[Case] = Page([] if one is None else [one], None)
        else:
            page = store.cases.page(tenants, filters, CASE_PAGE, cursor)
        names.update(store.search.case_names([case.case_id for case in page.items], tenants))
        return page

    checks = [(term.field, term.matcher()) for term in query.terms]

    def fits(case: Case) -> bool:
        named = names.get(case.case_id, NO_NAMES)
        return query.times.contains(case.updated_ms) and all(
            any(map(matches, _texts_of_case(field, case, named))) for field, matches in checks
        )

    found = read_filtered_page(page_at, fits, least_items=limit + 1, most_pages=MAX_CASE_PAGES)
    complete = found.next_cursor is None and len(found.items) <= limit
    shown = found.items[:limit]
    agents = store.cases.first_agents([case.case_id for case in shown], tenants)
    leads = store.decisions.get_many([case.lead_decision_id for case in shown], tenants)
    items = [ListedCase(case, agents.get(case.case_id, ()), leads.get(case.lead_decision_id)) for case in shown]
    return Found(items, found.looked_at, complete)


def _texts_of_case(field: str, case: Case, names: CaseNames) -> Iterable[str]:
    """Texts that a term about *field* is compared with."""
    match field:
        case "agent":
            return names.agents
        case "case":
            return (case.case_id,)
        case "level":
            return (RiskLevel(case.level).label,)
        case "owner":
            return (case.owner,)
        case "status":
            return (case.status,)
        case "tenant":
            return (case.tenant,)
        case _ if field == ANY_FIELD:
            return (case.case_id, case.owner, *names.agents, *(value for _, value in names.shared))
        case _:
            return [value for kind, value in names.shared if kind == field]


def find_decisions(
    store: SqlStore,
    query: SearchQuery,
    tenants: Tenants,
    known: Sequence[AgentName],
    limit: int,
    expired: Callable[[], bool],
) -> Found[FoundDecision]:
    """Decisions that fit, newest first. One whose id is a term is found however old it is.

    Args:
        known: agents in memory that have the id that the query names, if it does.
    """
    named = [term.value for term in query.terms if term.field in ("decision", ANY_FIELD)]
    by_id = {key: one for key, one in store.decisions.get_many(named, tenants).items() if _decision_fits(one, query)}
    agents = _agents_to_read(store, query, tenants, known)
    pages = [] if query.exact_value("decision") is not None else agents[:MAX_AGENTS_READ]
    looked_at, complete, listed = 0, len(pages) == len(agents) or not pages, list[Decision]()
    for agent in pages:
        found = _read_decisions(store, query, tenants, agent, limit, expired)
        looked_at, complete = looked_at + found.looked_at, complete and found.next_cursor is None
        listed += [one for one in found.items if one.decision_id not in by_id]
    listed.sort(key=lambda one: (one.decided_ms, one.decision_id), reverse=True)
    fitting = [*by_id.values(), *listed]
    cases = store.search.cases_of([one.decision_id for one in fitting[:limit]], tenants)
    items = [FoundDecision(one, cases.get(one.decision_id, "")) for one in fitting[:limit]]
    return Found(items, looked_at if pages else None, complete and len(fitting) <= limit)


def _agents_to_read(
    store: SqlStore, query: SearchQuery, tenants: Tenants, known: Sequence[AgentName]
) -> Sequence[AgentName | None]:
    """Agents whose decisions are looked through; None = everybody's, where nobody of that id is known.

    An agent may be known in one tenant and forgotten in another, where its decisions stay: it is looked for at every
    issuer at which its tenants have agents.
    """
    agent_id = query.exact_value("agent")
    if agent_id is None:
        return [None]
    seen = _narrowed(tenants, query)
    stored = store.agents.find(agent_id, seen, MAX_AGENTS_READ + 1)
    names = {name.identity: name for name in (*known, *(agent.name for agent in stored))}
    elsewhere = [pair for pair in store.agents.issuers(seen) if (*pair, agent_id) not in names]
    forgotten = [store.edges.agent_name(tenant, issuer, agent_id) for tenant, issuer in elsewhere]
    return [*names.values(), *store.search.agents_with_decisions(forgotten, seen)] or [None]


def _read_decisions(
    store: SqlStore,
    query: SearchQuery,
    tenants: Tenants,
    agent: AgentName | None,
    limit: int,
    expired: Callable[[], bool],
) -> FilteredPage[Decision]:
    """Decisions that fit, newest first: those whose bytes may fit are decoded."""
    (since_ms, until_ms), level = query.times, query.exact_value("level")
    wanted = None if level is None else RiskLevel[level.upper()]
    needed = [term.literals for term in query.terms if term.literals and term.field not in ("level", "tenant")]
    parts = [tuple(part.lower().encode() for part in either) for either in needed]
    items: list[Decision] = []
    cursor, looked_at = None, 0
    for _ in range(MAX_DECISION_PAGES):
        page = store.search.decision_texts(
            _narrowed(tenants, query), agent, DECISION_PAGE, cursor, since_ms=since_ms, until_ms=until_ms
        )
        looked_at, cursor = looked_at + len(page.items), page.next_cursor
        may_fit = [
            one.decision_id
            for one in page.items
            if (wanted is None or one.level == wanted) and _has_each(one.text, parts)
        ]
        decoded = store.decisions.get_many(may_fit, tenants)
        items += [one for key in may_fit if (one := decoded.get(key)) is not None and _decision_fits(one, query)]
        if cursor is None or len(items) > limit or expired():
            break
    return FilteredPage(items, cursor, looked_at)


def _has_each(text: bytes, parts: Sequence[tuple[bytes, ...]]) -> bool:
    return all(any(part in text for part in either) for either in parts)


def _decision_fits(decision: Decision, query: SearchQuery) -> bool:
    if not query.times.contains(decision.decided_ms):
        return False
    texts = _texts_of_decision(decision)
    return all(
        term.matches_any(texts.get(term.field, ()) if term.field != ANY_FIELD else _all_of(texts))
        for term in query.terms
    )


def _all_of(texts: Mapping[str, Collection[str]]) -> list[str]:
    """Names that words are looked for in: not levels and tenants, which are fields of their own."""
    return [text for field, named in texts.items() if field not in ("level", "tenant") for text in named]


def _texts_of_decision(decision: Decision) -> dict[str, list[str]]:
    texts = {
        "agent": [decision.agent.agent_id],
        "tenant": [decision.agent.tenant],
        "type": [decision.agent_type],
        "level": [RiskLevel(decision.level).label],
        "decision": [decision.decision_id],
        "reason": [reason.code for reason in decision.reasons],
        "event": [decision.event_id] if decision.event_id else [],
    }
    for indicator in decision.indicators:
        texts.setdefault(indicator.kind, []).append(indicator.value)
    return texts
