"""Decisions for hooks: what holds when a question fails, and an audit event of every question."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import structlog

from trustwatch.scoring.policy.access_evaluation import STALE, UNDECIDED, AccessRequest, DecisionContext, Verdict, deny
from trustwatch.scoring.policy.book import LivePolicy
from trustwatch.scoring.records.agents import AgentIdentity, RiskLevel
from trustwatch.scoring.records.containment import Intervention

from ... import clock
from ...http.line_limit import LineLimit
from ...settings.enforcement_settings import HookSettings
from ..decision_point import (
    MAX_EVENT_SCOPES,
    AccessDecision,
    ClientInducedFailure,
    PolicyDecisionPoint,
    refusal_members,
)
from ..one_use import Outcome, spend_needed
from .hook_adapter import ParsedHookRequest, UnreadableHookRequest

HookConstraint = Callable[[ParsedHookRequest, Verdict], Verdict]

_UNKNOWN_CONTEXT = DecisionContext(None, RiskLevel.UNKNOWN, "")

_log = structlog.get_logger(__name__)


class HookDecider:
    """Access decisions for one hook."""

    def __init__(
        self, settings: HookSettings, decision_point: PolicyDecisionPoint, policy: LivePolicy, now_ms: Callable[[], int]
    ) -> None:
        self.settings = settings
        self.channel = settings.kind
        self._decision_point = decision_point
        self._live_policy = policy
        self._now_ms = now_ms
        self._refusals = LineLimit(clock.monotonic)

    def knows(self, tenant: str, issuer: str, agent_id: str) -> bool:
        """True if that agent has been seen, or if that cannot be decided. Never raises."""
        try:
            return self._decision_point.policy_evaluator.view.get(tenant, issuer, agent_id) is not None
        except Exception as error:
            self._log_failure("hook_failed", error)
            return True

    def decide(self, parsed: ParsedHookRequest, fit: HookConstraint) -> AccessDecision:
        """The verdict; one with the reason `undecided` where there is none, for a fault of ours. Never raises."""
        try:
            return self._decision_point.decide(
                parsed.access_request, self.channel, partial(self._constrain, parsed, fit)
            )
        except Exception as error:
            return self.undecided_decision(error, parsed.access_request)

    @property
    def any_for_one_use(self) -> bool:
        """True if some agent has an approval for one use."""
        return self._decision_point.any_for_one_use

    async def spend_needed(
        self, identities: Iterable[AgentIdentity], judge: Callable[[tuple[Intervention, ...]], Outcome]
    ) -> tuple[Intervention, ...]:
        """Approvals for one use that were spent for a request about these agents; see `one_use`. Never raises."""
        try:
            return await spend_needed(self._decision_point.approval_workflow, identities, judge)
        except Exception as error:
            self._log_failure("hook_failed", error)
            return ()

    def preview(self, parsed: ParsedHookRequest, fit: HookConstraint, spent: tuple[Intervention, ...]) -> Outcome:
        """The outcome of a request once some approvals are spent. Nothing is counted, and no person is asked."""
        question = parsed.access_request._replace(spent=spent)
        verdict = self._constrain(parsed, fit, self._decision_point.policy_evaluator.evaluate(question)[0])
        return Outcome(verdict.allow, verdict.scopes)

    def undecided_decision(self, error: Exception, question: AccessRequest) -> AccessDecision:
        """Count a question that could not be decided, and return the decision that holds for it."""
        enforced = self._may_enforce(question.tenant)
        allow = self.fails_open(error, question.tenant)
        verdict = Verdict(
            allow, allow, enforced, RiskLevel.UNKNOWN, UNDECIDED, None, None, False, (), (), allow, False, ""
        )
        return AccessDecision(verdict, _UNKNOWN_CONTEXT, "")

    def fails_open(self, error: Exception, tenant: str) -> bool:
        """Count a question that failed with *error*; true if it is answered as if nothing stood against it.

        Where no policy is enforced nothing may be refused. What a client can bring about never lets it pass.
        """
        opened = self.settings.on_failure == "open" and not isinstance(error, ClientInducedFailure)
        opened = opened or not self._may_enforce(tenant)
        self._decision_point.count_failure(self.channel, fails_open=opened)
        answered = "open" if opened else "closed"
        if isinstance(error, (UnreadableHookRequest, ClientInducedFailure)):
            _log.warning("hook_unreadable", hook=self.settings.name, why=str(error), answered=answered)
        else:
            self._log_failure("hook_failed", error, answered=answered)
        return opened

    def record(self, parsed: ParsedHookRequest, decided: AccessDecision, lifetime_s: int | None = None) -> None:
        """Make an audit event of the question. Never raises: who asks has its answer whatever becomes of it."""
        if not decided.verdict.allow:
            members = refusal_members(parsed.access_request, decided)
            self._refusals.write(_log.info, "token refused", hook=self.settings.name, **members)
        try:
            more = {**_truncated_scopes(parsed.access_request, decided.verdict), **parsed.event_extras}
            self._decision_point.record_decision(
                decided,
                parsed.access_request,
                self.channel,
                kind=parsed.event_type,
                action=parsed.action,
                at_ms=self._now_ms(),
                lifetime_s=lifetime_s if decided.verdict.allow else None,
                more=more,
            )
        except Exception as error:
            self._decision_point.audit_sink.dropped += 1
            self._log_failure("hook_not_recorded", error)

    def _constrain(self, parsed: ParsedHookRequest, fit: HookConstraint, verdict: Verdict) -> Verdict:
        if verdict.stale and self.settings.on_stale == "deny":
            verdict = deny(verdict, STALE)
        return fit(parsed, verdict) if verdict.allow else verdict

    def _may_enforce(self, tenant: str) -> bool:
        try:
            return self._live_policy.book.may_enforce(tenant)
        except Exception as error:
            self._log_failure("hook_failed", error)
            return True

    def _log_failure(self, what: str, error: Exception, **more: str) -> None:
        trace = "".join(traceback.format_exception(error))  # no local variables: they hold requests
        _log.error(what, hook=self.settings.name, error=type(error).__name__, traceback=trace, **more)


def _truncated_scopes(question: AccessRequest, verdict: Verdict) -> dict[str, Any]:
    """The scopes of an event, where there are more than an event holds: the first ones."""
    if len(question.scopes) <= MAX_EVENT_SCOPES:
        return {}
    requested = question.scopes[:MAX_EVENT_SCOPES]
    if verdict.allow and verdict.scopes is not None and len(verdict.scopes) < len(question.scopes):
        return {"scopes": {"requested": list(requested)}}
    left = () if not verdict.allow else requested
    return {"scopes": {"requested": list(requested), "granted": list(left)}}
