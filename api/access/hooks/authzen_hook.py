"""AuthZEN: one evaluation, or many with defaults (OpenID AuthZEN Authorization API 1.0).

Callers authenticate with an access token that has the scope `trust.decide`; their binding specifies whose agents they
may ask about. A denial has status 200. Invalid requests get 400 with a message, as the standard requires.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from starlette.types import Scope

from trustwatch.ingest.errors import SourceNotAllowed, TrustwatchError
from trustwatch.scoring.policy.access_evaluation import OUTSIDE_BOUNDARY, SCOPES_REFUSED, STEP_UP, Verdict
from trustwatch.scoring.records.containment import Intervention

from ...http.auth.callers import SCOPE_DECIDE, AuthenticatedCaller
from ...http.ledger import Ledger, Overloaded, Party
from ...http.problems import problem_of
from ...http.refused_callers import AGENT_NOT_ALLOWED, RefusedCallers
from ..approval_workflow import Outcome
from ..call_evaluation import CALL_DECISIONS, CallEvaluation, CallEvaluator, CallQuestion
from ..decision_point import AccessDecision, ClientInducedFailure, refusal_members, strictest_decision
from .authzen_requests import (
    DENY_ON_FIRST_DENY,
    INVALID_ITEM,
    ITEMS_PER_SLICE,
    PERMIT_ON_FIRST_PERMIT,
    EvaluationAsker,
    EvaluationBatch,
    EvaluationItem,
    EvaluationRequester,
    JudgedAgent,
    RequesterQuestions,
    Slices,
    group_by_requester,
    read_in_slices,
    read_single,
)
from .hook_adapter import (
    HookDecider,
    HookRequest,
    HookResponder,
    HookResponse,
    ParsedHookRequest,
    UnreadableHookRequest,
    decode_json_object,
    is_json,
    json_hook_response,
)

FEW_BYTES = 16 * 1024
"""Bytes of a body that are decoded at once."""

NO_AGENT = (
    "the request names no agent: a subject of this type is a person, and the context has none of `agent`, `client_id` "
    "and `act`; it is answered as for an unknown agent"
)
NOT_AUTHORIZED = (
    "the request names an agent that this caller is not authorized for: `agents` and `issuers` of its entry in the "
    "settings must cover `context.agent`, `context.client_id` and each actor of `context.act`"
)

EVALUATION_PATH, EVALUATIONS_PATH = "/access/v1/evaluation", "/access/v1/evaluations"
METADATA_PATH = "/.well-known/authzen-configuration"
ISSUANCE_CAPABILITY = "urn:ietf:params:authzen:token-issuance"


class RequesterDecision(NamedTuple):
    """The decision for a requester: the strictest of those for its *agents*. `decided_by` is the agent that it is
    about.
    """

    decided: AccessDecision
    decided_by: JudgedAgent
    agents: Sequence[JudgedAgent]
    several: bool
    names_no_agent: bool

    def context(self) -> dict[str, Any]:
        """Return the context members that name the deciding agent, if the request does not make it clear."""
        if self.names_no_agent:
            return {"agent": None, "detail": NO_AGENT}
        return {"agent": self.decided_by.agent_id} if self.several else {}


@dataclass(eq=False, repr=False)
class AuthZenEndpoint:
    _decider: HookDecider
    _identify: Callable[[Scope], Awaitable[AuthenticatedCaller]]
    _calls: CallEvaluator
    _refused_callers: RefusedCallers
    _ledger: Ledger
    _is_batch: bool

    async def admit(self, _: HookRequest, scope: Scope) -> HookResponder | HookResponse:
        """Return the function that answers the request once its body is read, or a refusal that needs no body."""
        try:
            caller = await self._identify(scope)
            caller.require(SCOPE_DECIDE)
            settings, binding = self._decider.settings, caller.binding
            tenant = caller.require_tenant(settings.tenant)
            issuer = settings.issuer or binding.default_issuer
            if issuer is None:
                reason = "this caller is not bound to exactly one issuer; set `issuer` of the hook in the settings"
                raise SourceNotAllowed(reason, "$.subject")
            binding.check_claims(tenant, issuer, None)
        except TrustwatchError as error:
            problem = problem_of(error)
            self._refused_callers.tell_of(scope, problem.code, problem.detail)
            headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in problem.headers.items()]
            return _text_response(problem.status, problem.detail, *headers)
        return partial(self.answer, EvaluationAsker(caller, tenant, issuer))

    async def answer(self, asker: EvaluationAsker, request: HookRequest) -> HookResponse:
        """Return the answer to a whole request. Long requests are answered in slices, one at a time for each tenant."""
        if not is_json(request):
            return _text_response(400, "the body must be JSON, sent with `Content-Type: application/json`")
        is_short = len(request.body) <= FEW_BYTES
        if is_short:
            slices = self._answer_in_slices(await self._spend_needed(asker, request), request)
            if (answer := next(slices)) is not None:
                return answer
        try:
            async with self._ledger.bulk(Party(asker.tenant, asker.caller.binding.name), len(request.body)):
                if not is_short:
                    slices = self._answer_in_slices(await self._spend_needed(asker, request), request)
                while (answer := next(slices)) is None:
                    await asyncio.sleep(0)
        except Overloaded as error:
            return _text_response(429, str(error), (b"retry-after", b"%d" % error.retry_after_s))
        return answer

    async def _spend_needed(self, asker: EvaluationAsker, request: HookRequest) -> EvaluationAsker:
        """Return *asker* with the single-use approvals that its request needs, and spend them.

        The endpoint for many spends none: one request would be several permits.
        """
        if self._is_batch or not self._decider.point.any_for_one_use:
            return asker
        try:
            item = read_single(decode_json_object(request.body))
        except (UnreadableHookRequest, ClientInducedFailure):
            return asker  # the answer states the reason
        if asker.is_refused(item.requester):
            return asker
        asked = group_by_requester([item], asker, partial(self._is_known, asker))[item.requester]

        def preview(spent: tuple[Intervention, ...]) -> Outcome:
            outcomes = [self._decider.preview(parsed, _unconstrained, spent) for parsed in asked.parsed]
            if item.call is not None and all(outcome.permitted for outcome in outcomes):
                spending, call = asker._replace(spent=spent), item.call
                requests = (spending.access_request(item.requester, agent, (call.action,)) for agent in asked.agents)
                outcomes += [self._calls.preview(access, call) for access in requests]
            return Outcome(all(outcome.permitted for outcome in outcomes))

        identities = dict.fromkeys(parsed.access_request.identity for parsed in asked.parsed)
        return asker._replace(spent=await self._decider.point.spend_needed(identities, preview))

    def _answer_in_slices(self, asker: EvaluationAsker, request: HookRequest) -> Iterator[HookResponse | None]:
        """Yield None after each slice, and the answer after the last."""
        try:
            batch = yield from read_in_slices(decode_json_object(request.body), several=self._is_batch)
        except (UnreadableHookRequest, ClientInducedFailure) as error:
            yield _text_response(400, str(error))
            return
        for at, item in enumerate(batch.items):
            if not item.error and asker.is_refused(item.requester):
                named = {"tenant": asker.tenant, "agent_id": item.requester.acting.agent_id}
                self._refused_callers.tell(asker.caller, AGENT_NOT_ALLOWED, **named)
                batch.items[at] = INVALID_ITEM._replace(error=NOT_AUTHORIZED, status=403)
        if not batch.is_batch and batch.items[0].error:
            yield _text_response(batch.items[0].status, batch.items[0].error)
            return
        questions = group_by_requester(batch.items, asker, partial(self._is_known, asker))
        decided = {requester: self._decide(requester, asked) for requester, asked in questions.items()}
        try:
            content = yield from self._render(batch, decided, asker)
        except Exception as error:
            for requester, asked in questions.items():
                decision = self._decider.undecided_decision(error, asked.parsed[0].access_request)
                decided[requester] = RequesterDecision(decision, requester.acting, asked.agents, False, False)
            content = yield from self._render(batch, decided, asker)
        for requester, asked in questions.items():
            if requester.agents:
                self._record(asker, asked, decided[requester].decided)
        yield json_hook_response(200, content)

    def _is_known(self, asker: EvaluationAsker, agent_id: str) -> bool:
        return self._decider.knows(asker.tenant, asker.issuer, agent_id)

    def _decide(self, requester: EvaluationRequester, asked: RequesterQuestions) -> RequesterDecision:
        decision, at = strictest_decision([self._decider.decide(parsed, _unconstrained) for parsed in asked.parsed])
        return RequesterDecision(decision, asked.agents[at], asked.agents, len(asked.agents) > 1, not requester.agents)

    def _record(self, asker: EvaluationAsker, asked: RequesterQuestions, decided: AccessDecision) -> None:
        """Build the audit event of a request, trusted no more than the caller's own events about that agent."""
        parsed, agent = asked.parsed[0], asked.agents[0]
        if not asker.speaks_for(agent):
            if not decided.verdict.allow or decided.verdict.held_scopes:
                members = refusal_members(parsed.access_request, decided)
                self._refused_callers.tell(asker.caller, AGENT_NOT_ALLOWED, **members)
            return
        if not asker.caller.binding.vouches:
            asserted = {"id": agent.agent_id, "issuer": parsed.access_request.issuer or None, "self_asserted": True}
            parsed = parsed._replace(event_extras={**parsed.event_extras, "agent": asserted})
        lifetime_s = None if parsed.own_event_type else decided.verdict.max_token_lifetime_s
        self._decider.record(parsed, decided, lifetime_s)

    def too_large(self, most: int) -> HookResponse:
        """Return the answer to a body of more than *most* bytes."""
        return _text_response(413, f"the body may have {most} bytes")

    def _render(
        self, batch: EvaluationBatch, decided: dict[EvaluationRequester, RequesterDecision], asker: EvaluationAsker
    ) -> Slices[dict[str, Any]]:
        answers: list[dict[str, Any]] = []
        shaped: set[EvaluationRequester] = set()
        for item in batch.items:
            if len(answers) % ITEMS_PER_SLICE == ITEMS_PER_SLICE - 1:
                yield
            found = decided.get(item.requester)
            answers.append(self._render_item(item, found, shaped))
            if item.call is not None and found is not None and answers[-1]["decision"]:
                answers[-1] = self._judge_call(item.call, item.requester, found.agents, asker)
            permit = answers[-1]["decision"]
            if (batch.semantic == DENY_ON_FIRST_DENY and not permit) or (
                batch.semantic == PERMIT_ON_FIRST_PERMIT and permit
            ):
                break
        return {"evaluations": answers} if batch.is_batch else answers[0]

    def _judge_call(
        self, call: CallQuestion, requester: EvaluationRequester, agents: Sequence[JudgedAgent], asker: EvaluationAsker
    ) -> dict[str, Any]:
        """Return the decision on a call that the level allows; in shadow mode it states what would have been denied."""
        evaluations = [
            self._calls.evaluate(asker.access_request(requester, agent, (call.action,)), call, self._decider.channel)
            for agent in agents
        ]
        at = min(range(len(agents)), key=lambda one: CALL_DECISIONS.index(evaluations[one].decision))
        evaluation, agent = evaluations[at], agents[at]
        if not evaluation.allow and not asker.speaks_for(agent):
            members = {"tenant": asker.tenant, "issuer": asker.issuer, "agent_id": agent.agent_id}
            self._refused_callers.tell(asker.caller, AGENT_NOT_ALLOWED, reason=evaluation.reason, **members)
        rendered = _rendered_call(evaluation)
        if not requester.agents:
            rendered["context"] |= {"agent": None, "detail": NO_AGENT}
        elif len(agents) > 1:
            rendered["context"]["agent"] = agent.agent_id
        return rendered

    def _render_item(
        self, item: EvaluationItem, found: RequesterDecision | None, shaped: set[EvaluationRequester]
    ) -> dict[str, Any]:
        """Return one decision. Only the first gate of a requester has the members that shape the token."""
        if found is None:
            return {"decision": False, "context": {"error": {"status": item.status, "message": item.error}}}
        context = found.context()
        if reason := _denial_reason(item, found.decided.verdict):
            return {"decision": False, "context": {"reason": reason, **context}}
        if item.grant and item.requester not in shaped:
            shaped.add(item.requester)
            verdict, has_claims = found.decided.verdict, self._decider.settings.claims
            issuance = {
                "token_lifetime": verdict.max_token_lifetime_s,
                "granted_scope": None if verdict.scopes is None else " ".join(verdict.scopes),
                "claims": found.decided.risk_claims() if has_claims and verdict.policy_version else None,
            }
            if known := {name: value for name, value in issuance.items() if value is not None}:
                context["issuance"] = known
        if item.action in found.decided.verdict.outside:
            context["outside_boundary"] = True
        return {"decision": True, "context": context} if context else {"decision": True}


