"""The implementation that the ASGI, A2A and MCP middlewares share: look up risk, judge, trace, send the event.

Its own failures break no request. Refusals disclose neither risk nor reasons. A step-up passes by an approval at the
service, or by a recent log-in.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import re
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple, Protocol, TypedDict

import msgspec

from .argument_origins import ArgumentOrigins, TracedCall, text_of
from .events import (
    CAUSED_BY_TRUST,
    DENIED_BY_TRUST,
    TRUST_UNAVAILABLE,
    AuditEvent,
    Call,
    Caller,
    CausedBy,
    Effect,
    EventAgent,
    Outcome,
)
from .origin_tracker import OriginTracker
from .risk_answers import Answer, CallVerdict
from .service_connection import Counted, Counters
from .timing import Clock, SystemClock
from .trust_errors import TrustUnavailable

log = logging.getLogger("trustwatch_client")

GUARD_COUNTERS = ("allow", "deny", "step_up", "unavailable", "shadow", "unnamed", "untold")
MAX_TEXT_IN_LOOP = 16_384
"""Longer answers are remembered in a thread: 10 kB take about 1 ms."""
UNKNOWN_AGENT = EventAgent(id="-")
"""Agent of an event until `Caller.add_to_event` names it."""

GuardAction = Literal["allow", "deny", "step_up", "unavailable"]
ResponseHeaders = list[tuple[bytes, bytes]]
_NOT_QUOTABLE = re.compile(r'[^\x20-\x7e]|["\\]')
RETRY_AFTER_S = 1

REFUSAL_DETAILS: dict[GuardAction, tuple[int, str, str, str]] = {
    "deny": (403, "access_denied", "Forbidden", "Access is denied."),
    "step_up": (401, "insufficient_user_authentication", "Unauthorized", "A person must approve this first."),
    "unavailable": (503, "temporarily_unavailable", "Service Unavailable", "Access cannot be decided now. Try again."),
}
"""Action -> status, code, title, detail."""


class Challenge(msgspec.Struct, frozen=True):
    """Requirements of a step-up (RFC 9470).

    Attributes:
        acr_values: authentication context classes, the preferred one first, separated by spaces.
        max_age_s: s since the person authenticated, at most.
        resource_metadata: URL of the protected resource's metadata (RFC 9728).
    """

    acr_values: str | None = None
    max_age_s: int | None = None
    resource_metadata: str | None = None

    def header_value(self) -> str:
        """Return the value of `WWW-Authenticate`."""
        given = {
            "error": "insufficient_user_authentication",
            "error_description": REFUSAL_DETAILS["step_up"][3],
            "acr_values": self.acr_values,
            "max_age": self.max_age_s,
            "resource_metadata": self.resource_metadata,
        }
        return "Bearer " + ", ".join(
            f'{name}="{_NOT_QUOTABLE.sub("", str(value))}"' for name, value in given.items() if value is not None
        )


def refusal_response(action: GuardAction, challenge: Challenge) -> tuple[int, ResponseHeaders, bytes]:
    """Return status, headers and body (a problem document, RFC 9457) of a refused request."""
    status, code, title, detail = REFUSAL_DETAILS[action]
    kind = f"urn:trustwatch:problem:{code}"
    body = json.dumps({"type": kind, "title": title, "status": status, "detail": detail, "code": code}).encode()
    headers: ResponseHeaders = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if action == "step_up":
        headers.append((b"www-authenticate", challenge.header_value().encode("ascii")))
    if action == "unavailable":
        headers.append((b"retry-after", str(RETRY_AFTER_S).encode()))
    return status, headers, body


ApprovalSource = Callable[[Caller], Collection[str] | Awaitable[Collection[str]]]
"""Scopes that a person approved for a caller, compared exactly; `*` is all."""


def shown_by_token(challenge: Challenge, clock: Clock | None = None) -> ApprovalSource:
    """Approve everything for a token that meets *challenge* (RFC 9470): its `acr` is accepted and its `auth_time` is
    recent enough. No token meets a challenge that requires neither.
    """
    clock = clock or SystemClock()
    accepted = (challenge.acr_values or "").split()

    def shown(caller: Caller) -> tuple[str, ...]:
        age_s = clock.wall() - caller.auth_time if caller.auth_time is not None else float("inf")
        is_old = challenge.max_age_s is not None and age_s > challenge.max_age_s
        requires_nothing = not accepted and challenge.max_age_s is None
        if requires_nothing or is_old or (accepted and caller.acr not in accepted):
            return ()
        return ("*",)

    return shown


class RiskLookup(Protocol):
    """Looks up risk, such as `AsyncTrustClient`."""

    async def risk(self, agent_id: str, *, tenant: str | None = None, issuer: str | None = None) -> Answer: ...


class CallJudge(Protocol):
    """Returns verdicts on calls, such as `AsyncCallVerdicts`."""

    async def evaluate(self, caller: Caller, call: Call, *, arguments_hash: str | None = None) -> CallVerdict: ...


class EventSink(Protocol):
    """Accepts events, such as `EventSender` or `AsyncEventSender`."""

    def send(self, event: AuditEvent) -> str: ...


class Ruling(NamedTuple):
    """Decision on one request.

    Attributes:
        action: to take now.
        would: action by the policy; differs from `action` in shadow mode.
        answer: the risk, if there is one.
        approved: whether a person approved the held request.
    """

    action: GuardAction
    would: GuardAction
    answer: Answer | None = None
    approved: bool = False

    @property
    def refused(self) -> bool:
        return self.action != "allow"

    @property
    def cause(self) -> CausedBy | None:
        """Mark of the event of a refused request: the refusal caused its outcome."""
        return CAUSED_BY_TRUST if self.refused else None

    def event_outcome(self) -> tuple[Outcome, str]:
        """Outcome and error of the event of a refused request. Neither counts as behavior of the agent."""
        return ("error", TRUST_UNAVAILABLE) if self.action == "unavailable" else ("denied", DENIED_BY_TRUST)


ALLOWED = Ruling("allow", "allow")


def judge(
    answer: Answer,
    effect: Effect | None = None,
    needed: Collection[str] | None = None,
    approved: Collection[str] = (),
) -> Ruling:
    """Apply the token policy of *answer* to one request.

    Args:
        answer: the risk of the calling agent.
        effect: of the request. If the needed scopes are unknown, a policy that holds some scopes for a person holds
            everything but reads.
        needed: scopes that the request needs; None: unknown. A scope that the level does not allow denies the request.
        approved: scopes that a person approved for this agent, compared exactly; `*` is all.
    """
    policy, allowed = answer.token_policy, answer.token_policy.allowed_scopes
    would: GuardAction = "allow"
    is_outside = allowed is not None and not all(_matches_any(scope, allowed) for scope in needed or ())
    if not policy.allow or policy.revoke or is_outside:
        would = "deny"
    elif policy.step_up and _needs_approval(policy.step_up_scopes, effect, needed, approved):
        would = "step_up"
    return Ruling(would if answer.mode == "enforce" else "allow", would, answer)


def _needs_approval(
    patterns: Collection[str], effect: Effect | None, needed: Collection[str] | None, approved: Collection[str]
) -> bool:
    patterns = patterns or ("*",)
    if needed:
        return any(_matches_any(scope, patterns) and not {scope, "*"} & set(approved) for scope in needed)
    if needed is None and "*" not in patterns and effect == "read":
        return False
    to_approve = patterns if needed is None or "*" in patterns else ()
    return any(pattern not in approved and "*" not in approved for pattern in to_approve)


def _matches_any(scope: str, patterns: Collection[str]) -> bool:
    return any(fnmatchcase(scope.lower(), pattern.lower()) for pattern in patterns)


class GuardOptions(TypedDict, total=False):
    """Options of `Guard`, which every middleware takes by keyword.

    Attributes:
        client: looks up risk; None enforces nothing.
        sender: receives the events; None sends none.
        approved: lets step-ups pass: `Approvals`, `shown_by_token`, or your own; None lets none pass.
        calls: judges single calls before they are made (`AsyncCallVerdicts`); use it with *origins*. None judges none.
        origins: traces where arguments came from; None reads neither arguments nor answers.
        clock: for tests.
    """

    client: RiskLookup | None
    sender: EventSink | None
    approved: ApprovalSource | None
    calls: CallJudge | None
    origins: OriginTracker | None
    clock: Clock | None


class Guard(Counted):
    """Looks up the risk of callers and sends events of their requests. Base class of the middlewares.

    Args:
        client, sender, approved, calls, origins, clock: as in `GuardOptions`.
    """

    def __init__(
        self,
        client: RiskLookup | None = None,
        sender: EventSink | None = None,
        approved: ApprovalSource | None = None,
        calls: CallJudge | None = None,
        origins: OriginTracker | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._client = client
        self._sender = sender
        self._approved = approved
        self._counters = Counters(*GUARD_COUNTERS)
        self.calls = calls
        self.origins = origins
        self.clock = clock or SystemClock()

    async def evaluate(self, caller: Caller, effect: Effect | None, needed: Collection[str] | None = None) -> Ruling:
        """Decide on a request of *caller*. Without a risk client every request is allowed."""
        if self._client is None:
            return ALLOWED
        try:
            answer = await self._client.risk(caller.agent_id, tenant=caller.tenant, issuer=caller.issuer)
        except TrustUnavailable:
            self._counters.increment("unavailable")
            return Ruling("unavailable", "unavailable")
        ruling = judge(answer, effect, needed)
        if ruling.action == "step_up" and self._approved is not None:
            try:
                scopes = self._approved(caller)
                if inspect.isawaitable(scopes):
                    scopes = await scopes
            except Exception as error:
                log.warning("approvals are unavailable: %s", type(error).__name__)
                scopes = ()
            ruling = judge(answer, effect, needed, scopes)
            ruling = ruling._replace(approved=ruling.action == "allow")
        self._counters.increment(ruling.action)
        if ruling.would != ruling.action:
            self._counters.increment("shadow")
        return ruling

    async def judge_call(self, ruling: Ruling, caller: Caller, event: AuditEvent, arguments_hash: str | None) -> Ruling:
        """Return the ruling on the call that *event* will report. A refused call stays refused.

        A call that a person approved is not judged: the level stays, and the service would require a person again.
        """
        if self.calls is None or ruling.refused or ruling.approved:
            return ruling
        try:
            verdict = await self.calls.evaluate(caller, event.as_call(), arguments_hash=arguments_hash)
        except TrustUnavailable:
            self._counters.increment("unavailable")
            return ruling._replace(action="unavailable", would="unavailable")
        if verdict.decision == "allow":
            return ruling
        self._counters.increment("shadow" if verdict.allow else verdict.decision)
        return ruling._replace(action="allow" if verdict.allow else verdict.decision, would=verdict.decision)

    def send_event(self, event: AuditEvent) -> None:
        """Queue *event*. An event that the sender refuses is counted and dropped."""
        if self._sender is None:
            return
        try:
            self._sender.send(event)
        except Exception as error:  # of refused content, or of a broken sender: the request continues
            self._counters.increment("untold")
            log.warning("event not sent: %s", error)

    def count_unidentified(self) -> None:
        """Count a request that names no agent. The app's authentication decides on it, and no event is sent."""
        self._counters.increment("unnamed")


