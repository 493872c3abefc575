"""Searches: lists by something that no index has, so many rows are read for few. Each may run in another process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Generic, NamedTuple, TypeVar

import msgspec

from trustwatch.ingest.errors import Unavailable

from ..records.agents import AgentName, AgentSummary, RiskLevel
from ..records.commits import Delivery
from ..records.decisions import Decision
from .agent_store import AgentQuery
from .database import BadCursor, Page, Tenants
from .read_scope import ReadScope, reads_of
from .sql_store import SqlStore, open_reading_store

T = TypeVar("T")

DEFAULT_PAGE_SIZE = 50
MAX_PAGES_READ = 20
"""Pages of the store that are read for one page of a filtered list."""


class FilteredPage(NamedTuple, Generic[T]):
    """Items that match, the cursor of the next page, and how many items were read to find them."""

    items: list[T]
    next_cursor: str | None
    looked_at: int


def read_filtered_page(
    page_at: Callable[[str | None], Page[T]],
    keep: Callable[[T], bool],
    cursor: str | None = None,
    *,
    least_items: int = DEFAULT_PAGE_SIZE,
) -> FilteredPage[T]:
    """Read pages until *least_items* are found, the list ends, or `MAX_PAGES_READ` pages are read.

    Whole pages are used, so that the cursor continues exactly after what was read. There may be up to a page more
    items. Blocks; raises what *page_at* raises.
    """
    items: list[T] = []
    looked_at = 0
    for _ in range(MAX_PAGES_READ):
        page = page_at(cursor)
        looked_at += len(page.items)
        items += filter(keep, page.items)
        cursor = page.next_cursor
        if cursor is None or len(items) >= least_items:
            break
    return FilteredPage(items, cursor, looked_at)


def search_agents(store: SqlStore, query: AgentQuery, text: str, least_items: int) -> FilteredPage[AgentSummary]:
    """List agents with *text*, in lower case, in their id or type."""

    def page_at(cursor: str | None) -> Page[AgentSummary]:
        return store.agents.page(msgspec.structs.replace(query, cursor=cursor))

    def keep(agent: AgentSummary) -> bool:
        return not text or any(text in part.casefold() for part in (agent.name.agent_id, agent.agent_type))

    return read_filtered_page(page_at, keep, query.cursor, least_items=least_items)


class DecisionSearch(NamedTuple):
    """What to search in decisions; "" for all. *level* is the lowest one, *change* is `up` or `down`.

    *indicator* is that of the risk (a network, an address, a key, ...), or the id of the event. Unknown levels and
    changes do not filter.
    """

    level: str = ""
    change: str = ""
    indicator: str = ""

    def matches(self, decision: Decision) -> bool:
        """Return whether the search finds *decision*."""
        sought = self.indicator
        if sought and sought != decision.event_id and all(one.value != sought for one in decision.indicators):
            return False
        rises = decision.level > decision.previous_level
        if self.change in ("up", "down") and rises != (self.change == "up"):
            return False
        least = RiskLevel.__members__.get(self.level.upper())
        return least is None or max(decision.level, decision.previous_level) >= least


def search_decisions(
    store: SqlStore,
    sought: DecisionSearch,
    tenants: Tenants,
    agent: AgentName | None,
    times: tuple[int, int],
    size: int,
    cursor: str | None,
    least_items: int,
) -> FilteredPage[Decision]:
    """List decisions, newest first, that were made within *times*, UTC ms (0 = no bound)."""

    def page_at(at: str | None) -> Page[Decision]:
        return store.decisions.page(tenants, agent, size, at, since_ms=times[0], until_ms=times[1])

    return read_filtered_page(page_at, sought.matches, cursor, least_items=least_items)


def search_deliveries(
    store: SqlStore,
    kind: str,
    tenants: Tenants,
    status: str | None,
    target: str | None,
    key: str | None,
    cursor: str | None,
) -> FilteredPage[Delivery]:
    """List deliveries of rows of *kind*, newest first."""

    def page_at(at: str | None) -> Page[Delivery]:
        return store.outbox.page(tenants, status, target, DEFAULT_PAGE_SIZE, at, key=key)

    return read_filtered_page(page_at, lambda one: one.kind == kind, cursor)


# In a process of a pool


class FailedSearch(NamedTuple):
    """Why a search failed. Errors do not survive between processes."""

    is_cursor: bool
    reason: str


def search_in_worker(url: str, scope: ReadScope, search: Callable[..., T], args: Sequence[object]) -> T | FailedSearch:
    """Return the result of *search* on the store at *url*, which has its password."""
    try:
        store = _opened(url)
        with reads_of(scope):
            return search(store, *args)
    except (BadCursor, Unavailable) as error:
        return FailedSearch(isinstance(error, BadCursor), str(error))


_opened = cache(open_reading_store)
