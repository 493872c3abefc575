"""Verdicts on calls before they are made (allow, step up, deny), from memory. Nothing is learned from requests.

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
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal, NamedTuple

import msgspec
import structlog

from trustwatch.ingest.access_path import AccessPath
from trustwatch.ingest.compilation import KernelGate, KernelPart
from trustwatch.ingest.described import member
from trustwatch.ingest.errors import TrustwatchError
from trustwatch.ingest.events import NativeEvent
from trustwatch.ingest.identities import CALL_DIGEST_DIGITS, IdentityHasher
from trustwatch.models.model_persistence import ModelRegistry
from trustwatch.scoring.engine.announced_paths import NO_PATHS
from trustwatch.scoring.engine.call_scorer import CallScore, CallScorer
from trustwatch.scoring.engine.settings import ChallengeBudget
from trustwatch.scoring.policy.access_evaluation import (
    ALLOWED,
    OUTSIDE_BOUNDARY,
    STEP_UP,
    UNUSUAL_CALL,
    AccessRequest,
    DecisionContext,
    PolicyEvaluator,
    Verdict,
)
from trustwatch.scoring.records.agents import AgentName, RiskLevel
from trustwatch.scoring.records.containment import Intervention
from trustwatch.scoring.records.decisions import RiskReason
from trustwatch_client.events import Agent, Call, EventHash, EventText, Principal, Resource

from ..http.problems import error_members
from .approval_workflow import (
    CALL_SCOPE_PREFIX,
    MAX_PENDING_PER_AGENT,
    PATH_SCOPE_PREFIX,
    ApprovalWorkflow,
    Outcome,
    spend_needed,
)

REFRESH_EVERY_S = 2.0

_FIRST_CALL = NativeEvent(
    time=datetime(2000, 1, 1, tzinfo=UTC), agent=Agent("-"), type="tool.call", action="-", outcome="success"
)

_log = structlog.get_logger(__name__)


class LiveCallScorer:
    """Holds the scorer of the active model. While it is unavailable, only the level decides.

    Attributes:
        scorer: None if it is unavailable.
        missing_because: why it is unavailable.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        budget: ChallengeBudget,
        domains: Mapping[str, Sequence[str]] | None = None,
        *,
        compiled_elsewhere: bool = False,
    ) -> None:
        self._registry = registry
        self._budget = budget
        self._domains = domains
        self._tried = ""
        self._gate = KernelGate(KernelPart.SCORING, compiled_elsewhere=compiled_elsewhere)
        self.scorer: CallScorer | None = None
        self.missing_because = "the model is not loaded yet"

    def use_version(self, version: str) -> None:
        """Load a version unless it is loaded; blocks while the model is read and verified."""
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
            told = {"thresholds": _threshold_texts(scorer), "tenants_with_own": scorer.tenants_with_own}
            _log.info("calls are judged by a model", model=version, **told)
        self._tried = version

    async def follow(self, version: Callable[[], str], stop: asyncio.Event) -> None:
        """Use the version that *version* returns, until *stop*. A restored model is found."""
        while not stop.is_set():
            await asyncio.to_thread(self.use_version, version())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), REFRESH_EVERY_S if self.scorer else 5 * REFRESH_EVERY_S)


def _threshold_texts(scorer: CallScorer) -> dict[str, str]:
    """Thresholds by effect, for the log, of tenants without separate thresholds; "none" if the history is too short for
    the budget."""
    return {
        effect: "none" if threshold is None else f"{threshold.anomaly_score:.3f} of {threshold.effect}"
        for effect, threshold in scorer.thresholds.items()
    }


BY_MODEL, BY_LEVEL = "model", "level"
FAILED = "the model could not be used because of an internal error"

CallType = Literal["api.call", "tool.call", "a2a.message"]
CallDecision = Literal["allow", "step_up", "deny"]
CALL_DECISIONS: tuple[CallDecision, ...] = ("deny", "step_up", "allow")
"""Decisions, the strictest first."""