@dataclass(eq=False, repr=False)
class GuardedRequest:
    """One request of a caller: judged before it is served, traced, and reported as one event at its end.

    Each middleware has a subclass whose `new_event` describes the request.

    Attributes:
        ruling: decision about it.
        outcome, error: of the event, unless the request is refused.
        is_traced: answers should be passed to `finish_trace`.
    """

    guard: Guard
    caller: Caller
    ruling: Ruling = field(default=ALLOWED, init=False)
    outcome: Outcome = field(default="success", init=False)
    error: str | None = field(default=None, init=False)
    _conversation: ArgumentOrigins | None = field(default=None, init=False)
    _call: TracedCall | None = field(default=None, init=False)
    _untrusted: bool | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._began, self._started = self.guard.clock.wall(), self.guard.clock.steady()
        self.is_traced = self.guard.origins is not None

    def new_event(self, time: datetime, outcome: Outcome) -> AuditEvent:
        """Return an event of `UNKNOWN_AGENT` with these members and those that the middleware knows."""
        raise NotImplementedError

    def event(self) -> AuditEvent:
        """Return the event of the request as it is now."""
        outcome, error = self.ruling.event_outcome() if self.ruling.refused else (self.outcome, self.error)
        event = self.new_event(datetime.fromtimestamp(self._began, UTC), outcome)
        event.error = error
        event.caused_by = self.ruling.cause
        event.duration_ms = max(0.0, self.guard.clock.steady() - self._started) * 1000.0
        if self._call is not None:
            event.arguments, event.untrusted_result = self._call.arguments, self._untrusted
        return self.caller.add_to_event(event)

    def send_event(self) -> None:
        self.guard.send_event(self.event())

    async def evaluate(self, effect: Effect | None, needed: Collection[str] | None) -> None:
        """Judge the request by the risk of its caller."""
        self.ruling = await self.guard.evaluate(self.caller, effect, needed)

    async def judge_call(self, arguments: object) -> None:
        """Judge the call itself, if calls are judged. An approval is bound to all of *arguments*."""
        if self.guard.calls is None:
            return
        hashed = None
        if self.guard.origins is not None:
            try:
                hashed = self.guard.origins.hash_arguments(self.caller, arguments)
            except Exception as error:
                self._count_failure(error)
        self.ruling = await self.guard.judge_call(self.ruling, self.caller, self.event(), hashed)

    def start_trace(self, session: str | None, action: str, arguments: object) -> None:
        """Look up the arguments of the call in the conversation of its session."""
        try:
            if (conversation := self._conversation_of(session)) is not None:
                self._conversation, self._call = conversation, conversation.start_call(action, arguments)
        except Exception as error:
            self._count_failure(error)

    def add_system(self, session: str | None, value: object) -> None:
        """Remember a text with which a server instructs the agent."""
        try:
            if (conversation := self._conversation_of(session)) is not None:
                conversation.add_system(value)
        except Exception as error:
            self._count_failure(error)

    async def finish_trace(self, answer: object, untrusted: bool | None) -> None:
        """Remember the answer before the agent receives it, so that its next call finds the values."""
        conversation, call = self._conversation, self._call
        if conversation is None or call is None:
            return
        try:
            text = text_of(answer, conversation.most_characters)
            if len(text) > MAX_TEXT_IN_LOOP:
                self._untrusted = await asyncio.to_thread(conversation.finish_call, call, text, untrusted=untrusted)
            else:
                self._untrusted = conversation.finish_call(call, text, untrusted=untrusted)
        except Exception as error:
            self._count_failure(error)

    def _conversation_of(self, session: str | None) -> ArgumentOrigins | None:
        origins = self.guard.origins
        return None if origins is None else origins.conversation_of(self.caller, session)

    def _count_failure(self, error: Exception) -> None:
        if self.guard.origins is not None:
            self.guard.origins.count_failure()
        # Only the kind is logged, since the error's text may hold content.
        log.warning("arguments of a call not traced: %s", type(error).__name__)
