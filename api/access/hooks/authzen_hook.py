"""AuthZEN: one evaluation, or many with defaults (OpenID AuthZEN Authorization API 1.0).

An item whose action is `issue:<token type>:<grant type>` is the gate of the token issuance profile: whether a token is
issued at all. Every other item asks for its action by name: a scope, in that profile. The items that one agent asks for
at once are one question.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Generator, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

import msgspec
from starlette.types import Scope

from ....ingest.errors import SourceNotAllowed, TrustwatchError
from ....scoring.policy.access_evaluation import SCOPES_REFUSED, STEP_UP, AccessRequest, Verdict
from ...http.auth.callers import SCOPE_DECIDE, AuthenticatedCaller, SourceBinding
from ...http.bulk_turns import BulkTurns, TooMuchBulkWork
from ...http.problems import problem_of
from ...http.refused_callers import AGENT_NOT_ALLOWED, RefusedCallers
from ..call_evaluation import CallEvaluation, CallEvaluator, CallQuestion
from ..decision_point import (
    MAX_SCOPES,
    AccessDecision,
    ClientInducedFailure,
    RequestLimitExceeded,
    check_name_length,
    earlier_actors,
    refusal_members,
    text_or_empty,
)
from .hook_adapter import (
    REFRESH_GRANT,
    HookRequest,
    HookResponder,
    HookResponse,
    ParsedHookRequest,
    UnreadableHookRequest,
    decode_json_object,
    json_hook_response,
    member_at,
    principal_member,
    without_empty_members,
)
from .hook_decider import HookDecider

ISSUANCE_ACTION = re.compile(r"issue:([^:]+):(.+)")

EXECUTE_ALL, DENY_ON_FIRST_DENY, PERMIT_ON_FIRST_PERMIT = "execute_all", "deny_on_first_deny", "permit_on_first_permit"
EVALUATION_SEMANTICS = (EXECUTE_ALL, DENY_ON_FIRST_DENY, PERMIT_ON_FIRST_PERMIT)

MAX_CALLS = 50
"""Items of a batch that tell arguments: each is judged by the model, while nobody else is answered."""

MAX_REQUESTERS = 50
"""Questions that a batch may ask: each agent, with its principal and ancestors, is one, and one audit event."""

ITEMS_PER_SLICE = 50
"""Items of a batch that are read, or answered, before others are answered."""

FEW_BYTES = 16 * 1024
"""Bytes of a body that are decoded at once."""

_REQUIRED_MEMBERS = {"subject": ("type", "id"), "action": ("name",), "resource": ("type", "id")}


T = TypeVar("T")
Slices = Generator[None, None, T]
"""Work that lets others go first after each slice."""


def finish(slices: Slices[T]) -> T:
    """The result of work that is done at once."""
    while True:
        try:
            next(slices)
        except StopIteration as end:
            return cast("T", end.value)


class EvaluationRequester(NamedTuple):
    """Agent, principal and ancestors that an item of a batch asks about: items that agree in them are one question."""

    agent: str
    principal: str
    ancestors: tuple[str, ...]


class EvaluationAsker(NamedTuple):
    """A caller that asks, and the tenant and issuer of the agents that it asks about."""

    caller: AuthenticatedCaller
    tenant: str
    issuer: str

    @property
    def binding(self) -> SourceBinding:
        """Claims that its events may make."""
        return self.caller.binding

    def speaks_for(self, agent: str) -> bool:
        """True if its events of that agent would be taken."""
        return self.binding.may_speak_for(self.tenant, self.issuer, agent)

    def access_request(
        self, requester: EvaluationRequester, scopes: tuple[str, ...], *, refresh: bool = False
    ) -> AccessRequest:
        """A question about an agent. Who may not speak for it has no person asked in its name."""
        return AccessRequest(
            self.tenant,
            self.issuer,
            requester.agent,
            scopes,
            refresh,
            requester.ancestors,
            self.speaks_for(requester.agent),
            self.binding.name,
        )


class EvaluationItem(NamedTuple):
    """One evaluation. `grant` is the grant type of a gate, "" for every other; `error` says what is wrong with it;
    `call` is what is asked about where the context tells the arguments of a call."""

    requester: EvaluationRequester
    action: str
    grant: str
    resource: tuple[str, str]
    error: str = ""
    call: CallQuestion | None = None


class EvaluationBatch(NamedTuple):
    """A whole request. `several` says whether an array is to be answered."""

    items: list[EvaluationItem]
    semantic: str
    is_batch: bool


_INVALID_ITEM = EvaluationItem(EvaluationRequester("", "", ()), "", "", ("", ""))


def read_evaluations(data: dict[str, Any], *, several: bool) -> EvaluationBatch:
    """As `read_in_slices`, at once."""
    return finish(read_in_slices(data, several=several))


def read_in_slices(data: dict[str, Any], *, several: bool) -> Slices[EvaluationBatch]:
    """The evaluations of a request.

    Args:
        data: the request.
        several: whether it came to the endpoint for many; without any it is one all the same.

    Raises:
        Unreadable: it is none as a whole.
        RequestLimitExceeded: more than MAX_SCOPES of them, MAX_CALLS that tell arguments, or MAX_REQUESTERS.
    """
    given = data.get("evaluations") if several else None
    if given is not None and type(given) is not list:
        raise UnreadableHookRequest("evaluations must be an array")
    if not given:
        item = _read_item(data, {})
        if item.error:
            raise UnreadableHookRequest(item.error)
        return EvaluationBatch([item], EXECUTE_ALL, False)
    if len(given) > MAX_SCOPES:
        raise RequestLimitExceeded(f"evaluations may have {MAX_SCOPES} items")
    semantic = member_at(data, "options", "evaluations_semantic") or EXECUTE_ALL
    if semantic not in EVALUATION_SEMANTICS:
        raise UnreadableHookRequest(f"options.evaluations_semantic must be one of {', '.join(EVALUATION_SEMANTICS)}")
    if sum(_tells_arguments(evaluation, data) for evaluation in given) > MAX_CALLS:
        raise RequestLimitExceeded(f"{MAX_CALLS} evaluations may tell arguments; ask about further calls by themselves")
    items = []
    for evaluation in given:
        items.append(_read_item(evaluation, data))
        if not len(items) % ITEMS_PER_SLICE:
            yield
    if len({item.requester for item in items if not item.error}) > MAX_REQUESTERS:
        raise RequestLimitExceeded(f"evaluations may name {MAX_REQUESTERS} agents; ask about others by themselves")
    return EvaluationBatch(items, semantic, True)


def _tells_arguments(given: Any, defaults: dict[str, Any]) -> bool:
    """True if an item, or what stands for all, has arguments of a call."""
    context = given.get("context", defaults.get("context")) if type(given) is dict else None
    return member_at(context, "arguments") is not None


def _read_item(given: Any, defaults: dict[str, Any]) -> EvaluationItem:
    """One item; a member that it does not have is that of the request."""
    if type(given) is not dict:
        return _INVALID_ITEM._replace(error="an evaluation must be an object")
    whole: dict[str, Any] = {name: given.get(name, defaults.get(name)) for name in (*_REQUIRED_MEMBERS, "context")}
    for part, members in _REQUIRED_MEMBERS.items():
        for member in members:
            if not text_or_empty(member_at(whole[part], member)):
                return _INVALID_ITEM._replace(error=f"{part}.{member} is required and must be a text")
    context = whole["context"]
    if context is not None and type(context) is not dict:
        return _INVALID_ITEM._replace(error="context must be an object")
    subject, action = whole["subject"], check_name_length(whole["action"]["name"])
    client = text_or_empty(member_at(context, "client_id"))
    agent = check_name_length(client if client and subject["type"] == "user" else subject["id"])
    act = member_at(context, "act") or member_at(subject, "properties", "act")
    who = EvaluationRequester(
        agent, "" if agent == subject["id"] else check_name_length(subject["id"]), earlier_actors(act, agent)
    )
    gate = ISSUANCE_ACTION.fullmatch(action)
    resource = check_name_length(whole["resource"]["type"]), check_name_length(whole["resource"]["id"])
    if gate or member_at(context, "arguments") is None:
        return EvaluationItem(who, action, gate.group(2) if gate else "", resource)
    try:
        call = _read_call(whole)
    except msgspec.ValidationError as error:
        return _INVALID_ITEM._replace(error=f"no call can be read: {error}")
    return EvaluationItem(who, action, "", resource, call=call)


def _read_call(whole: dict[str, Any]) -> CallQuestion:
    """The call of an item whose context tells arguments, in the shape of an event's. Raises msgspec.ValidationError."""
    subject, action, resource, context = (whole[name] for name in ("subject", "action", "resource", "context"))
    properties = member_at(resource, "properties")
    call_members = {
        "action": action["name"],
        "effect": member_at(action, "properties", "effect"),
        "resource": {
            **(properties if type(properties) is dict else {}),
            "type": resource["type"],
            "id": resource["id"],
        },
        "principal": {"id": subject["id"]} if subject["type"] == "user" else None,
        **{name: context.get(name) for name in ("arguments", "arguments_hash", "task", "peer")},
    }
    return msgspec.convert(call_members, CallQuestion)


