"""The timeline of a case: all that happened, in order, each as a sentence."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
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
from ..http.ledger import Ledger, party_of
from ..http.runtime import Runtime
from ..http.store_executor import StoreExecutor
from .case_reports import CaseReport
from .service import CaseService

TimelineKind = Literal["event", "token", "decision", "case", "approval", "pin", "actuation", "message", "feedback"]
TIMELINE_KINDS: Final[tuple[TimelineKind, ...]] = get_args(TimelineKind)
MAX_NAMED_ACTIONS: Final = 6  # Actions that are named of events that a timeline does not list one by one
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


class UnlistedEvents(NamedTuple):
    """Events of an agent around the moment of its rise, UTC ms, that a timeline counts by action."""

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
    left_out: Sequence[UnlistedEvents] = ()


def build_timeline(records: CaseRecords) -> list[TimelineItem]:
    """Everything in *records*, oldest first."""
    items = [
        *map(_decision_item, records.decisions),
        *map(_entry_item, records.entries),
        *chain.from_iterable(map(_intervention_items, records.interventions)),
        *chain.from_iterable(map(_actuation_items, records.actuations)),
        *map(_delivery_item, records.deliveries),
        *map(_event_item, records.events),
        *map(_unlisted_item, records.left_out),
    ]
    if records.entries and records.entries[0].sequence > 1:
        words = f"{records.entries[0].sequence - 1} earlier entries of the case are not listed"
        items.insert(0, TimelineItem(records.entries[0].at_ms, "case", "", words))
    for given in records.feedback:
        text = (
            f"{printable_line(given.author)} judged a decision as {given.verdict.replace('_', ' ')}: "
            f"{printable_line(given.reason)}"
        )
        item = TimelineItem(given.created_ms, "feedback", given.agent.agent_id, text, (), given.decision_id)
        items.append(item)
    return sorted(items, key=lambda item: (item.at_ms, TIMELINE_KINDS.index(item.kind)))


def _decision_item(decision: Decision) -> TimelineItem:
    if decision.reasons:
        reason = decision.reasons[0].text
    else:
        reason = "time passed without new evidence" if decision.cause == "tick" else f"cause: {decision.cause}"
    text = f"Risk went from {RiskLevel(decision.previous_level).label} to {RiskLevel(decision.level).label}: {reason}"
    shown = tuple((indicator.kind, indicator.value) for indicator in decision.indicators)
    at_ms = decision.event_time_ms or decision.decided_ms
    return TimelineItem(at_ms, "decision", decision.agent.agent_id, text, shown, decision.decision_id)


def _entry_item(entry: CaseEntry) -> TimelineItem:
    detail: dict[str, Any] = msgspec.json.decode(entry.detail)
    words = "ended the snooze" if detail.get("ended") else _ACTION_WORDS.get(entry.action, entry.action)
    if detail.get("owner") == "":
        words = "took the case from its owner"
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


def _intervention_items(intervention: Intervention) -> Iterator[TimelineItem]:
    agent, asked_by = intervention.agent.agent_id, printable_line(intervention.asked_by)
    if intervention.kind == "pin":
        level, why = RiskLevel(intervention.level).label, printable_line(intervention.asked_why)
        asked, ended = f"{asked_by} fixed the level at {level}: {why}", "ended the fixed level"
    else:
        scopes = ", ".join(map(printable_line, intervention.scopes)) or "none named"
        asked, ended = f"An approval was asked for by {asked_by}; scopes: {scopes}", f"said {intervention.status}"
    yield TimelineItem(intervention.asked_ms, intervention.kind, agent, asked)
    if intervention.decided_ms:
        text = f"{printable_line(intervention.decided_by)} {ended}: {printable_line(intervention.why)}"
        yield TimelineItem(intervention.decided_ms, intervention.kind, agent, text)
    elif intervention.status == "expired":
        yield TimelineItem(intervention.expires_ms, intervention.kind, agent, "It expired")


def _actuation_items(actuation: Actuation) -> Iterator[TimelineItem]:
    order = _describe_order(actuation.desired)
    where, agent = printable_line(actuation.target), actuation.agent.agent_id
    yield TimelineItem(actuation.wanted_ms, "actuation", agent, f"{where} is to {order}")
    if actuation.confirmed_ms:
        yield TimelineItem(actuation.confirmed_ms, "actuation", agent, f"{where} confirmed: {order}")
    elif actuation.status == "failed":
        failed = f"{where} could not {order}: {printable_line(actuation.error)}"
        yield TimelineItem(actuation.updated_ms, "actuation", agent, failed)


def _describe_order(desired: bytes) -> str:
    """Describe what an authorization server is to do; an unreadable order is reported as such."""
    try:
        state = msgspec.json.decode(desired)
        level, revoke, allow = str(state["level"]), bool(state["revoke"]), bool(state["allow"])
        ceiling = state.get("max_token_lifetime_s")
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return "do what an order that can no longer be read states"
    if revoke:
        return f"revoke tokens of the agent (level {level})"
    if not allow:
        return f"issue no tokens to the agent (level {level})"
    if isinstance(ceiling, int):
        return f"issue tokens of at most {ceiling} s (level {level})"
    return f"treat the agent as before (level {level})"


def _delivery_item(delivery: Delivery) -> TimelineItem:
    what, decision_id = "A message about the case", ""
    if delivery.key.startswith(ALERT_KEY_PREFIX):
        what, decision_id = "An alert", delivery.key.removeprefix(ALERT_KEY_PREFIX)
    text = f"{what} to {printable_line(delivery.target)} {_DELIVERY_WORDS.get(delivery.status, delivery.status)}"
    if delivery.last_error and delivery.status != "delivered":
        text += f": {printable_line(delivery.last_error)}"
    return TimelineItem(delivery.delivered_ms or delivery.created_ms, "message", "", text, (), decision_id)


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


def _unlisted_item(unlisted: UnlistedEvents) -> TimelineItem:
    """Return the other events of that time, by action.

    >>> _unlisted_item(UnlistedEvents("a", 5, [("read", 900), ("post", 1)])).text
    '901 more events are not listed here, from ten minutes before until a minute after: read 900, post 1'
    """
    amount = sum(count for _, count in unlisted.actions)
    named = unlisted.actions[:MAX_NAMED_ACTIONS]
    words = ", ".join(f"{printable_line(action)} {count:,}" for action, count in named)
    more = ", and others" if len(unlisted.actions) > MAX_NAMED_ACTIONS else ""
    others = "1 more event is" if amount == 1 else f"{amount:,} more events are"
    text = f"{others} not listed here, from ten minutes before until a minute after: {words}{more}"
    return TimelineItem(unlisted.at_ms, "event", unlisted.agent_id, text)


def _listed(scopes: Iterable[str]) -> str:
    return ", ".join(map(printable_line, scopes)) or "nothing"


MAX_AGENTS_IN_STORY: Final = 50  # Agents whose approvals, pins, actuations and feedback a timeline shows
MAX_AGENTS_WITH_EVENTS: Final = 5  # Agents whose events a timeline shows: each needs a search in the log
MAX_DECISIONS_IN_STORY: Final = 500
LEAD_MS: Final = 3_600_000  # Time before the first event of a case: what ended within it is included
T = TypeVar("T")

STORY_WITHIN_S: Final = 30.0  # Longest time for reading what a timeline is made of: it holds a place

_log = structlog.get_logger(__name__)


@dataclass(eq=False, repr=False)
class CaseStory:
    """Timelines of cases that a caller may see. For one event loop.

    A long one takes a while, so it is bulk work.
    """

    runtime: Runtime
    executor: StoreExecutor
    ledger: Ledger
    cases: CaseService
    agents: AgentService

    async def tell(
        self, caller: AuthenticatedCaller, case_id: str, write: Callable[[CaseReport, list[TimelineItem]], T]
    ) -> T:
        """Return everything that happened in a case, as *write* renders it in a thread, with events around each rise.

        Covers the first `MAX_AGENTS_IN_STORY` agents that joined; messages to people only with the scope `trust.admin`.
        Events that cannot be read are omitted. Raises ProblemError (404), Overloaded, Unavailable.
        """
        async with self.ledger.bulk(party_of(caller.binding)):
            try:
                with anyio.fail_after(STORY_WITHIN_S):
                    report = await self.cases.get(caller, case_id)
                    records = await self._gather(caller, report)
            except TimeoutError:
                raise Unavailable("the store does not answer in time") from None
            return await anyio.to_thread.run_sync(lambda: write(report, build_timeline(records)))

    async def _gather(self, caller: AuthenticatedCaller, report: CaseReport) -> CaseRecords:
        records = await self.executor(
            self._records, report, visible_tenants(caller, None), with_alerts=SCOPE_ADMIN in caller.scopes
        )
        events: list[NativeEvent] = []
        left_out: list[UnlistedEvents] = []
        peaks = {decision.decision_id: decision for decision in records.decisions}
        for case_agent in report.agents[:MAX_AGENTS_WITH_EVENTS]:
            peak = peaks.get(case_agent.decision_id)
            if peak is None:
                continue
            moment = DecisionMoment(peak.event_time_ms, peak.partition, peak.offset)
            try:
                history = await self.agents.recent_events(caller, peak.agent, moment)
            except TrustwatchError as error:
                _log.info("case_without_events", agent=peak.agent.agent_id, error=str(error))
                continue
            events += history.around
            if history.left_out:
                left_out.append(UnlistedEvents(peak.agent.agent_id, peak.event_time_ms, history.left_out))
        return records._replace(events=events, left_out=left_out)

    def _records(self, report: CaseReport, tenants: Collection[str] | None, *, with_alerts: bool) -> CaseRecords:
        store, case_id = self.runtime.store, report.case.case_id
        ids = store.cases.decision_ids(case_id, tenants, MAX_DECISIONS_IN_STORY)
        decisions = list(store.decisions.get_many(ids, tenants).values())
        names = [case_agent.agent for case_agent in report.agents[:MAX_AGENTS_IN_STORY]]
        since_ms = min((decision.event_time_ms for decision in decisions), default=report.case.opened_ms) - LEAD_MS
        interventions: list[Intervention] = []
        actuations: list[Actuation] = []
        feedback: list[Feedback] = []
        for name in names:
            for asked in store.interventions.page(tenants, agent=name).items:
                if max(asked.updated_ms, asked.expires_ms) >= since_ms:
                    interventions.append(asked)
            actuations += (row for row in store.actuations.page(tenants, name).items if row.updated_ms >= since_ms)
            feedback += (row for row in store.feedback.page(tenants, agent=name).items if row.created_ms >= since_ms)
        deliveries = store.outbox.page(tenants, limit=MAX_PAGE, case_id=case_id).items if with_alerts else []
        return CaseRecords(decisions, report.entries, interventions, actuations, deliveries, feedback)
