"""OpenID AuthZEN Authorization API 1.0 as decision point, with the profile for OAuth token issuance.

Callers prove themselves by an access token with the scope `trust.decide`; their binding says whose agents they ask
about. A denial is an answer of status 200. Requests that are none get 400 with a sentence, as the standard has it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from starlette.types import Scope

from ...ingest.errors import SourceNotAllowed, TrustwatchError
from ...scoring.policy import Verdict
from ...scoring.policy.verdict import SCOPES_REFUSED, STEP_UP
from ..callers import SCOPE_DECIDE, AuthenticatedCaller
from ..guard import AccessDecision
from ..problems import problem_of
from .asking import HookDecider
from .base import (
    ClientInducedFailure,
    HookRequest,
    HookResponse,
    ParsedHookRequest,
    UnreadableHookRequest,
    decode_json_object,
    json_hook_response,
)
from .evaluations import (
    DENY_ON_FIRST_DENY,
    PERMIT_ON_FIRST_PERMIT,
    EvaluationBatch,
    EvaluationItem,
    EvaluationRequester,
    group_by_requester,
    read_evaluations,
)

EVALUATION_PATH, EVALUATIONS_PATH = "/access/v1/evaluation", "/access/v1/evaluations"
METADATA_PATH = "/.well-known/authzen-configuration"
ISSUANCE_CAPABILITY = "urn:ietf:params:authzen:token-issuance"
AUTHZEN_REQUEST_ID = b"x-request-id"

IdentifyHookCaller = Callable[[Scope], Awaitable[AuthenticatedCaller]]


class AuthZenEndpoint:
    """The decision point.

    Args:
        asking: asks the guard.
        identify: the caller of a request; raises AuthenticationFailed.
        several: whether this is the endpoint for many evaluations.
    """

    def __init__(self, asking: HookDecider, identify: IdentifyHookCaller, *, several: bool) -> None:
        self._decider = asking
        self._identify = identify
        self._is_batch = several

    async def admit(self, request: HookRequest, scope: Scope) -> Callable[[HookRequest], HookResponse] | HookResponse:
        """What answers the request once its body is there, or a refusal that needs none."""
        try:
            caller = await self._identify(scope)
            caller.require(SCOPE_DECIDE)
            tenant, issuer = self._tenant_and_issuer(caller)
        except TrustwatchError as error:
            problem = problem_of(error)
            headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in problem.headers.items()]
            return _with_request_id(request, _text_response(problem.status, problem.detail, *headers))
        return partial(self.answer, tenant, issuer)

    def answer(self, tenant: str, issuer: str, request: HookRequest) -> HookResponse:
        """The answer to a whole request about agents of a tenant and issuer."""
        try:
            asked = read_evaluations(decode_json_object(request.body), several=self._is_batch)
        except (UnreadableHookRequest, ClientInducedFailure) as error:
            return _with_request_id(request, _text_response(400, str(error)))
        every = group_by_requester(asked.items, tenant, issuer)
        decided = {who: self._decider.decide(one, _unconstrained) for who, one in every.items()}
        try:
            content = self._render(asked, decided)
        except Exception as error:
            decided = {who: self._decider.undecided_decision(error, one.access_request) for who, one in every.items()}
            content = self._render(asked, decided)
        for who, one in every.items():
            verdict = decided[who].verdict
            self._decider.record(one, decided[who], None if one.own_event_type else verdict.max_token_lifetime_s)
        return _with_request_id(request, json_hook_response(200, content))

    def too_large(self, request: HookRequest, most: int) -> HookResponse:
        """The answer to a body of more than *most* bytes."""
        return _with_request_id(request, _text_response(413, f"the body may have {most} bytes"))

    def _tenant_and_issuer(self, caller: AuthenticatedCaller) -> tuple[str, str]:
        """Tenant and issuer of the agents that a caller asks about. Raises TenantNotAllowed, SourceNotAllowed."""
        settings, binding = self._decider.settings, caller.binding
        tenant = caller.require_tenant(settings.tenant)
        issuer = settings.issuer or binding.default_issuer
        if issuer is None:
            reason = "this caller is not bound to exactly one issuer; set `issuer` of the hook in the settings"
            raise SourceNotAllowed(reason, "$.subject")
        binding.check_claims(tenant, issuer, None)
        return tenant, issuer

    def _render(self, asked: EvaluationBatch, decided: dict[EvaluationRequester, AccessDecision]) -> dict[str, Any]:
        answers = []
        shaped: set[EvaluationRequester] = set()
        for item in asked.items:
            answers.append(self._render_item(item, decided.get(item.requester), shaped))
            permit = answers[-1]["decision"]
            if (asked.semantic == DENY_ON_FIRST_DENY and not permit) or (
                asked.semantic == PERMIT_ON_FIRST_PERMIT and permit
            ):
                break
        return {"evaluations": answers} if asked.is_batch else answers[0]

    def _render_item(
        self, item: EvaluationItem, decided: AccessDecision | None, shaped: set[EvaluationRequester]
    ) -> dict[str, Any]:
        """One decision. What shapes the token stands on the first gate alone."""
        if decided is None:
            return {"decision": False, "context": {"error": {"status": 400, "message": item.error}}}
        if reason := _denial_reason(item, decided.verdict):
            return {"decision": False, "context": {"reason": reason}}
        issuance = {} if not item.grant or item.requester in shaped else self._issuance_context(decided)
        if item.grant:
            shaped.add(item.requester)
        return {"decision": True, "context": {"issuance": issuance}} if issuance else {"decision": True}

    def _issuance_context(self, decided: AccessDecision) -> dict[str, Any]:
        verdict = decided.verdict
        found: dict[str, Any] = {}
        if verdict.max_token_lifetime_s is not None:
            found["token_lifetime"] = verdict.max_token_lifetime_s
        if verdict.scopes is not None:
            found["granted_scope"] = " ".join(verdict.scopes)
        if self._decider.settings.claims and decided.verdict.policy_version:
            found["claims"] = decided.risk_claims()
        return found


class AuthZenMetadataEndpoint:
    """Where the decision point is, and what it can do: open to all, since it says nothing else.

    Args:
        url: how others reach the service.
    """

    def __init__(self, url: str) -> None:
        self._document = json_hook_response(
            200,
            {
                "policy_decision_point": url,
                "access_evaluation_endpoint": url + EVALUATION_PATH,
                "access_evaluations_endpoint": url + EVALUATIONS_PATH,
                "capabilities": [ISSUANCE_CAPABILITY],
            },
        )

    async def admit(self, request: HookRequest, _: Scope) -> HookResponse:
        """The document."""
        return _with_request_id(request, self._document)


def _unconstrained(_: ParsedHookRequest, verdict: Verdict) -> Verdict:
    """The standard can say all that a verdict does."""
    return verdict


def _denial_reason(item: EvaluationItem, verdict: Verdict) -> str:
    """Code of why an item is denied; "" = it is not."""
    if not verdict.allow:
        return verdict.reason
    if item.grant or verdict.scopes is None or item.action in verdict.scopes:
        return ""
    return STEP_UP if item.action in verdict.held_scopes else SCOPES_REFUSED


def _text_response(status: int, text: str, *headers: tuple[bytes, bytes]) -> HookResponse:
    return HookResponse(status, text.encode(), ((b"content-type", b"text/plain; charset=utf-8"), *headers))


def _with_request_id(request: HookRequest, answer: HookResponse) -> HookResponse:
    """The answer with the id of its request, where that has one."""
    given = request.header(AUTHZEN_REQUEST_ID)
    return answer if given is None else answer._replace(headers=(*answer.headers, (AUTHZEN_REQUEST_ID, given)))
