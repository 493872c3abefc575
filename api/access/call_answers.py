"""`POST /v1/agents/{agent_id}/calls/evaluate`: reads a request about a call, finds its agent, and answers as JSON.

`FastCallRoute` answers in front of FastAPI, which declares the route too, so that OpenAPI has it.
"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.types import Receive, Scope

from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.scoring.engine.settings import accepted_challenges
from trustwatch.scoring.policy.access_evaluation import AccessRequest
from trustwatch_client.risk_answers import CallThreshold, CallVerdict

from ..http.agent_lookup import find_agent_entry, parse_agent_selection
from ..http.auth.callers import AuthenticatedCaller
from ..http.fast_path import JSON_HEADER, FastAgentRoute, RequestBodyTooLong, read_request_body
from ..http.problems import ProblemDetails, ProblemError
from ..http.runtime import Runtime
from ..http.slice import ServiceRegistry
from .call_evaluation import CallEvaluation, CallEvaluator, CallQuestion
from .decision_point import MAX_ACTORS

VIA_API = "calls"
"""The value of `way` for these requests in metrics and approvals."""

_decode = msgspec.json.Decoder(CallQuestion).decode
_encode = msgspec.json.Encoder().encode


class CallAnswers:
    """Answers requests about calls of agents."""

    def __init__(self, runtime: Runtime, evaluator: CallEvaluator) -> None:
        self._runtime = runtime
        self._evaluator = evaluator
        self._budget = runtime.settings.risk.challenge_budget

    async def answer(
        self, caller: AuthenticatedCaller, agent_id: str, tenant: str | None, issuer: str | None, body: bytes
    ) -> bytes:
        """The answer as JSON. Waits for the store only if the agent needs an approval for one use.

        Raises TenantNotAllowed, ProblemError.
        """
        call = read_call_question(body)
        entry = find_agent_entry(self._runtime.risk_view, caller, agent_id, tenant, issuer)
        if entry is not None:
            tenant, issuer, agent_id = entry.summary.name.identity
        else:
            tenant = tenant if tenant is not None else caller.binding.default_tenant
            issuer = issuer if issuer is not None else caller.binding.default_issuer
        ancestors = tuple(name for name in (call.delegation or ())[:MAX_ACTORS] if name and name != agent_id)
        # A caller that may not act for an agent cannot request approvals for it: they would use up the agent's own.
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
        per_1000 = accepted_challenges(self._budget, score.effect)
        return CallThreshold(score.threshold.anomaly_score, score.threshold.effect, per_1000)


def read_call_question(body: bytes) -> CallQuestion:
    """Parse a request body. Raises ProblemError (422)."""
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise unreadable_call(str(error)) from None


def unreadable_call(reason: str) -> ProblemError:
    """422 for a body that is not a request about a call."""
    message, at_path, path = reason.rpartition(" - at `")
    errors: list[dict[str, Any]] = [{"path": path.removesuffix("`") if at_path else "$", "reason": message or reason}]
    members = {"errors": errors}
    return ProblemError(ProblemDetails(422, "invalid_request", "Invalid request", reason, members=members))


MAX_CALL_BYTES = 128 * 1024
"""Maximum size of a request, bytes: 256 arguments with long names, and the other members of an event."""


class FastCallRoute(FastAgentRoute):
    """The route in front of FastAPI."""

    route, method = "/v1/agents/{agent_id}/calls/evaluate", "POST"

    def __init__(self, services: ServiceRegistry) -> None:
        super().__init__(services)
        self._answers = services.get(CallAnswers)

    async def _answer(
        self, caller: AuthenticatedCaller, agent_id: str, scope: Scope, receive: Receive
    ) -> tuple[tuple[bytes, bytes], bytes] | None:
        tenant, issuer = parse_agent_selection(scope["query_string"])
        try:
            body = await read_request_body(receive, MAX_CALL_BYTES)
        except RequestBodyTooLong:
            detail = f"the body may have {MAX_CALL_BYTES} bytes"
            raise ProblemError(ProblemDetails(413, "body_too_large", "Body too large", detail)) from None
        return (
            None if body is None else (JSON_HEADER, await self._answers.answer(caller, agent_id, tenant, issuer, body))
        )