class CallQuestion(Call, kw_only=True, omit_defaults=False):
    """A call that an agent is about to make: the members of an event that are known before it.

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
        """Members that an approval is bound to: kind, action, effect, task, peer, principal, resource, arguments."""
        resource, principal = self.resource or Resource(), self.principal or Principal()
        bound = (
            self.type,
            self.action,
            self.effect,
            self.task,
            self.peer,
            (principal.id, principal.type),
            (resource.type, resource.id, resource.target, resource.audience),
            None
            if self.arguments is None
            else sorted((argument.name, str(argument.hash)) for argument in self.arguments),
            self.arguments_hash,
        )
        return msgspec.json.encode(bound)


class CallEvaluation(NamedTuple):
    """Answer about one call.

    Attributes:
        decision: that of the policy, regardless of the mode.
        allow: whether to make the call; always true in shadow mode.
        reason: code, see `VERDICT_REASONS`.
        by_level: verdict of the level.
        score: of the model; None if the level decided, or the model is unavailable.
        basis: `model`, or `level`.
        detail: why only the level decided, if the model should have.
        approval_id: the pending approval, if any.
        call: keyed digest of the call.
        outside: no capability that the agent declares covers the action.
    """

    decision: CallDecision
    allow: bool
    reason: str
    by_level: Verdict
    score: CallScore | None
    basis: str
    detail: str
    approval_id: str
    call: str
    outside: bool = False

    @property
    def would_allow(self) -> bool:
        """True if the policy allows the call, regardless of the mode."""
        return self.decision == "allow"

    @property
    def reasons(self) -> tuple[RiskReason, ...]:
        """Reasons of the model, the strongest first."""
        return () if self.score is None else self.score.reasons


class _JudgedCall(NamedTuple):
    """Members of a `CallEvaluation`. `asked` is the event that was scored, if any."""

    by_level: Verdict
    decision: CallDecision
    reason: str
    asked: NativeEvent | None
    score: CallScore | None
    basis: str
    detail: str
    digest: str
    outside: bool


@dataclass(eq=False, repr=False)
class CallEvaluator:
    """Judges and counts calls, and requests approvals. For one event loop.

    Attributes:
        counts: verdicts by (way, effect, decision, basis).
    """

    _policy_evaluator: PolicyEvaluator
    _approvals: ApprovalWorkflow
    _live_scorer: LiveCallScorer | None
    _identities: IdentityHasher
    _now_ms: Callable[[], int]

    def __post_init__(self) -> None:
        self.counts: Counter[tuple[str, str, str, str]] = Counter()

    @property
    def any_for_one_use(self) -> bool:
        """True if some agent has an approval for one use."""
        return self._approvals.active_interventions.any_for_one_use

    async def spend_needed(self, access: AccessRequest, call: CallQuestion) -> AccessRequest:
        """*access* with the approvals for one use that it needs, which are spent for it."""

        def judge(spent: tuple[Intervention, ...]) -> Outcome:
            return self.preview(access._replace(spent=spent), call)

        return access._replace(spent=await spend_needed(self._approvals, (access.identity,), judge))

    def preview(self, access: AccessRequest, call: CallQuestion) -> Outcome:
        """Return the outcome of a call. Counts nothing and requests no approval."""
        judged = self._judge(access, call)
        return Outcome(judged.decision == "allow" or not judged.by_level.enforced)

    def evaluate(self, access: AccessRequest, call: CallQuestion, via: str) -> CallEvaluation:
        """The verdict on a call of an agent that came by *via*. Never waits."""
        by_level, decision, reason, asked, score, basis, detail, digest, outside = self._judge(access, call)
        approval_id = ""
        if decision == "step_up" and by_level.enforced and access.approvable:
            new_path = self._new_path(asked) if asked is not None and reason == UNUSUAL_CALL else None
            text = _request_text(call, reason, score, new_path)
            path_scopes = () if new_path is None else (self._path_scope(access, new_path),)
            approvable = (CALL_SCOPE_PREFIX + digest, *path_scopes)
            approval_id = self._request_approval(access, approvable, by_level.level, text, via)
        self.counts[via, call.effect or "unknown", decision, basis] += 1
        allow = decision == "allow" or not by_level.enforced
        return CallEvaluation(decision, allow, reason, by_level, score, basis, detail, approval_id, digest, outside)

    def _judge(self, access: AccessRequest, call: CallQuestion) -> _JudgedCall:
        """The judgment of level, boundary and model on a call."""
        by_level, context = self._policy_evaluator.evaluate(access)
        bound = call.bound_members()
        digest = self._identities.call_digest(*access.identity, bound)
        scopes = self._approved_scopes(access, by_level.level)
        approved = any(CALL_SCOPE_PREFIX + of_call in scopes for of_call in (digest, _unkeyed_digest(bound)))
        decision, reason = decide_by_level(by_level, call.effect, approved=approved)
        boundary = self._policy_evaluator.boundary
        outside = boundary.find_outside(access.identity, context.entry, (call.action,), access.held) != ()
        if outside and boundary.outside == "deny" and decision != "deny":
            decision, reason = "deny", OUTSIDE_BOUNDARY
        score, asked, basis, detail = None, None, BY_LEVEL, ""
        if decision == "allow":
            known_type = "" if context.entry is None else context.entry.summary.agent_type
            asked = self._as_event(access, call, known_type or call.agent_type)
            path = AccessPath.of_event(asked)
            announced = _announced_paths(by_level, context)
            is_trusted = path.is_told and self._path_scope(access, path) in scopes
            score, detail = self._score(asked, announced, trusted=is_trusted)
            basis = BY_LEVEL if score is None else BY_MODEL
            if score is not None and score.exceeds and not approved:
                decision, reason = "step_up", UNUSUAL_CALL
        if outside and boundary.outside == "step_up" and decision == "allow" and not approved:
            decision, reason = "step_up", OUTSIDE_BOUNDARY
        return _JudgedCall(by_level, decision, reason, asked, score, basis, detail, digest, outside)

    def _approved_scopes(self, access: AccessRequest, level: RiskLevel) -> frozenset[str]:
        return self._policy_evaluator.interventions.approved_scopes(
            access.identity, self._now_ms(), int(level), access.spent
        )

    def _path_scope(self, access: AccessRequest, path: AccessPath) -> str:
        """Scope of an approval that trusts an access path of the agent."""
        return PATH_SCOPE_PREFIX + self._identities.access_path_digest(*access.identity, path.encoded())

    def _new_path(self, asked: NativeEvent) -> AccessPath | None:
        """Access path of an unusual call, if it is the only reason to wait for a person."""
        path = AccessPath.of_event(asked)
        if not path.is_told:
            return None
        score, _ = self._score(asked, NO_PATHS, trusted=True)
        return None if score is None or score.exceeds else path

    def _score(self, asked: NativeEvent, announced: bytes, *, trusted: bool) -> tuple[CallScore | None, str]:
        """The score of a call, or why there is none."""
        live = self._live_scorer
        if live is None:
            return None, "this process asks no model about calls"
        if live.scorer is None:
            return None, live.missing_because
        try:
            return live.scorer.score(asked, announced, trusted=trusted), ""
        except Exception as error:
            _log.error("call_not_scored", **error_members(error))
            return None, FAILED

    def _as_event(self, access: AccessRequest, call: CallQuestion, agent_type: str | None) -> NativeEvent:
        """The call as an event. The agent's type is the one that it is known by: else it would choose its own peers."""
        return NativeEvent(
            time=datetime.fromtimestamp(self._now_ms() / 1000, UTC),
            agent=Agent(access.agent_id, access.issuer or None, agent_type),
            type=call.type,
            action=call.action,
            outcome="success",
            tenant=access.tenant or None,
            principal=call.principal,
            delegation=call.delegation,
            task=call.task,
            effect=call.effect,
            resource=call.resource,
            peer=call.peer,
            scopes=call.scopes,
            client=call.client,
            credential=call.credential,
            bytes_in=call.bytes_in,
            arguments=call.arguments,
        )

    def _request_approval(
        self,
        access: AccessRequest,
        scopes: Sequence[str],
        level: RiskLevel,
        text: str,
        via: str,
    ) -> str:
        """Request approval of a call, once; returns the id of the waiting approval, "" if too many wait."""
        waiting = self._policy_evaluator.interventions.pending_approval(
            access.identity, scopes, self._now_ms(), MAX_PENDING_PER_AGENT
        )
        if waiting is not None:
            return waiting.intervention_id if set(scopes) <= set(waiting.scopes) else ""
        name = AgentName(self._identities.agent_key(*access.identity), *access.identity)
        # An agent that becomes known meanwhile is not riskier than before.
        at_least = max(level, RiskLevel.LOW)
        return self._approvals.request_approval(name, scopes, at_least, text, via, access.caller)


