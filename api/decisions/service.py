"""Decisions: lists, look-ups, consequences, and changes of level as they happen."""

from __future__ import annotations

import asyncio
import re
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import dropwhile, islice
from typing import Final, NamedTuple

from cachetools import TTLCache

from trustwatch.ingest.record_keys import record_time_ms
from trustwatch.ingest.timestamps import DAY_MS, HOUR_MS, MINUTE_MS
from trustwatch.scoring.delivery.actuators.desired_state import UnreadableAction, decode_desired_state
from trustwatch.scoring.pipeline.ipc import LevelChange, LevelChangeQueue, PipelineStatus
from trustwatch.scoring.records.agents import AgentSummary, RiskLevel
from trustwatch.scoring.records.commits import ALERT_KEY_PREFIX, Delivery
from trustwatch.scoring.records.containment import Actuation, Intervention
from trustwatch.scoring.records.decisions import Decision
from trustwatch.scoring.store.decision_store import CountedChanges
from trustwatch.scoring.store.searches import DEFAULT_PAGE_SIZE, DecisionSearch, FilteredPage, search_decisions
from trustwatch.scoring.store.sql_store import SqlStore

from ..http.agent_lookup import AgentResolver, AgentSelector, not_found_error, visible_tenants
from ..http.auth.callers import SCOPE_ADMIN, SCOPE_FEEDBACK, AuthenticatedCaller
from ..http.problems import RETRY_AFTER_S, ProblemDetails, ProblemError, invalid_value_error
from ..http.runtime import Runtime
from ..http.store_executor import BulkWork, StoreExecutor

MAX_DECISIONS_LOOKED_UP = 60
"""Decisions that are looked up for the levels of one list."""

MAX_NEIGHBOURS = 200
"""Decisions about the same agent among which the next and the previous one are searched."""

INDICATOR_PAGE_SIZE = 100
"""Decisions that are read at a time in a search for an indicator: most of them do not have it."""
MAX_STREAMS_PER_CALLER = 20
"""Streams of decisions that one caller may have open: each takes a connection."""

STREAM_RETRY_S = "5"
"""Seconds after which a caller with too many streams may try again, as a header value."""

LONGEST_PENDING_MS = 600_000
"""A decision that is older and not in the store was removed from it."""

MAX_EARLIER_DECISIONS = 100
"""Decisions of an agent among which those of the same rise are searched."""


class DecisionFilters(NamedTuple):
    """Filters of a list; None and "" for all. *since_ms* and *until_ms* bound when it was decided, 0 for no bound.

    See `DecisionSearch` for the others.
    """

    tenant: str | None = None
    agent: AgentSelector | None = None
    level: str = ""
    change: str = ""
    since_ms: int = 0
    until_ms: int = 0
    indicator: str = ""


NO_FILTERS = DecisionFilters()


class DecisionConsequences(NamedTuple):
    """The decisions before and after a decision, and everything that it caused."""

    later: Decision | None
    earlier: Decision | None
    deliveries: list[Delivery]
    actuations: list[Actuation]
    interventions: list[Intervention]


class SubscriptionEnded(Exception):
    """The subscription ended: the service stops, or this watcher did not keep up."""


@dataclass(eq=False, repr=False)
class LevelChangeSubscription:
    """Changes of level from now on, of some tenants. A context manager, for one event loop."""

    _status: PipelineStatus
    _tenants: Collection[str] | None
    _queue: LevelChangeQueue = field(init=False)

    def __enter__(self) -> LevelChangeSubscription:
        self._queue = self._status.subscribe()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.unsubscribe(self._queue)

    async def next_change(self, wait_s: float) -> LevelChange | None:
        """Return the next change, or None if there is none within *wait_s* seconds. Raises SubscriptionEnded."""
        try:
            async with asyncio.timeout(wait_s):
                while True:
                    change = await self._queue.get()
                    if change is None:
                        raise SubscriptionEnded
                    if self._is_visible(change):
                        return change
        except TimeoutError:
            return None

    def pending_changes(self) -> list[LevelChange]:
        """Return pending changes without waiting; `next_change` raises at the end."""
        changes: list[LevelChange] = []
        while not self._queue.empty():
            change = self._queue.get_nowait()
            if change is None:
                self._queue.put_nowait(None)
                break
            if self._is_visible(change):
                changes.append(change)
        return changes

    def _is_visible(self, change: LevelChange) -> bool:
        return self._tenants is None or change.tenant in self._tenants


