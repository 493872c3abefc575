"""The story of a case: all that happened, in one order, each as a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args

import msgspec

from trustwatch.ingest.described import NULL, DecisionId, member
from trustwatch.ingest.events import NativeEvent
from trustwatch.ingest.printable_text import printable_line
from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.scoring.records.cases import CaseEntry
from trustwatch.scoring.records.commits import ALERT_KEY_PREFIX, Delivery
from trustwatch.scoring.records.containment import Actuation, Intervention
from trustwatch.scoring.records.decisions import Decision
from trustwatch.scoring.records.feedback import Feedback

from ..events.event_origin import delegated_by, event_sizes, origin_of

TimelineKind = Literal["event", "token", "decision", "case", "approval", "pin", "actuation", "message", "feedback"]
TIMELINE_KINDS: Final[tuple[TimelineKind, ...]] = get_args(TimelineKind)
MAX_UNTOLD_ACTIONS: Final = 6  # Actions that are named of events which a story does not tell one by one
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
    kind: Annotated[TimelineKind, member("what it is", "decision")]
    agent_id: Annotated[str, member("agent that it is about; null = the whole case", "agent-ledger", null=True)]
    text: Annotated[str, member("a sentence", "Risk went from low to high: new network 203.0.113.0/24")]
    indicators: Annotated[tuple[tuple[str, str], ...], member("kinds and values", [["network", "AS65537"]])] = ()
    decision_id: Annotated[DecisionId, NULL] = ""


class UntoldEvents(NamedTuple):
    """Events of an agent around the moment of its rise, UTC ms, that a story counts and does not tell one by one."""

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


def _word(level: int) -> str:
    return RiskLevel(level).label


def _decision_item(decision: Decision) -> TimelineItem:
    reason = (
        decision.reasons[0].text
        if decision.reasons
        else {"tick": "time passed without new evidence"}.get(decision.cause, f"cause: {decision.cause}")
    )
    text = f"Risk went from {_word(decision.previous_level)} to {_word(decision.level)}: {reason}"
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
    """Entries, and how many earlier ones are not told."""
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
    """Words that an entry adds to its action.

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
    for name, words in (("from", "from"), ("into", "into")):
        if detail.get(name):
            parts.append(f" {words} {printable_line(str(detail[name]))}")
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
        text = f"{asked_by} fixed the level at {_word(intervention.level)}: {why}"
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
    """Words for what an authorization server is to do; an unreadable order is said to be one."""
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
