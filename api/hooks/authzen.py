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
from ..callers import DECIDE, Caller
from ..guard import Decided
from ..problems import problem_of
from .asking import Asking
from .base import Asked, ByClient, HookAnswer, HookRequest, Unreadable, decoded, json_answer
from .evaluations import FIRST_DENY, FIRST_PERMIT, Evaluations, Item, Who, questions, read_evaluations

EVALUATION, EVALUATIONS = "/access/v1/evaluation", "/access/v1/evaluations"
METADATA = "/.well-known/authzen-configuration"
ISSUANCE = "urn:ietf:params:authzen:token-issuance"
REQUEST_ID = b"x-request-id"

Identify = Callable[[Scope], Awaitable[Caller]]


class AuthZen:
    """The decision point.

    Args:
        asking: asks the guard.
        identify: the caller of a request; raises AuthenticationFailed.
        several: whether this is the endpoint for many evaluations.
    """

    def __init__(self, asking: Asking, identify: Identify, *, several: bool) -> None:
        self._asking = asking
        self._identify = identify
        self._several = several

    async def admit(self, request: HookRequest, scope: Scope) -> Callable[[HookRequest], HookAnswer] | HookAnswer:
        """What answers the request once its body is there, or a refusal that needs none."""
        try:
            caller = await self._identify(scope)
            caller.require(DECIDE)
            tenant, issuer = self._whose(caller)
        except TrustwatchError as error:
            problem = problem_of(error)
            headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in problem.headers.items()]
            return _echo(request, _sentence(problem.status, problem.detail, *headers))
        return partial(self.answer, tenant, issuer)

    def answer(self, tenant: str, issuer: str, request: HookRequest) -> HookAnswer:
        """The answer to a whole request about agents of a tenant and issuer."""
        try:
            asked = read_evaluations(decoded(request.body), several=self._several)
        except (Unreadable, ByClient) as error:
            return _echo(request, _sentence(400, str(error)))
        every = questions(asked.items, tenant, issuer)
        decided = {who: self._asking.decide(one, _fit) for who, one in every.items()}
        try:
            content = self._rendered(asked, decided)
        except Exception as error:
            decided = {who: self._asking.undecided(error, one.question) for who, one in every.items()}
            content = self._rendered(asked, decided)
        for who, one in every.items():
            verdict = decided[who].verdict
            self._asking.record(one, decided[who], None if one.kind else verdict.max_token_lifetime_s)
        return _echo(request, json_answer(200, content))

    def too_large(self, request: HookRequest, most: int) -> HookAnswer:
        """The answer to a body of more than *most* bytes."""
        return _echo(request, _sentence(413, f"the body may have {most} bytes"))

    def _whose(self, caller: Caller) -> tuple[str, str]:
        """Tenant and issuer of the agents that a caller asks about. Raises TenantNotAllowed, SourceNotAllowed."""
        settings, binding = self._asking.settings, caller.binding
        tenant = caller.require_tenant(settings.tenant)
        issuer = settings.issuer or binding.default_issuer
        if issuer is None:
            reason = "this caller is not bound to exactly one issuer; set `issuer` of the hook in the settings"
            raise SourceNotAllowed(reason, "$.subject")
        binding.check(tenant, issuer, None)
        return tenant, issuer

    def _rendered(self, asked: Evaluations, decided: dict[Who, Decided]) -> dict[str, Any]:
        answers = []
        shaped: set[Who] = set()
        for item in asked.items:
            answers.append(self._one(item, decided.get(item.who), shaped))
            permit = answers[-1]["decision"]
            if (asked.semantic == FIRST_DENY and not permit) or (asked.semantic == FIRST_PERMIT and permit):
                break
        return {"evaluations": answers} if asked.several else answers[0]

    def _one(self, item: Item, decided: Decided | None, shaped: set[Who]) -> dict[str, Any]:
        """One decision. What shapes the token stands on the first gate alone."""
        if decided is None:
            return {"decision": False, "context": {"error": {"status": 400, "message": item.error}}}
        if reason := _refusal(item, decided.verdict):
            return {"decision": False, "context": {"reason": reason}}
        issuance = {} if not item.grant or item.who in shaped else self._issuance(decided)
        if item.grant:
            shaped.add(item.who)
        return {"decision": True, "context": {"issuance": issuance}} if issuance else {"decision": True}

    def _issuance(self, decided: Decided) -> dict[str, Any]:
        verdict = decided.verdict
        found: dict[str, Any] = {}
        if verdict.max_token_lifetime_s is not None:
            found["token_lifetime"] = verdict.max_token_lifetime_s
        if verdict.scopes is not None:
            found["granted_scope"] = " ".join(verdict.scopes)
        if self._asking.settings.claims and decided.verdict.policy_version:
            found["claims"] = decided.claims()
        return found


class Metadata:
    """Where the decision point is, and what it can do: open to all, since it says nothing else.

    Args:
        url: how others reach the service.
    """

    def __init__(self, url: str) -> None:
        self._answer = json_answer(
            200,
            {
                "policy_decision_point": url,
                "access_evaluation_endpoint": url + EVALUATION,
                "access_evaluations_endpoint": url + EVALUATIONS,
                "capabilities": [ISSUANCE],
            },
        )

    async def admit(self, request: HookRequest, _: Scope) -> HookAnswer:
        """The document."""
        return _echo(request, self._answer)


def _fit(_: Asked, verdict: Verdict) -> Verdict:
    """The standard can say all that a verdict does."""
    return verdict


def _refusal(item: Item, verdict: Verdict) -> str:
    """Code of why an item is denied; "" = it is not."""
    if not verdict.allow:
        return verdict.reason
    if item.grant or verdict.scopes is None or item.action in verdict.scopes:
        return ""
    return STEP_UP if item.action in verdict.held_scopes else SCOPES_REFUSED


def _sentence(status: int, text: str, *headers: tuple[bytes, bytes]) -> HookAnswer:
    return HookAnswer(status, text.encode(), ((b"content-type", b"text/plain; charset=utf-8"), *headers))


def _echo(request: HookRequest, answer: HookAnswer) -> HookAnswer:
    """The answer with the id of its request, where that has one."""
    given = request.header(REQUEST_ID)
    return answer if given is None else answer._replace(headers=(*answer.headers, (REQUEST_ID, given)))
