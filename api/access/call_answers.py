"""`POST /v1/agents/{agent_id}/calls/evaluate`: reads a question about a call, finds its agent, answers as JSON.

`FastCallRoute` answers in front of FastAPI, which declares the route too, so that OpenAPI has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.scoring.engine.settings import accepted_challenges
from trustwatch.scoring.policy.access_evaluation import AccessRequest
from trustwatch_client.risk_answers import CallThreshold, CallVerdict

from ..http.agent_lookup import decode_agent_id, find_agent_entry, parse_agent_selection
from ..http.auth.bearer_tokens import TokenVerifier
from ..http.auth.callers import SCOPE_SCORE_READ, AuthenticatedCaller
from ..http.dependencies import authenticate_request
from ..http.fast_path import RequestBodyTooLong, read_request_body
from ..http.problems import ProblemDetails, ProblemError, problem_of_failure, send_problem
from ..http.prometheus_metrics import ServiceMetrics
from ..http.refused_callers import RefusedCallers
from ..http.runtime import Runtime
from .call_evaluation import CallEvaluation, CallEvaluator, CallQuestion
from .decision_point import MAX_ACTORS

VIA_API = "calls"
"""Way of these questions, in metrics and approvals."""

_decode = msgspec.json.Decoder(CallQuestion).decode
_encode = msgspec.json.Encoder().encode


class CallAnswers:
    """Answers questions of callers about calls of their agents."""

    def __init__(self, runtime: Runtime, evaluator: CallEvaluator) -> None:
        self._runtime = runtime
        self._evaluator = evaluator
        self._budget = runtime.settings.risk.challenge_budget

    async def answer(
        self, caller: AuthenticatedCaller, agent_id: str, tenant: str | None, issuer: str | None, body: bytes
    ) -> bytes:
        """The answer as JSON. Waits for the store only where the agent has an approval for one use that it needs.

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
        per_1000 = accepted_challenges(self._budget, score.effect)
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


CALL_PATH_PREFIX, CALL_PATH_SUFFIX = b"/v1/agents/", b"/calls/evaluate"
CALL_ROUTE = "/v1/agents/{agent_id}/calls/evaluate"
MAX_CALL_BYTES = 128 * 1024
"""Bytes of a question: 256 arguments with long names, and what an event has beside them."""
_MIN_PATH_LENGTH = len(CALL_PATH_PREFIX) + len(CALL_PATH_SUFFIX)

_HEADERS = ((b"content-type", b"application/json"), (b"cache-control", b"no-store"))


@dataclass(eq=False, repr=False)
class FastCallRoute:
    """The route in front of FastAPI."""

    _answers: CallAnswers
    _verifier: TokenVerifier[AuthenticatedCaller]
    _metrics: ServiceMetrics
    _monotonic: Callable[[], float]
    _new_id: Callable[[], str]
    _refused_callers: RefusedCallers

    def __post_init__(self) -> None:
        self._observe_duration = self._metrics.histogram("trustwatch_http_request_seconds", CALL_ROUTE).observe

    def find_handler(self, path: bytes) -> ASGIApp | None:
        """This route, where *path* is one of a question about a call."""
        fits = path.endswith(CALL_PATH_SUFFIX) and path.startswith(CALL_PATH_PREFIX) and len(path) >= _MIN_PATH_LENGTH
        return self if fits else None

    def template(self, path: bytes) -> str:  # noqa: ARG002 - there is one
        """See `FastRoute`."""
        return CALL_ROUTE

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        start, status = self._monotonic(), 200
        try:
            body = await self._answer(scope, receive)
        except Exception as error:
            problem = problem_of_failure(error, CALL_ROUTE, self._new_id, scope, self._refused_callers)
            status = problem.status
            await send_problem(problem, send, with_body=scope["method"] != "HEAD")
        else:
            if body is None:
                return
            length = (b"content-length", b"%d" % len(body))
            await send({"type": "http.response.start", "status": status, "headers": [*_HEADERS, length]})
            await send({"type": "http.response.body", "body": body})
        self._metrics.counter("trustwatch_http_requests_total", CALL_ROUTE, str(status)).inc()
        self._observe_duration(self._monotonic() - start)

    async def _answer(self, scope: Scope, receive: Receive) -> bytes | None:
        """The answer; None where the client went away before its question was whole."""
        if scope["method"] != "POST":
            detail = "only POST is answered here"
            raise ProblemError(
                ProblemDetails(405, "method_not_allowed", "Method not allowed", detail, {"Allow": "POST"})
            )
        caller = await authenticate_request(self._verifier, scope)
        caller.require(SCOPE_SCORE_READ)
        agent_id = decode_agent_id(scope["raw_path"][len(CALL_PATH_PREFIX) : -len(CALL_PATH_SUFFIX)])
        tenant, issuer = parse_agent_selection(scope["query_string"])
        try:
            body = await read_request_body(receive, MAX_CALL_BYTES)
        except RequestBodyTooLong:
            detail = f"the body may have {MAX_CALL_BYTES} bytes"
            raise ProblemError(ProblemDetails(413, "body_too_large", "Body too large", detail)) from None
        return None if body is None else await self._answers.answer(caller, agent_id, tenant, issuer, body)
