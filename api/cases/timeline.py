"""The story of a case: all that happened, in one order, each as a sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar, get_args

import anyio
import anyio.to_thread
import msgspec
import structlog

from trustwatch.ingest.described import NULL, DecisionId, member
from trustwatch.ingest.errors import TrustwatchError, Unavailable
from trustwatch.ingest.events import NativeEvent
from trustwatch.ingest.printable_text import printable_line
from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.scoring.records.cases import CaseEntry
from trustwatch.scoring.records.commits import ALERT_KEY_PREFIX, Delivery
from trustwatch.scoring.records.containment import Actuation, Intervention
from trustwatch.scoring.records.decisions import Decision
from trustwatch.scoring.records.feedback import Feedback
from trustwatch.scoring.store.database import MAX_PAGE

from ..agents.recent_events import DecisionMoment
from ..agents.service import AgentService
from ..events.event_origin import delegated_by, event_sizes, origin_of
from ..http.agent_lookup import visible_tenants
from ..http.auth.callers import SCOPE_ADMIN, AuthenticatedCaller
from ..http.problems import RETRY_AFTER_S, ProblemDetails, ProblemError
from ..http.runtime import Runtime
from ..http.store_executor import StoreExecutor
from .case_reports import CaseReport
from .service import CaseService

TimelineKind = Literal["event", "token", "decision", "case", "approval", "pin", "actuation", "message", "feedback"]
TIMELINE_KINDS: Final[tuple[TimelineKind, ...]] = get_args(TimelineKind)
MAX_UNTOLD_ACTIONS: Final = 6  # Actions that are named of events that a story does not list one by one
_TOKEN_TYPES: Final = ("token.request", "token.exchange", "token.refresh", "token.revoke", "token.introspect")
_DELIVERY_WORDS: Final[Mapping[str, str]] = {
    "pending": "waits for its next attempt",
    "delivered": "arrived",
    "failed": "was refused for good",
    "suppressed": "was held back",
    "dead": "was given up",
}
_ACTION_WORDS: Final[Mapping[str, str]] = {
    "opened": "opened the case",
    "joined": "added an agent",
    "rose": "raised the case",
    "acknowledged": "acknowledged the case",
    "assigned": "assigned the case",
    "noted": "noted",
    "snoozed": "snoozed the case",
    "contained": "contained the case",
    "closed": "closed the case",
    "reopened": "reopened the case",
    "merged": "merged cases",
    "split": "split the case",
}


class TimelineItem(NamedTuple):
    """One thing that happened."""

    at_ms: Annotated[int, member("when it happened")]
    kind: Annotated[TimelineKind, member("kind of the item", "decision")]
    agent_id: Annotated[str, member("agent that it is about; null for the whole case", "agent-ledger", null=True)]
    text: Annotated[str, member("a sentence", "Risk went from low to high: new network 203.0.113.0/24")]
    indicators: Annotated[tuple[tuple[str, str], ...], member("kinds and values", [["network", "AS65537"]])] = ()
    decision_id: Annotated[DecisionId, NULL] = ""


class UntoldEvents(NamedTuple):
    """Events of an agent around the moment of its rise, UTC ms, that a story counts and does not list one by one."""

    agent_id: str
    at_ms: int
    actions: Sequence[tuple[str, int]]


class CaseRecords(NamedTuple):
    """Records that a timeline is made of."""

    decisions: Sequence[Decision] = ()
    entries: Sequence[CaseEntry] = ()
    interventions: Sequence[Intervention] = ()
    actuations: Sequence[Actuation] = ()
    deliveries: Sequence[Delivery] = ()
    feedback: Sequence[Feedback] = ()
    events: Sequence[NativeEvent] = ()
    left_out: Sequence[UntoldEvents] = ()


def build_timeline(records: CaseRecords) -> list[TimelineItem]:
    """Everything in *records*, oldest first."""
    items = [_decision_item(decision) for decision in records.decisions]
    items += _entry_items(records.entries)
    for intervention in records.interventions:
        items += _intervention_items(intervention)
    for actuation in records.actuations:
        items += _actuation_items(actuation)
    items += [_delivery_item(delivery) for delivery in records.deliveries]
    items += [_feedback_item(feedback) for feedback in records.feedback]
    items += [_event_item(event) for event in records.events]
    items += [_untold_item(untold) for untold in records.left_out]
    return sorted(items, key=lambda item: (item.at_ms, TIMELINE_KINDS.index(item.kind)))


def _decision_item(decision: Decision) -> TimelineItem:
    reason = (
        decision.reasons[0].text
        if decision.reasons
        else {"tick": "time passed without new evidence"}.get(decision.cause, f"cause: {decision.cause}")
    )
    text = f"Risk went from {RiskLevel(decision.previous_level).label} to {RiskLevel(decision.level).label}: {reason}"
    shown = tuple((indicator.kind, indicator.value) for indicator in decision.indicators)
    return TimelineItem(
        decision.event_time_ms or decision.decided_ms,
        "decision",
        decision.agent.agent_id,
        text,
        shown,
        decision.decision_id,
    )


def _entry_items(entries: Sequence[CaseEntry]) -> list[TimelineItem]:
    told = [_entry_item(entry) for entry in entries]
    if entries and entries[0].sequence > 1:
        words = f"{entries[0].sequence - 1} earlier entries of the case are not told"
        told.insert(0, TimelineItem(entries[0].at_ms, "case", "", words))
    return told


def _entry_item(entry: CaseEntry) -> TimelineItem:
    detail: dict[str, Any] = msgspec.json.decode(entry.detail)
    words = "ended the snooze" if detail.get("ended") else _ACTION_WORDS.get(entry.action, entry.action)
    if detail.get("owner") == "":
        words = "took the case from whoever had it"
    text = f"{printable_line(entry.by)} {words}{_entry_detail(detail)}"
    if entry.note:
        text += f": {printable_line(entry.note)}"
    agent = detail.get("agent")
    return TimelineItem(entry.at_ms, "case", agent if isinstance(agent, str) else "", text)


def _entry_detail(detail: Mapping[str, Any]) -> str:
    """Text that an entry adds to its action.

    >>> _entry_detail({"tie": "network", "tied_by": "203.0.113.0/24"}), _entry_detail({"verdict": "false"})
    (' (the same new network 203.0.113.0/24)', ' as false')
    """
    if "tie" in detail:
        tie, by = printable_line(str(detail["tie"])), printable_line(str(detail.get("tied_by", "")))
        return f" (delegation with {by})" if tie == "delegation" else f" (the same new {tie} {by})"
    parts = []
    if detail.get("verdict"):
        parts.append(f" as {detail['verdict']}")
    if detail.get("level"):
        parts.append(f" to {detail['level']}")
    parts += [f" {name} {printable_line(str(detail[name]))}" for name in ("from", "into") if detail.get(name)]
    if detail.get("owner"):
        parts.append(f" to {printable_line(str(detail['owner']))}")
    if detail.get("until"):
        parts.append(f" until {detail['until']}")
    if detail.get("pinned"):
        parts.append(f", {len(detail['pinned'])} fixed at critical")
    return "".join(parts)


def _intervention_items(intervention: Intervention) -> list[TimelineItem]:
    agent = intervention.agent.agent_id
    if intervention.kind == "pin":
        asked_by, why = printable_line(intervention.asked_by), printable_line(intervention.asked_why)
        text = f"{asked_by} fixed the level at {RiskLevel(intervention.level).label}: {why}"
        items = [TimelineItem(intervention.asked_ms, "pin", agent, text)]
        ended = f"{printable_line(intervention.decided_by)} ended the fixed level: {printable_line(intervention.why)}"
    else:
        scopes = ", ".join(map(printable_line, intervention.scopes)) or "none named"
        text = f"An approval was asked for by {printable_line(intervention.asked_by)}; scopes: {scopes}"
        items = [TimelineItem(intervention.asked_ms, "approval", agent, text)]
        ended = (
            f"{printable_line(intervention.decided_by)} said {intervention.status}: {printable_line(intervention.why)}"
        )
    if intervention.decided_ms:
        items.append(TimelineItem(intervention.decided_ms, intervention.kind, agent, ended))
    elif intervention.status == "expired":
        items.append(TimelineItem(intervention.expires_ms, intervention.kind, agent, "It expired"))
    return items


def _actuation_items(actuation: Actuation) -> list[TimelineItem]:
    order = _wanted_words(actuation.desired)
    where, agent = printable_line(actuation.target), actuation.agent.agent_id
    items = [TimelineItem(actuation.wanted_ms, "actuation", agent, f"{where} is to {order}")]
    if actuation.confirmed_ms:
        items.append(TimelineItem(actuation.confirmed_ms, "actuation", agent, f"{where} confirmed: {order}"))
    elif actuation.status == "failed":
        failed = f"{where} could not {order}: {printable_line(actuation.error)}"
        items.append(TimelineItem(actuation.updated_ms, "actuation", agent, failed))
    return items


def _wanted_words(desired: bytes) -> str:
    """Describe what an authorization server is to do; an unreadable order is reported as such."""
    try:
        state = msgspec.json.decode(desired)
        level, revoke, allow = str(state["level"]), bool(state["revoke"]), bool(state["allow"])
        ceiling = state.get("max_token_lifetime_s")
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return "do what an order says that can not be read any more"
    if revoke:
        return f"revoke tokens of the agent (level {level})"
    if not allow:
        return f"issue no tokens to the agent (level {level})"
    if isinstance(ceiling, int):
        return f"issue tokens of at most {ceiling} s (level {level})"
    return f"treat the agent as before (level {level})"


def _delivery_item(delivery: Delivery) -> TimelineItem:
    words = _DELIVERY_WORDS.get(delivery.status, delivery.status)
    why = f": {printable_line(delivery.last_error)}" if delivery.last_error and delivery.status != "delivered" else ""
    what = "An alert" if delivery.key.startswith(ALERT_KEY_PREFIX) else "A message about the case"
    text = f"{what} to {printable_line(delivery.target)} {words}{why}"
    decision_id = delivery.key.removeprefix(ALERT_KEY_PREFIX) if delivery.key.startswith(ALERT_KEY_PREFIX) else ""
    return TimelineItem(delivery.delivered_ms or delivery.created_ms, "message", "", text, (), decision_id)


def _feedback_item(feedback: Feedback) -> TimelineItem:
    verdict = feedback.verdict.replace("_", " ")
    text = f"{printable_line(feedback.author)} judged a decision as {verdict}: {printable_line(feedback.reason)}"
    return TimelineItem(feedback.created_ms, "feedback", feedback.agent.agent_id, text, (), feedback.decision_id)


def _event_item(event: NativeEvent) -> TimelineItem:
    at_ms = int(event.time.timestamp() * 1000)
    kind: TimelineKind = "token" if event.type in _TOKEN_TYPES else "event"
    parts = [printable_line(event.action)]
    if event.resource is not None and (event.resource.target or event.resource.id):
        parts.append(f"on {printable_line(event.resource.target or event.resource.id or '')}")
        if event.resource.external:
            parts.append("outside")
    if kind == "token" and event.scopes is not None:
        requested, granted = event.scopes.requested or [], event.scopes.granted or []
        parts.append(f"(asked for {_listed(requested)}; given {_listed(granted)})")
    if event.bytes_in or event.bytes_out:
        parts.append(f"({event_sizes(event)})")
    if event.principal is not None and event.principal.id:
        parts.append(f"on behalf of {printable_line(event.principal.id)}")
    if chain := delegated_by(event):
        parts.append(f"by delegation of {', '.join(map(printable_line, chain))}")
    if event.outcome != "success":
        parts.append(f"({event.outcome}{': ' + printable_line(event.error) if event.error else ''})")
    origin = tuple((name, value) for name, value in origin_of(event)._asdict().items() if value)
    return TimelineItem(at_ms, kind, event.agent.id, " ".join(parts), origin)


def _untold_item(untold: UntoldEvents) -> TimelineItem:
    """The rest of what the agent did then, by action.

    >>> _untold_item(UntoldEvents("a", 5, [("read", 900), ("post", 1)])).text
    '901 more events are not told here, from ten minutes before until a minute after: read 900, post 1'
    """
    amount = sum(count for _, count in untold.actions)
    words = ", ".join(f"{printable_line(action)} {count:,}" for action, count in untold.actions[:MAX_UNTOLD_ACTIONS])
    more = ", and others" if len(untold.actions) > MAX_UNTOLD_ACTIONS else ""
    others = "1 more event is" if amount == 1 else f"{amount:,} more events are"
    text = f"{others} not told here, from ten minutes before until a minute after: {words}{more}"
    return TimelineItem(untold.at_ms, "event", untold.agent_id, text)


def _listed(scopes: Iterable[str]) -> str:
    return ", ".join(map(printable_line, scopes)) or "nothing"


# The story of a case: reads all that happened in it, for its timeline and its report.

MAX_AGENTS_IN_STORY: Final = 50  # Agents whose approvals, pins, actuations and feedback a timeline has
MAX_AGENTS_WITH_EVENTS: Final = 5  # Agents whose events a timeline has: each takes a look through the log
MAX_DECISIONS_IN_STORY: Final = 500
LEAD_MS: Final = 3_600_000  # Time before the first event of a case: what ended within it belongs to the story
T = TypeVar("T")

MAX_STORIES_AT_ONCE, MAX_STORIES_WAITING, MAX_STORIES_OF_CALLER = 2, 8, 4
"""Stories that are put together at a time (two of the threads for the store stay for others), that wait for that, and
those of one caller among both. A further one is refused, and may be asked for again."""

PLACES_FOR_OTHERS: Final = 2
"""The last places are for callers of tenants without a running story, so that no tenant takes them all."""

STORY_WITHIN_S: Final = 30.0  # Longest time for reading what a story is made of: it holds a place

_log = structlog.get_logger(__name__)


@dataclass(eq=False, repr=False)
class CaseStory:
    """Timelines of cases that a caller may see. For one event loop.

    A long one takes a while, so it is built in dedicated threads.
    """

    runtime: Runtime
    executor: StoreExecutor
    cases: CaseService
    agents: AgentService

    def __post_init__(self) -> None:
        self._asked: Counter[tuple[str, str]] = Counter()
        self._asked_by_tenants: Counter[frozenset[str]] = Counter()
        self._places = anyio.Semaphore(MAX_STORIES_AT_ONCE)
        self._threads = anyio.CapacityLimiter(MAX_STORIES_AT_ONCE)

    @property
    def asked_for(self) -> int:
        """Number of stories that are put together, or wait for that."""
        return self._asked.total()

    async def tell(
        self, caller: AuthenticatedCaller, case_id: str, write: Callable[[CaseReport, list[TimelineItem]], T]
    ) -> T:
        """Return everything that happened in a case, as *write* renders it in a thread, with events around each rise.

        Covers the first `MAX_AGENTS_IN_STORY` agents that joined; messages to people only with the scope `trust.admin`.
        Events that cannot be read are omitted. Raises ProblemError (404, 503), Unavailable.
        """
        async with self._place(caller):
            try:
                with anyio.fail_after(STORY_WITHIN_S):
                    report = await self.cases.get(caller, case_id)
                    records = await self._gather(caller, report)
            except TimeoutError:
                raise Unavailable("the store does not answer in time") from None

            def told() -> T:
                return write(report, build_timeline(records))

            return await anyio.to_thread.run_sync(told, limiter=self._threads)

    @asynccontextmanager
    async def _place(self, caller: AuthenticatedCaller) -> AsyncIterator[None]:
        """One of the places for stories, as soon as there is one. Raises ProblemError (503) if too many wait."""
        who, tenants = (caller.issuer, caller.subject), caller.tenants
        left = MAX_STORIES_AT_ONCE + MAX_STORIES_WAITING - self.asked_for
        if left <= 0 or (left <= PLACES_FOR_OTHERS and self._asked_by_tenants[tenants]):
            raise _busy_error("too many stories of cases are being put together; ask again in a moment")
        if self._asked[who] >= MAX_STORIES_OF_CALLER:
            raise _busy_error("too many stories of cases are being put together for you; ask again in a moment")
        self._asked[who] += 1
        self._asked_by_tenants[tenants] += 1
        try:
            async with self._places:
                yield
        finally:
            self._asked[who] -= 1
            self._asked_by_tenants[tenants] -= 1
            self._asked, self._asked_by_tenants = +self._asked, +self._asked_by_tenants

    async def _gather(self, caller: AuthenticatedCaller, report: CaseReport) -> CaseRecords:
        records = await self.executor(
            self._records, report, visible_tenants(caller, None), with_alerts=SCOPE_ADMIN in caller.scopes
        )
        events: list[NativeEvent] = []
        left_out: list[UntoldEvents] = []
        peaks = {decision.decision_id: decision for decision in records.decisions}
        for case_agent in report.agents[:MAX_AGENTS_WITH_EVENTS]:
            if (peak := peaks.get(case_agent.decision_id)) is not None:
                found, untold = await self._events_around(caller, peak)
                events += found
                left_out += [untold] if untold.actions else []
        return records._replace(events=events, left_out=left_out)

    async def _events_around(
        self, caller: AuthenticatedCaller, decision: Decision
    ) -> tuple[Sequence[NativeEvent], UntoldEvents]:
        moment = DecisionMoment(decision.event_time_ms, decision.partition, decision.offset)
        nothing = UntoldEvents(decision.agent.agent_id, decision.event_time_ms, ())
        try:
            history = await self.agents.recent_events(caller, decision.agent, moment)
        except TrustwatchError as error:
            _log.info("case_without_events", agent=decision.agent.agent_id, error=str(error))
            return (), nothing
        return history.around, nothing._replace(actions=history.left_out)

    def _records(self, report: CaseReport, tenants: Collection[str] | None, *, with_alerts: bool) -> CaseRecords:
        store, case_id = self.runtime.store, report.case.case_id
        ids = store.cases.decision_ids(case_id, tenants, MAX_DECISIONS_IN_STORY)
        decisions = list(store.decisions.get_many(ids, tenants).values())
        names = [case_agent.agent for case_agent in report.agents[:MAX_AGENTS_IN_STORY]]
        since_ms = min((decision.event_time_ms for decision in decisions), default=report.case.opened_ms) - LEAD_MS
        interventions = [
            intervention
            for name in names
            for intervention in store.interventions.page(tenants, agent=name).items
            if max(intervention.updated_ms, intervention.expires_ms) >= since_ms
        ]
        actuations = [actuation for name in names for actuation in store.actuations.page(tenants, name).items]
        feedback = [feedback_item for name in names for feedback_item in store.feedback.page(tenants, agent=name).items]
        deliveries = store.outbox.page(tenants, limit=MAX_PAGE, case_id=case_id).items if with_alerts else []
        return CaseRecords(
            decisions,
            report.entries,
            interventions,
            [actuation for actuation in actuations if actuation.updated_ms >= since_ms],
            deliveries,
            [feedback_item for feedback_item in feedback if feedback_item.created_ms >= since_ms],
        )


def _busy_error(detail: str) -> ProblemError:
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    return ProblemError(ProblemDetails(503, Unavailable.code, "Unavailable", detail, headers))
