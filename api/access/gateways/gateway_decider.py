"""Decisions on calls: what a gateway cannot enforce is denied, and failures are answered as the settings specify."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec
import structlog

from trustwatch.scoring.delivery.actuators.token_revocation import TokenRevoker
from trustwatch.scoring.policy.access_evaluation import (
    NOT_NARROWED,
    OUTSIDE_BOUNDARY,
    STALE,
    STEP_UP,
    AccessRequest,
    Verdict,
)
from trustwatch.scoring.records.containment import Intervention

from ... import clock
from ...http.problems import error_members
from ...http.refused_callers import LineLimit
from ...settings.enforcement_settings import GatewaySettings
from ..approval_workflow import Outcome, spend_needed
from ..decision_point import MAX_EVENT_SCOPES, AccessDecision, PolicyDecisionPoint, refusal_members
from .gateway_issuers import TokenHolder

_log = structlog.get_logger(__name__)

GatewayConstraint = Callable[[Verdict], Verdict]


class GatewayDecider:
    """Access decisions for gateways."""

    def __init__(
        self,
        settings: GatewaySettings,
        decision_point: PolicyDecisionPoint,
        revoker: TokenRevoker,
        now_ms: Callable[[], int],
    ) -> None:
        self._decision_point = decision_point
        self._revoker = revoker
        self._now_ms = now_ms
        self._fails_open = settings.on_failure == "open"
        self._denies_stale = settings.on_stale == "deny"
        self.records_all = settings.record == "all"
        self._safe_methods = frozenset(settings.safe_methods)
        self._refusals = LineLimit(clock.monotonic)

    async def decide_call(
        self, holder: TokenHolder, token: bytes, method: str, via: str, action: str = ""
    ) -> AccessDecision:
        """The verdict on a call. Never raises.

        Waits for the store only if the call needs an approval for one use.
        """
        fit = self._constrain_safe if method in self._safe_methods else self._constrain_unsafe
        if action:
            question = holder.access_request
            holder = holder._replace(access_request=question._replace(actions=(action,), held=question.scopes))
            fit = partial(self._constrain_action, fit)
        if self._decision_point.any_for_one_use:
            holder = await self._spend_needed(holder, via, fit)
        return self._decide(holder, token, via, fit)

    async def _spend_needed(self, holder: TokenHolder, via: str, fit: GatewayConstraint) -> TokenHolder:
        """*holder* with the approvals for one use that its call needs, which are spent for it."""
        question, point = holder.access_request, self._decision_point

        def judge(spent: tuple[Intervention, ...]) -> Outcome:
            return Outcome(fit(point.policy_evaluator.evaluate(question._replace(spent=spent))[0]).allow)

        try:
            spent = await spend_needed(point.approval_workflow, (question.identity,), judge)
        except Exception as error:
            self._log_failure("gateway_failed", via, error)
            return holder
        return holder._replace(access_request=question._replace(spent=spent))

    def decide_introspection(self, holder: TokenHolder, token: bytes, via: str) -> AccessDecision:
        """The verdict on a token; its `scopes` are those that it may be used for. Never raises."""
        return self._decide(holder, token, via, self._constrain_stale)

    def _decide(self, holder: TokenHolder, token: bytes, via: str, fit: GatewayConstraint) -> AccessDecision:
        try:
            decided = self._decision_point.decide(holder.access_request, via, fit)
            if decided.verdict.revoke:
                self._revoker.revoke_in_background(token.decode("ascii"), holder.issuer)
        except Exception as error:
            return self._undecided_decision(error, holder.access_request, via)
        return decided

    def _undecided_decision(self, error: Exception, question: AccessRequest, via: str) -> AccessDecision:
        opened = self._fails_open or not self._decision_point.may_enforce(question.tenant)
        self._decision_point.count_failure(via, fails_open=opened)
        self._log_failure("gateway_failed", via, error)
        return self._decision_point.undecided(question, allow=opened)

    def count_unverifiable(self, via: str, issuer: str) -> None:
        """Count a token that cannot be verified because the issuer's keys are unavailable. It never passes: any client
        can write a token that names that issuer."""
        self._decision_point.count_failure(via, fails_open=False)
        _log.warning("gateway_without_keys", via=via, issuer=issuer)

    def record(
        self, decided: AccessDecision, question: AccessRequest, via: str, kind: str, method: str, target: str
    ) -> None:
        """Record a denial, or every call if the settings require it, as an audit event. Never raises."""
        if decided.verdict.allow and not self.records_all and not decided.verdict.outside:
            return
        if not decided.verdict.allow:
            self._refusals.write(_log.info, "call refused", via=via, **refusal_members(question, decided))
        more: dict[str, Any] = {"resource": {"id": target}} if target else {}
        if len(question.scopes) > MAX_EVENT_SCOPES:
            first = list(question.scopes[:MAX_EVENT_SCOPES])
            more["scopes"] = {"requested": first, "granted": first if decided.verdict.allow else []}
        try:
            self._decision_point.record_decision(
                decided, question, via, kind=kind, action=method or "unknown", at_ms=self._now_ms(), more=more
            )
        except Exception as error:
            self._decision_point.audit_sink.dropped += 1
            self._log_failure("gateway_not_recorded", via, error)

    def _constrain_action(self, of_method: GatewayConstraint, verdict: Verdict) -> Verdict:
        return self._constrain_boundary(of_method(verdict))

    def _constrain_boundary(self, verdict: Verdict) -> Verdict:
        """Refuse an action outside of the declared boundary, or let a person decide, as the settings specify."""
        on_outside = self._decision_point.policy_evaluator.boundary.outside
        if not verdict.outside or on_outside == "record":
            return verdict
        if on_outside == "deny" and (verdict.would_allow or verdict.step_up):
            return _deny(verdict, OUTSIDE_BOUNDARY)
        if not verdict.would_allow:
            return verdict
        denied = _deny(verdict, OUTSIDE_BOUNDARY, step_up=True)
        return msgspec.structs.replace(denied, held_scopes=verdict.outside)

    def _constrain_stale(self, verdict: Verdict) -> Verdict:
        return _deny(verdict, STALE) if verdict.stale and self._denies_stale and verdict.would_allow else verdict

    def _constrain_unsafe(self, verdict: Verdict) -> Verdict:
        """Refuse the call if any scope of its token is refused: a gateway does not state which scopes a call uses."""
        verdict = self._constrain_stale(verdict)
        if not verdict.would_allow:
            return verdict
        if verdict.refused_scopes:
            return _deny(verdict, NOT_NARROWED)
        return _deny(verdict, STEP_UP, step_up=True) if verdict.step_up else verdict

    def _constrain_safe(self, verdict: Verdict) -> Verdict:
        """A safe method needs none of the scopes that await approval if one remains, so no approval is requested."""
        verdict = self._constrain_stale(verdict)
        if not verdict.would_allow:
            return verdict
        if verdict.refused_scopes:
            return _deny(verdict, NOT_NARROWED)
        return msgspec.structs.replace(verdict, step_up=False) if verdict.step_up else verdict

    def _log_failure(self, what: str, via: str, error: Exception) -> None:
        _log.error(what, via=via, **error_members(error))


def _deny(verdict: Verdict, reason: str, *, step_up: bool = False) -> Verdict:
    """A denial in place of what a gateway cannot enforce. In shadow mode only the audit event shows it."""
    return msgspec.structs.replace(
        verdict, allow=not verdict.enforced, would_allow=False, reason=reason, scopes=None, step_up=step_up
    )


def narrow_scope_claims(members: Mapping[str, Any], verdict: Verdict) -> dict[str, Any]:
    """Members of an active introspection answer, with the scopes that the token is good for now."""
    narrowed = {name: value for name, value in members.items() if name not in ("scp", "scope")}
    given = members.get("scope", members.get("scp"))
    scopes = given.split() if isinstance(given, str) else given if isinstance(given, list) else []
    if scopes:
        left = scopes if verdict.scopes is None else [scope for scope in scopes if scope in verdict.scopes]
        narrowed["scope"] = " ".join(left)
    return narrowed