def group_by_requester(
    items: list[EvaluationItem], asker: EvaluationAsker
) -> dict[EvaluationRequester, ParsedHookRequest]:
    """One question for all that somebody asks for at once."""
    by_requester: dict[EvaluationRequester, list[EvaluationItem]] = {}
    for item in items:
        if not item.error:
            by_requester.setdefault(item.requester, []).append(item)
    return {requester: _parsed_request_of(requester, requested, asker) for requester, requested in by_requester.items()}


def _parsed_request_of(
    requester: EvaluationRequester, items: list[EvaluationItem], asker: EvaluationAsker
) -> ParsedHookRequest:
    gates = [item for item in items if item.grant]
    scopes = tuple(dict.fromkeys(item.action for item in items if not item.grant))
    refresh = any(gate.grant == REFRESH_GRANT for gate in gates)
    question = asker.access_request(requester, scopes, refresh=refresh)
    kind, name = items[0].resource
    if gates:
        more = without_empty_members(
            principal=principal_member(requester.principal, requester.agent), resource={"audience": name}
        )
        return ParsedHookRequest(question, gates[0].grant, None, more)
    more = without_empty_members(
        principal=principal_member(requester.principal, requester.agent),
        resource={"type": kind, "id": name},
        count=len(items) if len(items) > 1 else None,
    )
    # Names of actions are judged as scopes are, and are none: events hold scopes of tokens alone.
    return ParsedHookRequest(question, items[0].action, None, {**more, "scopes": None}, own_event_type="api.call")


