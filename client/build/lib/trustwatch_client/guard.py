"""Steps shared by the ASGI, A2A and MCP middlewares: look up risk, judge, send the event. Failures break no request."""

from __future__ import annotations

import logging
from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import NamedTuple, Protocol

from .caller import Caller
from .counters import Counted, Counters
from .events import CAUSED_BY_TRUST, DENIED_BY_TRUST, TRUST_UNAVAILABLE, AuditEvent, Call, CausedBy, Effect, Outcome
from .refusal import GuardAction
from .risk_answers import Answer, CallVerdict
from .step_up_approvals import ApprovalSource, read_approved_scopes
from .trust_errors import TrustUnavailable

log = logging.getLogger("trustwatch_client")

GUARD_COUNTERS = ("allow", "deny", "step_up", "unavailable", "shadow", "unnamed", "untold")


class RiskLookup(Protocol):
    """Risk look-up: an `AsyncTrustClient`, or a stand-in for it."""

    async def risk(self, agent_id: str, *, tenant: str | None = None, issuer: str | None = None) -> Answer: ...


class CallJudge(Protocol):
    """Verdicts on calls: an `AsyncCallVerdicts`, or a stand-in for it."""

    async def evaluate(self, caller: Caller, call: Call, *, arguments_hash: str | None = None) -> CallVerdict: ...


class EventSink(Protocol):
    """An `EventSender` or `AsyncEventSender`."""

    def send(self, event: AuditEvent) -> str: ...


class Ruling(NamedTuple):
    """Decision about one request.

    Attributes:
        action: to take now.
        would: action by the policy; another than `action` in shadow mode.
        answer: the risk, where there is one.
        approved: a person has let pass what the level holds back.
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
        """Mark of the event of the request: refused ones are our doing."""
        return CAUSED_BY_TRUST if self.refused else None

    def event_outcome(self) -> tuple[Outcome, str]:
        """Outcome and error of the event of a refused request: neither counts as the agent's doing."""
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
        answer: the risk of the agent that calls.
        effect: of the request; where the scopes it needs are not known, a policy that holds some scopes for a person
            holds everything but reads.
        needed: scopes that the request needs; None = not known. One that the level does not get at all denies it.
        approved: scopes that a person approved for this agent, to the letter; `*` is all.
    """
    policy = answer.token_policy
    would: GuardAction = "allow"
    if not policy.allow or policy.revoke or not _all_allowed(needed or (), policy.allowed_scopes):
        would = "deny"
    elif policy.step_up and _needs_approval(policy.step_up_scopes, effect, needed, approved):
        would = "step_up"
    return Ruling(would if answer.mode == "enforce" else "allow", would, answer)


def _needs_approval(
    patterns: Collection[str], effect: Effect | None, needed: Collection[str] | None, approved: Collection[str]
) -> bool:
    """True if a part of the request needs a person's approval."""
    patterns = patterns or ("*",)
    if needed:
        return any(_matches_any(scope, patterns) and not {scope, "*"} & set(approved) for scope in needed)
    if needed is None and "*" not in patterns and effect == "read":
        return False
    to_approve = patterns if needed is None or "*" in patterns else ()
    return any(pattern not in approved and "*" not in approved for pattern in to_approve)


def _matches_any(scope: str, patterns: Collection[str]) -> bool:
    """Match scopes without regard to case, as the service does."""
    return any(fnmatchcase(scope.lower(), pattern.lower()) for pattern in patterns)


def _all_allowed(needed: Collection[str], patterns: Collection[str] | None) -> bool:
    return patterns is None or all(_matches_any(scope, patterns) for scope in needed)


class Guard(Counted):
    """Looks up the risk of callers and sends events of their requests.

    Args:
        client: None enforces nothing.
        sender: None sends no events.
        approved: what persons approved, asked when an answer wants a step-up; None = nothing is.
        calls: judges single calls before they are made; None = they are not asked about.
    """

    def __init__(
        self,
        client: RiskLookup | None,
        sender: EventSink | None,
        approved: ApprovalSource | None = None,
        calls: CallJudge | None = None,
    ) -> None:
        self._client = client
        self._calls = calls
        self._approved = approved
        self._sender = sender
        self._counters = Counters(*GUARD_COUNTERS)

    async def evaluate(self, caller: Caller, effect: Effect | None, needed: Collection[str] | None = None) -> Ruling:
        """Decide about a request of *caller*; without a risk client every request is allowed."""
        if self._client is None:
            return ALLOWED
        try:
            answer = await self._client.risk(caller.agent_id, tenant=caller.tenant, issuer=caller.issuer)
            ruling = judge(answer, effect, needed)
            if ruling.action == "step_up" and self._approved is not None:
                ruling = judge(answer, effect, needed, await read_approved_scopes(self._approved, caller))
                ruling = ruling._replace(approved=ruling.action == "allow")
        except TrustUnavailable:
            ruling = Ruling("unavailable", "unavailable")
        self._counters.increment(ruling.action)
        if ruling.would != ruling.action:
            self._counters.increment("shadow")
        return ruling

    @property
    def judges_calls(self) -> bool:
        """True if calls are asked about one by one."""
        return self._calls is not None

    async def judge_call(self, ruling: Ruling, caller: Caller, event: AuditEvent, arguments_hash: str | None) -> Ruling:
        """The ruling on the call that *event* is about to tell of; one that is refused already stays so.

        What a person has approved is not asked about: the level stays, and the service would want a person again.
        """
        if self._calls is None or ruling.refused or ruling.approved:
            return ruling
        try:
            verdict = await self._calls.evaluate(caller, event.as_call(), arguments_hash=arguments_hash)
        except TrustUnavailable:
            self._counters.increment("unavailable")
            return ruling._replace(action="unavailable", would="unavailable")
        if verdict.decision == "allow":
            return ruling
        self._counters.increment("shadow" if verdict.allow else verdict.decision)
        return ruling._replace(action="allow" if verdict.allow else verdict.decision, would=verdict.decision)

    def send_event(self, event: AuditEvent) -> None:
        """Queue *event*; one that the sender refuses is counted and left out."""
        if self._sender is None:
            return
        try:
            self._sender.send(event)
        except Exception as error:  # content that is refused, or a sender that is broken: no request pays for it
            self._counters.increment("untold")
            log.warning("event not told: %s", error)

    def count_unidentified(self) -> None:
        """Count a request that named no agent: the app's own authentication decides, no event is sent."""
        self._counters.increment("unnamed")