def _announced_paths(by_level: Verdict, context: DecisionContext) -> bytes:
    """Announced access paths of an agent; none while it is suspicious, or its risk may be out of date."""
    if context.entry is None or by_level.stale:
        return NO_PATHS
    if max(by_level.level, context.entry.summary.level) >= RiskLevel.MEDIUM:
        return NO_PATHS
    return context.entry.summary.announced_paths


def _unkeyed_digest(bound: bytes) -> str:
    """Digest of approvals from before digests were keyed. No new ones are stored."""
    return hashlib.sha256(bound).hexdigest()[:CALL_DIGEST_DIGITS]


def decide_by_level(by_level: Verdict, effect: str | None, *, approved: bool) -> tuple[CallDecision, str]:
    """Decision on a call by the agent's level, and its reason. What holds some scopes for a person holds every call
    that does more than read, since the scopes that a call needs are not known here.
    """
    if not by_level.would_allow and by_level.reason != STEP_UP:
        return "deny", by_level.reason
    if by_level.step_up and not approved and (by_level.reason == STEP_UP or effect != "read"):
        return "step_up", STEP_UP
    return "allow", ALLOWED


def _request_text(call: CallQuestion, reason: str, score: CallScore | None, new_path: AccessPath | None) -> str:
    """Text for the person who decides. No targets, arguments or other names: erasures do not search here."""
    codes = () if score is None else dict.fromkeys(model_reason.code for model_reason in score.reasons)
    why = f"{reason}: {call.action[:200]}" + (f" ({', '.join(codes)})" if codes else "")
    return why if new_path is None else f"{why}; its access path is new: {new_path.describe()}"
