"""Verdicts on calls before they are made (allow, step up, deny), from memory. Nothing is learned from requests.

`FastCallRoute` answers in front of FastAPI, which declares the route too, so that OpenAPI has it.

The level decides first, as for tokens. If it allows the call, the model decides whether the call is anomalous enough
to need a person. An approval holds for this exact call: its action, resource and the hashes of its arguments. If a new
access path is the only reason, the person may trust it too; otherwise every call by it would wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal, NamedTuple

import msgspec
import structlog
from starlette.types import Receive, Scope

from trustwatch.ingest.access_path import AccessPath
from trustwatch.ingest.compilation import KernelGate, KernelPart
from trustwatch.ingest.described import member
from trustwatch.ingest.errors import TrustwatchError
from trustwatch.ingest.events import NativeEvent
from trustwatch.ingest.identities import CALL_DIGEST_DIGITS
from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.models.model_persistence import ModelRegistry
from trustwatch.scoring.engine.announced_paths import NO_PATHS
from trustwatch.scoring.engine.call_scorer import CallScore, CallScorer
from trustwatch.scoring.engine.settings import ChallengeBudget, accepted_challenges
from trustwatch.scoring.policy.access_evaluation import (
    ALLOWED,
    OUTSIDE_BOUNDARY,
    STEP_UP,
    UNUSUAL_CALL,
    AccessRequest,
    DecisionContext,
    Verdict,
)
from trustwatch.scoring.records.agents import AgentName, RiskLevel
from trustwatch.scoring.records.containment import Intervention
from trustwatch.scoring.records.decisions import RiskReason
from trustwatch_client.events import Agent, Call, CallDetails, EventHash, EventText, Principal, Resource
from trustwatch_client.risk_answers import CallThreshold, CallVerdict

from ..http.agent_lookup import find_agent_entry, parse_agent_selection
from ..http.auth.callers import AuthenticatedCaller
from ..http.fast_path import JSON_HEADER, FastAgentRoute, RequestBodyTooLong, read_request_body
from ..http.problems import ProblemDetails, ProblemError, error_members
from ..http.runtime import Runtime
from ..http.slice import ServiceRegistry
from .approval_workflow import (
    CALL_SCOPE_PREFIX,
    MAX_PENDING_PER_AGENT,
    PATH_SCOPE_PREFIX,
    ApprovalWorkflow,
    Outcome,
    spend_needed,
)
from .decision_point import MAX_ACTORS

REFRESH_EVERY_S = 2.0

_FIRST_CALL = NativeEvent(
    time=datetime(2000, 1, 1, tzinfo=UTC), agent=Agent("-"), type="tool.call", action="-", outcome="success"
)

_log = structlog.get_logger(__name__)


@dataclass(eq=False, repr=False)
class LiveCallScorer:
    """Holds the scorer of the active model. While it is unavailable, only the level decides.

    Attributes:
        scorer: None if it is unavailable.
        missing_because: why it is unavailable.
    """

    _registry: ModelRegistry
    _budget: ChallengeBudget
    _domains: Mapping[str, Sequence[str]] | None = None
    _: KW_ONLY
    compiled_elsewhere: bool = False

    def __post_init__(self) -> None:
        self._tried = ""
        self._gate = KernelGate(KernelPart.SCORING, compiled_elsewhere=self.compiled_elsewhere)
        self.scorer: CallScorer | None = None
        self.missing_because = "the model is not loaded yet"

    def use_version(self, version: str) -> None:
        """Load a version unless it is already loaded. Blocks while the model is read and verified."""
        if version == self._tried and self.scorer is not None:
            return
        if not self._gate.is_open():
            self.missing_because = "its kernels are being compiled"
            return
        try:
            scorer = CallScorer(self._registry.load(version), self._budget, self._domains)
            scorer.score(_FIRST_CALL)  # so that no caller waits for what is compiled on first use
        except (TrustwatchError, OSError) as error:
            self.scorer, self.missing_because = None, str(error)
            if version != self._tried:
                _log.warning("calls are judged by the level alone", model=version, why=str(error))
        else:
            self.scorer, self.missing_because = scorer, ""
            thresholds = {
                effect: "none" if threshold is None else f"{threshold.anomaly_score:.3f} of {threshold.effect}"
                for effect, threshold in scorer.thresholds.items()
            }
            _log.info(
                "calls are judged by a model",
                model=version,
                thresholds=thresholds,
                tenants_with_own=scorer.tenants_with_own,
            )
        self._tried = version

    async def follow(self, version: Callable[[], str], stop: asyncio.Event) -> None:
        """Use the version that *version* returns, until *stop*. Picks up a restored model."""
        while not stop.is_set():
            await asyncio.to_thread(self.use_version, version())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), REFRESH_EVERY_S if self.scorer else 5 * REFRESH_EVERY_S)


VIA_API = "calls"
"""The value of `way` for requests at the API in metrics and approvals."""

FAILED = "the model could not be used because of an internal error"

CallType = Literal["api.call", "tool.call", "a2a.message"]
CallDecision = Literal["allow", "step_up", "deny"]
CALL_DECISIONS: tuple[CallDecision, ...] = ("deny", "step_up", "allow")
"""Decisions, strictest first."""


class CallQuestion(Call, kw_only=True, omit_defaults=False):
    """A call that an agent is about to make: the members of an event that are known before the call.

    Attributes:
        arguments_hash: keyed hash of all arguments to the letter; those of `arguments` are of normal forms, and short
            values are not among them.
    """

    agent_type: Annotated[EventText | None, member("type of an agent that was never seen", "PaymentProcessor")] = None
    arguments_hash: Annotated[
        EventHash | None,
        member("keyed hash of all arguments; an approval holds for these", "3bfecd2242bc"),
    ] = None

    def __post_init__(self) -> None:
        if any(argument.hash is None for argument in self.arguments or ()):
            raise ValueError("each of `arguments` needs its `hash` in a question: an approval is bound to it")

    def bound_members(self) -> bytes:
        """Return the members that an approval is bound to, as JSON."""
        resource, principal = self.resource or Resource(), self.principal or Principal()
        arguments = None
        if self.arguments is not None:
            arguments = sorted((argument.name, str(argument.hash)) for argument in self.arguments)
        bound = (
            self.type,
            self.action,
            self.effect,
            self.task,
            self.peer,
            (principal.id, principal.type),
            (resource.type, resource.id, resource.target, resource.audience),
            arguments,
            self.arguments_hash,
        )
        return msgspec.json.encode(bound)


_decode_question = msgspec.json.Decoder(CallQuestion).decode
_encode = msgspec.json.Encoder().encode


class CallEvaluation(NamedTuple):
    """The answer about one call.

    Attributes:
        decision: the policy's decision, regardless of the mode.
        reason: code, see `VERDICT_REASONS`.
        by_level: verdict of the level.
        score: the model's score; None if the level decided, or the model is unavailable.
        detail: why only the level decided, if the model should have.
        call: keyed digest of the call.
        outside: whether no capability that the agent declares covers the action.
        approval_id: the pending approval, if any.
    """

    decision: CallDecision
    reason: str
    by_level: Verdict
    score: CallScore | None
    detail: str
    call: str
    outside: bool
    approval_id: str = ""

    @property
    def would_allow(self) -> bool:
        """Whether the policy allows the call, regardless of the mode."""
        return self.decision == "allow"

    @property
    def allow(self) -> bool:
        """Whether the agent may make the call; always true in shadow mode."""
        return self.would_allow or not self.by_level.enforced

    @property
    def basis(self) -> Literal["model", "level"]:
        return "level" if self.score is None else "model"

    @property
    def reasons(self) -> tuple[RiskReason, ...]:
        """Reasons of the model, the strongest first."""
        return () if self.score is None else self.score.reasons


@dataclass(eq=False, repr=False)
class CallEvaluator:
    """Judges and counts calls, and requests approvals. For one event loop.

    Attributes:
        counts: verdicts by (way, effect, decision, basis).
    """

    _runtime: Runtime
    _approvals: ApprovalWorkflow
    _live_scorer: LiveCallScorer | None

    def __post_init__(self) -> None:
        self.counts: Counter[tuple[str, str, str, str]] = Counter()
        self._policy_evaluator = self._runtime.policy_evaluator
        self._identities = self._runtime.store.identities
        self._now_ms = self._runtime.now_ms

    async def answer(
        self, caller: AuthenticatedCaller, agent_id: str, tenant: str | None, issuer: str | None, body: bytes
    ) -> bytes:
        """Return the answer to a request body, as JSON. Waits for the store only if the agent needs a single-use
        approval.

        Raises TenantNotAllowed, ProblemError.
        """
        call = read_call_question(body)
        entry = find_agent_entry(self._runtime.risk_view, caller, agent_id, tenant, issuer)
        if entry is not None:
            tenant, issuer, agent_id = entry.summary.name.identity
        else:
            tenant = tenant if tenant is not None else caller.binding.default_tenant
            issuer = issuer if issuer is not None else caller.binding.default_issuer
        access = AccessRequest(
            tenant or "",
            issuer or "",
            agent_id,
            ancestors=tuple(name for name in (call.delegation or ())[:MAX_ACTORS] if name and name != agent_id),
            # A caller that may not act for an agent cannot request approvals for it: it would use up the agent's limit.
            approvable=caller.binding.may_speak_for(tenant, issuer, agent_id),
            caller=caller.name,
            # An agent that could name its own scopes would choose its own boundary.
            held=tuple(call.scopes.granted or ()) if call.scopes is not None and caller.binding.source.trusted else (),
        )
        if self._approvals.active_interventions.any_for_one_use:
            access = await self.spend_needed(access, call)
        return _encode(self._wire_answer(access, self.evaluate(access, call, VIA_API)))

    def _wire_answer(self, access: AccessRequest, evaluation: CallEvaluation) -> CallVerdict:
        score, by_level, threshold = evaluation.score, evaluation.by_level, None
        if score is not None and score.threshold is not None:
            per_1000 = accepted_challenges(self._runtime.settings.risk.challenge_budget, score.effect)
            threshold = CallThreshold(score.threshold.anomaly_score, score.threshold.effect, per_1000)
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
            threshold=threshold,
            basis=evaluation.basis,
            basis_detail=evaluation.detail or None,
            approval_id=evaluation.approval_id or None,
            call=evaluation.call,
            stale=by_level.stale,
            evaluated_at=format_rfc3339(self._now_ms()),
            model_version=None if score is None else self._runtime.scoring_version,
            policy_version=by_level.policy_version,
            outside_boundary=evaluation.outside,
        )

    async def spend_needed(self, access: AccessRequest, call: CallQuestion) -> AccessRequest:
        """Spend the single-use approvals that *access* needs, and return it with them."""

        def judge(spent: tuple[Intervention, ...]) -> Outcome:
            return self.preview(access._replace(spent=spent), call)

        return access._replace(spent=await spend_needed(self._approvals, (access.identity,), judge))

    def preview(self, access: AccessRequest, call: CallQuestion) -> Outcome:
        """Return the outcome of a call. Counts nothing and requests no approval."""
        return Outcome(self._judge(access, call)[0].allow)

    def evaluate(self, access: AccessRequest, call: CallQuestion, via: str) -> CallEvaluation:
        """Return the verdict on a call that came by *via*, and request an approval if it needs one. Never waits."""
        judged, event = self._judge(access, call)
        self.counts[via, call.effect or "unknown", judged.decision, judged.basis] += 1
        if judged.decision != "step_up" or not judged.by_level.enforced or not access.approvable:
            return judged
        return judged._replace(approval_id=self._request_approval(access, call, judged, event, via))

    def _judge(self, access: AccessRequest, call: CallQuestion) -> tuple[CallEvaluation, NativeEvent | None]:
        """Return the verdict, and the call as an event if the model was to judge it."""
        by_level, context = self._policy_evaluator.evaluate(access)
        bound = call.bound_members()
        digest = self._identities.call_digest(*access.identity, bound)
        # Approvals had this digest before digests were keyed. New ones are never stored.
        unkeyed_digest = hashlib.sha256(bound).hexdigest()[:CALL_DIGEST_DIGITS]
        scopes = self._policy_evaluator.interventions.approved_scopes(
            access.identity, self._now_ms(), int(by_level.level), access.spent
        )
        approved = CALL_SCOPE_PREFIX + digest in scopes or CALL_SCOPE_PREFIX + unkeyed_digest in scopes
        decision, reason = decide_by_level(by_level, call.effect, approved=approved)
        boundary = self._policy_evaluator.boundary
        outside = boundary.find_outside(access.identity, context.entry, (call.action,), access.held) != ()
        if outside and boundary.outside == "deny" and decision != "deny":
            decision, reason = "deny", OUTSIDE_BOUNDARY
        score, event, detail = None, None, ""
        if decision == "allow":
            event = self._as_event(access, call, context)
            path = AccessPath.of_event(event)
            is_trusted = path.is_told and self._path_scope(access, path) in scopes
            score, detail = self._score(event, _announced_paths(by_level, context), trusted=is_trusted)
            if score is not None and score.exceeds and not approved:
                decision, reason = "step_up", UNUSUAL_CALL
        if outside and boundary.outside == "step_up" and decision == "allow" and not approved:
            decision, reason = "step_up", OUTSIDE_BOUNDARY
        return CallEvaluation(decision, reason, by_level, score, detail, digest, outside), event

    def _path_scope(self, access: AccessRequest, path: AccessPath) -> str:
        return PATH_SCOPE_PREFIX + self._identities.access_path_digest(*access.identity, path.encoded())

    def _score(self, event: NativeEvent, announced: bytes, *, trusted: bool) -> tuple[CallScore | None, str]:
        """Return the model's score, or None and the reason why there is none."""
        live = self._live_scorer
        if live is None:
            return None, "this process uses no model for calls"
        if live.scorer is None:
            return None, live.missing_because
        try:
            return live.scorer.score(event, announced, trusted=trusted), ""
        except Exception as error:
            _log.error("call_not_scored", **error_members(error))
            return None, FAILED

    def _as_event(self, access: AccessRequest, call: CallQuestion, context: DecisionContext) -> NativeEvent:
        """Return the call as an event with the agent's known type: otherwise an agent could choose its peers."""
        known_type = "" if context.entry is None else context.entry.summary.agent_type
        details = {name: getattr(call, name) for name in CallDetails.__struct_fields__}
        return NativeEvent(
            time=datetime.fromtimestamp(self._now_ms() / 1000, UTC),
            agent=Agent(access.agent_id, access.issuer or None, known_type or call.agent_type),
            type=call.type,
            action=call.action,
            outcome="success",
            tenant=access.tenant or None,
            **details,
        )

    def _request_approval(
        self, access: AccessRequest, call: CallQuestion, judged: CallEvaluation, event: NativeEvent | None, via: str
    ) -> str:
        """Request approval of a call once. Return the id of the pending approval, or "" if too many are pending.

        The text for the person who decides has no targets, arguments or other names, because erasures do not search
        here.
        """
        scopes = [CALL_SCOPE_PREFIX + judged.call]
        codes = dict.fromkeys(reason.code for reason in judged.reasons)
        text = f"{judged.reason}: {call.action[:200]}" + (f" ({', '.join(codes)})" if codes else "")
        if event is not None and judged.reason == UNUSUAL_CALL and (path := AccessPath.of_event(event)).is_told:
            score, _ = self._score(event, NO_PATHS, trusted=True)
            if score is not None and not score.exceeds:  # the path is the only reason to wait for a person
                scopes.append(self._path_scope(access, path))
                text += f"; its access path is new: {path.describe()}"
        waiting = self._policy_evaluator.interventions.pending_approval(
            access.identity, scopes, self._now_ms(), MAX_PENDING_PER_AGENT
        )
        if waiting is not None:
            return waiting.intervention_id if set(scopes) <= set(waiting.scopes) else ""
        name = AgentName(self._identities.agent_key(*access.identity), *access.identity)
        # An agent that becomes known meanwhile is not riskier than before.
        at_least = max(judged.by_level.level, RiskLevel.LOW)
        return self._approvals.request_approval(name, scopes, at_least, text, via, access.caller)