# Callers prove themselves by an access token with the scope `trust.decide`; their binding says whose agents they ask
# about. A denial is an answer of status 200. Requests that are none get 400 with a sentence, as the standard has it.

EVALUATION_PATH, EVALUATIONS_PATH = "/access/v1/evaluation", "/access/v1/evaluations"
METADATA_PATH = "/.well-known/authzen-configuration"
ISSUANCE_CAPABILITY = "urn:ietf:params:authzen:token-issuance"

IdentifyHookCaller = Callable[[Scope], Awaitable[AuthenticatedCaller]]


class AuthZenEndpoint:
    """The decision point.

    Args:
        decider: asks the decision point.
        identify: the caller of a request; raises AuthenticationFailed.
        calls: judges calls whose arguments are told.
        refused_callers: told of those that reach beyond their entry of the settings.
        turns: of long requests.
        several: whether this is the endpoint for many evaluations.
    """

    def __init__(
        self,
        decider: HookDecider,
        identify: IdentifyHookCaller,
        calls: CallEvaluator,
        refused_callers: RefusedCallers,
        turns: BulkTurns,
        *,
        several: bool,
    ) -> None:
        self._decider = decider
        self._identify = identify
        self._calls = calls
        self._refused_callers = refused_callers
        self._is_batch = several
        self._turns = turns

    async def admit(self, _: HookRequest, scope: Scope) -> HookResponder | HookResponse:
        """Return the function that answers the request once its body is read, or a refusal that needs no body."""
        try:
            caller = await self._identify(scope)
            caller.require(SCOPE_DECIDE)
            asker = EvaluationAsker(caller, *self._tenant_and_issuer(caller))
        except TrustwatchError as error:
            problem = problem_of(error)
            self._refused_callers.tell_of(scope, problem.code, problem.detail)
            headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in problem.headers.items()]
            return _text_response(problem.status, problem.detail, *headers)
        return partial(self.answer, asker)

    async def answer(self, asker: EvaluationAsker, request: HookRequest) -> HookResponse:
        """The answer to a whole request; a long one in slices, one request of a tenant at a time."""
        slices = self._answer_in_slices(asker, request)
        answer = next(slices) if len(request.body) <= FEW_BYTES else None
        if answer is not None:
            return answer
        try:
            async with self._turns.turn(asker.tenant, len(request.body)):
                while (answer := next(slices)) is None:
                    await asyncio.sleep(0)
        except TooMuchBulkWork as error:
            return _text_response(429, str(error), (b"retry-after", b"%d" % error.retry_after_s))
        return answer

    def _answer_in_slices(self, asker: EvaluationAsker, request: HookRequest) -> Iterator[HookResponse | None]:
        """None after each slice, the answer after the last."""
        try:
            batch = yield from read_in_slices(decode_json_object(request.body), several=self._is_batch)
        except (UnreadableHookRequest, ClientInducedFailure) as error:
            yield _text_response(400, str(error))
            return
        questions = group_by_requester(batch.items, asker)
        decided = {requester: self._decider.decide(parsed, _unconstrained) for requester, parsed in questions.items()}
        try:
            content = yield from self._render(batch, decided, asker)
        except Exception as error:
            decided = {
                requester: self._decider.undecided_decision(error, parsed.access_request)
                for requester, parsed in questions.items()
            }
            content = yield from self._render(batch, decided, asker)
        for requester, parsed in questions.items():
            self._record(asker, parsed, decided[requester])
        yield json_hook_response(200, content)

    def _record(self, asker: EvaluationAsker, parsed: ParsedHookRequest, decided: AccessDecision) -> None:
        """Make an audit event of a question, as far as the caller's own events about that agent would be believed."""
        agent_id = parsed.access_request.agent_id
        if not asker.speaks_for(agent_id):
            if not decided.verdict.allow or decided.verdict.held_scopes:
                members = refusal_members(parsed.access_request, decided)
                self._refused_callers.tell(asker.caller, AGENT_NOT_ALLOWED, **members)
            return
        if not asker.binding.vouches:
            agent = {"id": agent_id, "issuer": asker.issuer or None, "self_asserted": True}
            parsed = parsed._replace(event_extras={**parsed.event_extras, "agent": agent})
        lifetime_s = None if parsed.own_event_type else decided.verdict.max_token_lifetime_s
        self._decider.record(parsed, decided, lifetime_s)

    def too_large(self, most: int) -> HookResponse:
        """The answer to a body of more than *most* bytes."""
        return _text_response(413, f"the body may have {most} bytes")

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

    def _render(
        self, batch: EvaluationBatch, decided: dict[EvaluationRequester, AccessDecision], asker: EvaluationAsker
    ) -> Slices[dict[str, Any]]:
        answers: list[dict[str, Any]] = []
        shaped: set[EvaluationRequester] = set()
        for item in batch.items:
            if len(answers) % ITEMS_PER_SLICE == ITEMS_PER_SLICE - 1:
                yield
            answers.append(self._render_item(item, decided.get(item.requester), shaped))
            if item.call is not None and answers[-1]["decision"]:
                answers[-1] = self._judge_call(item.call, item.requester, asker)
            permit = answers[-1]["decision"]
            if (batch.semantic == DENY_ON_FIRST_DENY and not permit) or (
                batch.semantic == PERMIT_ON_FIRST_PERMIT and permit
            ):
                break
        return {"evaluations": answers} if batch.is_batch else answers[0]

    def _judge_call(self, call: CallQuestion, requester: EvaluationRequester, asker: EvaluationAsker) -> dict[str, Any]:
        """One decision on a call that the level lets pass; in shadow mode with what would have been denied."""
        access = asker.access_request(requester, (call.action,))
        evaluation = self._calls.evaluate(access, call, self._decider.channel)
        if not evaluation.allow and not asker.speaks_for(requester.agent):
            members = {"tenant": asker.tenant, "issuer": asker.issuer, "agent_id": requester.agent}
            self._refused_callers.tell(asker.caller, AGENT_NOT_ALLOWED, reason=evaluation.reason, **members)
        return _rendered_call(evaluation)

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
        context: dict[str, Any] = {}
        if verdict.max_token_lifetime_s is not None:
            context["token_lifetime"] = verdict.max_token_lifetime_s
        if verdict.scopes is not None:
            context["granted_scope"] = " ".join(verdict.scopes)
        if self._decider.settings.claims and decided.verdict.policy_version:
            context["claims"] = decided.risk_claims()
        return context


