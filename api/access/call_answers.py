"""Answers to questions about calls, over HTTP: reading a question, whom it is about, and the answer as JSON."""

from __future__ import annotations

from typing import Any

import msgspec

from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.scoring.policy.access_evaluation import AccessRequest
from trustwatch_client.risk_answers import CallThreshold, CallVerdict

from ..http.agent_lookup import find_agent_entry
from ..http.auth.callers import AuthenticatedCaller
from ..http.problems import ProblemDetails, ProblemError
from ..http.runtime import Runtime
from .call_evaluation import CallEvaluation, CallEvaluator, CallQuestion
from .decision_point import MAX_ACTORS

VIA_API = "calls"
"""Way of these questions, in metrics and approvals."""

_decode = msgspec.json.Decoder(CallQuestion).decode
_encode = msgspec.json.Encoder().encode


class CallAnswers:
    """Answers questions of callers about calls of their agents.

    Args:
        runtime: risk view, settings and clock.
        evaluator: of calls.
    """

    def __init__(self, runtime: Runtime, evaluator: CallEvaluator) -> None:
        self._runtime = runtime
        self._evaluator = evaluator
        self._budget = runtime.settings.risk.challenge_budget

    async def answer(
        self, caller: AuthenticatedCaller, agent_id: str, tenant: str | None, issuer: str | None, body: bytes
    ) -> bytes:
        """The answer as JSON. Waits for the store only where the agent has an approval for one use that it needs.

        Raises:
            TenantNotAllowed: the caller may not ask about that tenant.
            ProblemError: 409, the id alone does not say which agent is meant; 422, the body is no question.
        """
        call = read_call_question(body)
        entry = find_agent_entry(self._runtime.risk_view, caller, agent_id, tenant, issuer)
        if entry is not None:
            tenant, issuer, agent_id = entry.summary.name.identity
        else:
            tenant = tenant if tenant is not None else caller.binding.default_tenant
            issuer = issuer if issuer is not None else caller.binding.default_issuer
        ancestors = tuple(name for name in (call.delegation or ())[:MAX_ACTORS] if name and name != agent_id)
        # Who may not speak for an agent asks no person in its name: it would use up the agent's own approvals.
        approvable = caller.binding.may_speak_for(tenant, issuer, agent_id)
        # An agent that could name its own scopes would choose its own boundary.
        held = tuple(call.scopes.granted or ()) if call.scopes is not None and caller.binding.source.trusted else ()
        access = AccessRequest(
            tenant or "",
            issuer or "",
            agent_id,
            ancestors=ancestors,
            approvable=approvable,
            caller=caller.name,
            held=held,
        )
        if self._evaluator.any_for_one_use:
            access = await self._evaluator.spend_needed(access, call)
        return _encode(self._member_values(access, self._evaluator.evaluate(access, call, VIA_API)))

    def _member_values(self, access: AccessRequest, evaluation: CallEvaluation) -> CallVerdict:
        score, by_level = evaluation.score, evaluation.by_level
        return CallVerdict(
            agent_id=access.agent_id,
            tenant=access.tenant or None,
            issuer=access.issuer or None,
            decision=evaluation.decision,
            allow=evaluation.allow,
            would_allow=evaluation.would_allow,
            mode="enforce" if by_level.enforced else "shadow",
            reason=evaluation.reason,
            reasons=evaluation.reasons,
            risk_level=by_level.level.label,
            p_value=None if score is None else score.p_value,
            anomaly_score=None if score is None else score.anomaly_score,
            threshold=None if score is None or score.threshold is None else self._threshold_member(evaluation),
            basis=evaluation.basis,
            basis_detail=evaluation.detail or None,
            approval_id=evaluation.approval_id or None,
            call=evaluation.call,
            stale=by_level.stale,
            evaluated_at=format_rfc3339(self._runtime.now_ms()),
            model_version=None if score is None else self._runtime.scoring_version,
            policy_version=by_level.policy_version,
            outside_boundary=evaluation.outside,
        )

    def _threshold_member(self, evaluation: CallEvaluation) -> CallThreshold:
        score = evaluation.score
        assert score is not None and score.threshold is not None
        per_1000 = self._budget.of_effect(score.effect)
        return CallThreshold(score.threshold.anomaly_score, score.threshold.effect, per_1000)


def read_call_question(body: bytes) -> CallQuestion:
    """A question out of a body. Raises ProblemError (422)."""
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise unreadable_call(str(error)) from None


def unreadable_call(reason: str) -> ProblemError:
    """422 for a body that is no question about a call."""
    message, at_path, path = reason.rpartition(" - at `")
    errors: list[dict[str, Any]] = [{"path": path.removesuffix("`") if at_path else "$", "reason": message or reason}]
    members = {"errors": errors}
    return ProblemError(ProblemDetails(422, "invalid_request", "Invalid request", reason, members=members))