def _announced_paths(by_level: Verdict, context: DecisionContext) -> bytes:
    """Return the announced access paths of an agent: none while it is suspicious, or its risk may be out of date."""
    if context.entry is None or by_level.stale:
        return NO_PATHS
    if max(by_level.level, context.entry.summary.level) >= RiskLevel.MEDIUM:
        return NO_PATHS
    return context.entry.summary.announced_paths


def decide_by_level(by_level: Verdict, effect: str | None, *, approved: bool) -> tuple[CallDecision, str]:
    """Return the decision that the agent's level gives, and its reason. A level that holds any scope for a person holds
    every call that does more than read, because the scopes that a call needs are not known here.
    """
    if not by_level.would_allow and by_level.reason != STEP_UP:
        return "deny", by_level.reason
    if by_level.step_up and not approved and (by_level.reason == STEP_UP or effect != "read"):
        return "step_up", STEP_UP
    return "allow", ALLOWED


def read_call_question(body: bytes) -> CallQuestion:
    """Parse a request body. Raises ProblemError (422)."""
    try:
        return _decode_question(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = str(error)
    message, at_path, path = reason.rpartition(" - at `")
    errors = [{"path": path.removesuffix("`") if at_path else "$", "reason": message or reason}]
    raise ProblemError(ProblemDetails(422, "invalid_request", "Invalid request", reason, members={"errors": errors}))


MAX_CALL_BYTES = 128 * 1024
"""Maximum size of a request, bytes: 256 arguments with long names, and the other members of an event."""


class FastCallRoute(FastAgentRoute):
    """Answers the route in front of FastAPI."""

    route, method = "/v1/agents/{agent_id}/calls/evaluate", "POST"

    def __init__(self, services: ServiceRegistry) -> None:
        super().__init__(services)
        self._calls = services.get(CallEvaluator)

    async def _answer(
        self, caller: AuthenticatedCaller, agent_id: str, scope: Scope, receive: Receive
    ) -> tuple[tuple[bytes, bytes], bytes] | None:
        tenant, issuer = parse_agent_selection(scope["query_string"])
        try:
            body = await read_request_body(receive, MAX_CALL_BYTES)
        except RequestBodyTooLong:
            detail = f"the body may have {MAX_CALL_BYTES} bytes"
            raise ProblemError(ProblemDetails(413, "body_too_large", "Body too large", detail)) from None
        return None if body is None else (JSON_HEADER, await self._calls.answer(caller, agent_id, tenant, issuer, body))