class AuthZenMetadataEndpoint:
    """AuthZEN metadata: URLs and capabilities of the decision point. Open to all, since it says nothing else.

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

    async def admit(self, _request: HookRequest, _scope: Scope) -> HookResponse:
        """The document."""
        return self._document


def _unconstrained(_: ParsedHookRequest, verdict: Verdict) -> Verdict:
    """The standard can say all that a verdict does."""
    return verdict


def _rendered_call(evaluation: CallEvaluation) -> dict[str, Any]:
    context = {
        "call": evaluation.decision,
        "basis": evaluation.basis,
        "p_value": None if evaluation.score is None else evaluation.score.p_value,
        "reason": None if evaluation.would_allow else evaluation.reason,
        "approval_id": evaluation.approval_id or None,
        "reasons": [reason.text for reason in evaluation.reasons] or None,
    }
    return {
        "decision": evaluation.allow,
        "context": {name: value for name, value in context.items() if value is not None},
    }


def _denial_reason(item: EvaluationItem, verdict: Verdict) -> str:
    """Code of why an item is denied; "" = it is not."""
    if not verdict.allow:
        return verdict.reason
    if item.grant or verdict.scopes is None or item.action in verdict.scopes:
        return ""
    return STEP_UP if item.action in verdict.held_scopes else SCOPES_REFUSED


def _text_response(status: int, text: str, *headers: tuple[bytes, bytes]) -> HookResponse:
    return HookResponse(status, text.encode(), ((b"content-type", b"text/plain; charset=utf-8"), *headers))