@dataclass(eq=False, repr=False)
class DecisionService:
    """Serves decisions of the tenants that a caller may see. For one event loop."""

    _runtime: Runtime
    _agents: AgentResolver
    _executor: StoreExecutor
    _bulk: BulkWork
    _open_streams: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    async def list(
        self,
        caller: AuthenticatedCaller,
        filters: DecisionFilters = NO_FILTERS,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> FilteredPage[Decision]:
        """List changes of level, newest first. An unknown agent has none.

        Raises TenantNotAllowed, ProblemError, Unavailable.
        """
        tenants, name = visible_tenants(caller, filters.tenant), None
        if filters.agent is not None:
            name = await self._agents.find_name(caller, filters.agent)
            if name is None:
                return FilteredPage([], None, 0)
        size = limit or (INDICATOR_PAGE_SIZE if filters.indicator else DEFAULT_PAGE_SIZE)
        sought = DecisionSearch(filters.level, filters.change, filters.indicator)
        times, least = (filters.since_ms, filters.until_ms), 1 if limit else DEFAULT_PAGE_SIZE
        among = (sought, tenants, name, times, size, cursor, least)
        if any(sought):
            return await self._bulk.search(caller, search_decisions, *among)
        return await self._executor(search_decisions, self._runtime.store, *among)

    async def get(self, caller: AuthenticatedCaller, decision_id: str) -> Decision:
        """Return one decision. Raises ProblemError (404; 409 while it is not stored yet), Unavailable."""
        tenants = visible_tenants(caller, None)
        decision = await self._executor(self._runtime.store.decisions.get, decision_id, tenants)
        if decision is not None:
            return decision
        # Recent answers may name a decision that the store does not have yet.
        decided_ms, tenant = record_time_ms(decision_id), self._runtime.risk_view.tenant_of_recent_decision(decision_id)
        recent = decided_ms is not None and decided_ms >= self._runtime.now_ms() - LONGEST_PENDING_MS
        if not recent or tenant is None or (tenants is not None and tenant not in tenants):
            raise not_found_error("decision")
        detail = "this decision was made, and is not stored yet; ask again in a moment"
        headers = {"Retry-After": str(RETRY_AFTER_S)}
        raise ProblemError(ProblemDetails(409, "decision_pending", "Not stored yet", detail, headers))

    async def consequences(self, caller: AuthenticatedCaller, decision: Decision) -> DecisionConsequences:
        """Return what followed from *decision*; deliveries of its alerts require the scope `trust.admin`."""
        tenants, with_alerts = visible_tenants(caller, None), SCOPE_ADMIN in caller.scopes
        return await self._executor(load_consequences, self._runtime.store, decision, tenants, with_alerts=with_alerts)

    async def escalation(self, caller: AuthenticatedCaller, decision: Decision) -> tuple[Decision, ...]:
        """Return *decision*, and those before it by which its agent rose to it, newest first."""
        decisions = self._runtime.store.decisions
        tenants = visible_tenants(caller, None)
        page = await self._executor(decisions.page, tenants, decision.agent, MAX_EARLIER_DECISIONS)
        # Without a fall between them: a rule that names only the reasons of the last step leaves the agent at the level
        # of the step before.
        rise = [decision]
        for before in islice(dropwhile(lambda one: one.decision_id != decision.decision_id, page.items), 1, None):
            if before.level != rise[-1].previous_level or before.level < RiskLevel.MEDIUM:
                break
            if before.previous_level >= before.level:
                break
            rise.append(before)
        return tuple(rise)

    async def behind_levels(self, caller: AuthenticatedCaller, agents: Iterable[AgentSummary]) -> dict[str, Decision]:
        """Return the decisions, by id, that set the current levels of agents above low; at most 60."""
        ids = [agent.decision_id for agent in agents if agent.level >= RiskLevel.MEDIUM and agent.decision_id]
        get_many = self._runtime.store.decisions.get_many
        return await self._executor(get_many, ids[:MAX_DECISIONS_LOOKED_UP], visible_tenants(caller, None))

    def subscribe(self, caller: AuthenticatedCaller, tenant: str | None = None) -> LevelChangeSubscription:
        """Subscribe to changes of level from now on. The subscription must end with the caller's token or session.

        Raises TenantNotAllowed, see `visible_tenants`.
        """
        return LevelChangeSubscription(self._runtime.pipeline_status, visible_tenants(caller, tenant))

    @contextmanager
    def counted_stream(self, caller: AuthenticatedCaller) -> Iterator[None]:
        """Count one more stream of *caller* while this lasts. Raises ProblemError (429) if it has too many."""
        who, most = (caller.issuer, caller.client_id, caller.subject), MAX_STREAMS_PER_CALLER
        if self._open_streams[who] >= most:
            detail = f"this caller has {most} streams open already, as many as it may; close one first"
            raise ProblemError(
                ProblemDetails(429, "too_many_streams", "Too many streams", detail, {"Retry-After": STREAM_RETRY_S})
            )
        self._open_streams[who] += 1
        try:
            yield
        finally:
            self._open_streams[who] -= 1
            if not self._open_streams[who]:
                del self._open_streams[who]

    def may_give_feedback(self, caller: AuthenticatedCaller, decision: Decision) -> bool:
        """Return whether the caller may judge *decision*, which must have raised the agent to medium or above."""
        return SCOPE_FEEDBACK in caller.scopes and decision.level > max(decision.previous_level, RiskLevel.LOW)


def load_consequences(
    store: SqlStore, decision: Decision, tenants: Collection[str] | None, *, with_alerts: bool
) -> DecisionConsequences:
    """Read the decisions around *decision* and what it caused. Blocks."""
    agent = decision.agent
    decision_id = decision.decision_id
    deliveries = store.outbox.page(tenants, key=f"{ALERT_KEY_PREFIX}{decision_id}").items if with_alerts else []
    # Only those that are still due to this decision: later ones have replaced others.
    actuations = []
    for actuation in store.actuations.page(tenants, agent).items:
        with suppress(UnreadableAction):
            if decode_desired_state(actuation.desired).decision_id == decision_id:
                actuations.append(actuation)
    around = [None, *store.decisions.page(tenants, agent, MAX_NEIGHBOURS).items, None]  # newest first
    at = next((at for at, one in enumerate(around) if one is not None and one.decision_id == decision_id), None)
    later, earlier = (None, None) if at is None else (around[at - 1], around[at + 1])
    until_ms = later.decided_ms if later is not None else None
    interventions = [
        intervention
        for intervention in store.interventions.page(tenants, agent=agent, limit=MAX_NEIGHBOURS).items
        if intervention.asked_ms >= decision.decided_ms and (until_ms is None or intervention.asked_ms < until_ms)
    ]
    return DecisionConsequences(later, earlier, deliveries, actuations, interventions)


CHOICES = (("1h", "last hour"), ("24h", "last 24 hours"), ("7d", "last 7 days"), ("30d", "last 30 days"))
"""Relative beginnings that pages offer; a URL may have any other."""

_RELATIVE = re.compile(r"^(\d{1,5})([mhd])$")
_UNITS_MS = {"m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}


class TimeRange(NamedTuple):
    """From `since_ms` on, before `until_ms`, UTC milliseconds; 0 for no bound."""

    since_ms: int = 0
    until_ms: int = 0


def parse_time_range(since: str, until: str, now_ms: int) -> TimeRange:
    """Parse a range from two texts; an empty one sets no bound. Raises ProblemError."""
    time_range = TimeRange(_moment("since", since, now_ms), _moment("until", until, now_ms))
    if time_range.until_ms and time_range.since_ms >= time_range.until_ms:
        raise invalid_value_error("until", "is not after since")
    return time_range


def _moment(name: str, text: str, now_ms: int) -> int:
    """Parse a text to UTC milliseconds.

    >>> _moment("since", "2h", 10_000_000_000), _moment("since", "2026-11-28T18:04", 0), _moment("since", "", 5)
    (9992800000, 1795889040000, 0)
    """
    text = text.strip()
    if not text:
        return 0
    relative = _RELATIVE.match(text)
    if relative is not None:
        return max(1, now_ms - int(relative[1]) * _UNITS_MS[relative[2]])
    try:
        at = datetime.fromisoformat(text)
        return max(1, int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000))
    except (ValueError, OverflowError):
        raise invalid_value_error(name, "is not a time: write 24h, 7d or 2026-11-28T18:04 (UTC)") from None


MAX_DAYS: Final = 90
SLICE_MS: Final = 2 * HOUR_MS
"""Divides days, so that no slice is in two."""
SETTLED_MS: Final = HOUR_MS
"""A slice that is over for so long gets no more decisions."""
MAX_LOOK_S: Final = 0.1
MAX_REMEMBERED, REMEMBERED_S = 20_000, 3_600.0
"""Days that are remembered, and for how long, since retention and erasures remove decisions: 90 days of 222 sets of
tenants, so that concurrent readers do not evict each other's days."""

_DayKey = tuple[frozenset[str] | None, int]
"""Tenants (None for all), and the day since 1970."""


class DayOfChanges(NamedTuple):
    """Changes of level of one day of UTC since 1970: rises by the level that they came to, and falls."""

    day: int
    rises: dict[RiskLevel, int]
    falls: int


class LevelTrends(NamedTuple):
    """Changes of level over days, oldest first."""

    days: list[DayOfChanges]
    reasons: list[tuple[str, int]]  # leading one of rises to medium or above, by frequency, with their number
    counted_from_ms: int  # figures are complete from here on, UTC ms; 0 if everything is counted


class DecisionTrends:
    """Counts changes of level of the tenants that a caller may see, slice by slice. For one event loop.

    No index has levels or reasons, so every decision of the range is read once. A call takes about `MAX_LOOK_S` at
    most: it counts the newest slices first, and states since when its figures are complete. Finished slices are
    remembered, so the next call continues where this one ended.
    """

    def __init__(self, runtime: Runtime, executor: StoreExecutor) -> None:
        self._runtime = runtime
        self._executor = executor
        self._lock = threading.Lock()
        self._days: TTLCache[_DayKey, dict[int, Sequence[CountedChanges]]] = TTLCache(
            MAX_REMEMBERED, REMEMBERED_S, runtime.monotonic
        )
        """Changes of each remembered day, by the start of their slice, UTC ms."""

    async def over(self, caller: AuthenticatedCaller, days: int) -> LevelTrends:
        """Return the last *days* days, including today. Raises Unavailable."""
        tenants = visible_tenants(caller, None)
        key = None if tenants is None else frozenset(tenants)
        return await self._executor(self._over, key, self._runtime.now_ms(), days)

    def _over(self, tenants: frozenset[str] | None, now_ms: int, days: int) -> LevelTrends:
        today = now_ms // DAY_MS
        counted: dict[int, Counter[tuple[int, int, str]]] = {
            day: Counter() for day in range(today - days + 1, today + 1)
        }
        look_until = self._runtime.monotonic() + MAX_LOOK_S
        progressed = False
        for begin_ms in range(now_ms // SLICE_MS * SLICE_MS, (today - days + 1) * DAY_MS - 1, -SLICE_MS):
            with self._lock:
                changes = self._days.get((tenants, begin_ms // DAY_MS), {}).get(begin_ms)
            if changes is None:
                if progressed and self._runtime.monotonic() > look_until:
                    return _trends_of(counted, begin_ms + SLICE_MS)
                changes = self._count(tenants, begin_ms, now_ms)
                progressed = progressed or _is_over(
                    begin_ms, now_ms
                )  # each call counts at least one slice that is remembered
            for change in changes:
                counted[begin_ms // DAY_MS][change.previous_level, change.level, change.code] += change.amount
        return _trends_of(counted, 0)

    def _count(self, tenants: frozenset[str] | None, begin_ms: int, now_ms: int) -> Sequence[CountedChanges]:
        """Count a slice, and remember it once it is over; empty slices before it are recognized at once."""
        store, end_ms = self._runtime.store.decisions, begin_ms + SLICE_MS
        last_ms = store.last_before(end_ms, tenants)
        counts = store.count_changes(begin_ms, end_ms, tenants) if last_ms >= begin_ms else []
        longest_ms = now_ms // DAY_MS * DAY_MS - MAX_DAYS * DAY_MS
        empty = range(begin_ms, max(last_ms // SLICE_MS * SLICE_MS, longest_ms), -SLICE_MS) if not counts else ()
        with self._lock:
            for start_ms in empty or (begin_ms,):
                if _is_over(start_ms, now_ms):
                    self._days.setdefault((tenants, start_ms // DAY_MS), {})[start_ms] = counts
        return counts


def _is_over(begin_ms: int, now_ms: int) -> bool:
    """Return whether a slice gets no more decisions."""
    return begin_ms + SLICE_MS <= now_ms - SETTLED_MS


def _trends_of(counted: dict[int, Counter[tuple[int, int, str]]], counted_from_ms: int) -> LevelTrends:
    days, reasons = [], Counter[str]()
    for day, changes in sorted(counted.items()):
        rises: Counter[RiskLevel] = Counter()
        falls = 0
        for (before, level, code), amount in changes.items():
            if level < before:
                falls += amount
            elif level > before and level >= RiskLevel.MEDIUM:
                rises[RiskLevel(level)] += amount
                reasons[code] += amount
        days.append(DayOfChanges(day, dict(rises), falls))
    del reasons[""]
    ordered = sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))
    return LevelTrends(days, ordered, counted_from_ms)