def metadata_response(url: str) -> HookResponse:
    """Return AuthZEN metadata: URLs and capabilities of the decision point. Public, since it contains nothing else."""
    return json_hook_response(
        200,
        {
            "policy_decision_point": url,
            "access_evaluation_endpoint": url + EVALUATION_PATH,
            "access_evaluations_endpoint": url + EVALUATIONS_PATH,
            "capabilities": [ISSUANCE_CAPABILITY],
        },
    )


def _unconstrained(_: ParsedHookRequest, verdict: Verdict) -> Verdict:
    return verdict


def _rendered_call(evaluation: CallEvaluation) -> dict[str, Any]:
    context = {
        "call": evaluation.decision,
        "basis": evaluation.basis,
        "p_value": None if evaluation.score is None else evaluation.score.p_value,
        "reason": None if evaluation.would_allow else evaluation.reason,
        "approval_id": evaluation.approval_id or None,
        "reasons": [reason.text for reason in evaluation.reasons] or None,
        "outside_boundary": evaluation.outside or None,
    }
    return {
        "decision": evaluation.allow,
        "context": {name: value for name, value in context.items() if value is not None},
    }


def _denial_reason(item: EvaluationItem, verdict: Verdict) -> str:
    """Return the code of why an item is denied, or "" if it is not."""
    if not verdict.allow:
        return verdict.reason
    if item.grant or verdict.scopes is None or item.action in verdict.scopes:
        return ""
    if item.action in verdict.outside:
        return OUTSIDE_BOUNDARY
    return STEP_UP if item.action in verdict.held_scopes else SCOPES_REFUSED


def _text_response(status: int, text: str, *headers: tuple[bytes, bytes]) -> HookResponse:
    return HookResponse(status, text.encode(), ((b"content-type", b"text/plain; charset=utf-8"), *headers))
