"""The policy decision point of hooks and gateways: verdicts, audit events, and limits of what they read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import structlog

from trustwatch.ingest.errors import TrustwatchError
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.scoring.policy.access_evaluation import (
    LEVEL_CLAIM,
    SCOPES_REFUSED,
    STEP_UP,
    UNDECIDED,
    AccessRequest,
    DecisionContext,
    PolicyEvaluator,
    Verdict,
)
from trustwatch.scoring.records.agents import AgentIdentity, AgentName, RiskLevel
from trustwatch.scoring.records.containment import Intervention
from trustwatch_client.events import CAUSED_BY_TRUST, MAX_ID_LENGTH

from ..events.audit_sink import AuditSink
from ..http.auth.callers import OWN_SOURCE_PREFIX
from ..http.problems import error_members
from .approval_workflow import ApprovalWorkflow, Outcome, spend_needed, without_call_scopes

OWN_DENIAL_ERROR = "revoked_by_trustwatch"
"""`error` of the audit event of what we denied: the feature builder leaves it out (`ingest.columns.OWN_DENIALS`)."""


MAX_SCOPES, MAX_ACTORS = 1_000, 32
MAX_EVENT_SCOPES = 256
"""Scopes that an audit event holds: the first ones."""

_log = structlog.get_logger(__name__)


class AccessDecision(NamedTuple):
    """A verdict with its context. `approval_id` is the pending approval, or ""."""

    verdict: Verdict
    context: DecisionContext
    approval_id: str

    def risk_claims(self) -> dict[str, Any]:
        """Return the risk claims for a token's resource servers, if the product lets a hook write claims."""
        return {LEVEL_CLAIM: self.verdict.level.label, "policy_version": self.verdict.policy_version}


def refusal_members(question: AccessRequest, decided: AccessDecision) -> dict[str, Any]:
    """Return the members of a log line about a refusal: the agent, its level and the reason, without principal or
    scopes.
    """
    return {
        "tenant": question.tenant,
        "issuer": question.issuer,
        "agent_id": question.agent_id,
        "risk_level": decided.verdict.level.label,
        "reason": decided.verdict.reason,
        "approval_id": decided.approval_id or None,
    }


@dataclass(eq=False, repr=False)
class PolicyDecisionPoint:
    """Decides requests from memory, and counts and records its decisions.

    Attributes:
        verdict_counts: requests by (way, level, reason, mode).
        failure_counts: requests that could not be decided, by (way, answer given: open or closed).
    """

    policy_evaluator: PolicyEvaluator
    approval_workflow: ApprovalWorkflow
    audit_sink: AuditSink
    _identities: IdentityHasher
    _now_ms: Callable[[], int]

    def __post_init__(self) -> None:
        self.verdict_counts: Counter[tuple[str, str, str, str]] = Counter()
        self.failure_counts: Counter[tuple[str, str]] = Counter()

    def decide(
        self, question: AccessRequest, via: str, fit: Callable[[Verdict], Verdict] | None = None
    ) -> AccessDecision:
        """Return the verdict on a request that came by *via* (`hydra`, `ext_authz`, …). Never waits."""
        verdict, context = self.policy_evaluator.evaluate(question)
        if fit is not None:
            verdict = fit(verdict)
        self.verdict_counts[via, verdict.level.label, verdict.reason, mode_word(verdict)] += 1
        approval_id = ""
        if verdict.enforced and verdict.step_up and question.approvable and (verdict.held_scopes or not verdict.allow):
            approval_id = self._request_approval(question, verdict, via)
        return AccessDecision(verdict, context, approval_id)

    @property
    def any_for_one_use(self) -> bool:
        """Whether any agent has a single-use approval."""
        return self.approval_workflow.active_interventions.any_for_one_use

    def _request_approval(self, question: AccessRequest, verdict: Verdict, via: str) -> str:
        scopes = without_call_scopes(verdict.held_scopes)
        if verdict.held_scopes and not scopes:
            return ""
        name = AgentName(self._identities.agent_key(*question.identity), *question.identity)
        return self.approval_workflow.request_approval(
            name, scopes, verdict.level, verdict.reason, via, question.caller
        )

    def count_failure(self, via: str, *, fails_open: bool) -> None:
        """Count a request that could not be decided, by the answer that it got."""
        self.failure_counts[via, "open" if fails_open else "closed"] += 1

    def may_enforce(self, tenant: str) -> bool:
        """Return whether the tenant's policy is enforced; true if that cannot be determined. Never raises.

        If no policy is enforced, no fault of the service may refuse a request.
        """
        try:
            return self.policy_evaluator.policy.book.may_enforce(tenant)
        except Exception:
            return True

    def undecided(self, question: AccessRequest, *, allow: bool) -> AccessDecision:
        """Return the decision on a request that could not be decided."""
        enforced = self.may_enforce(question.tenant)
        verdict = Verdict(
            allow, allow, enforced, RiskLevel.UNKNOWN, UNDECIDED, None, None, False, (), (), allow, False, ""
        )
        return AccessDecision(verdict, DecisionContext(None, RiskLevel.UNKNOWN, ""), "")

    async def spend_needed(
        self, identities: Iterable[AgentIdentity], judge: Callable[[tuple[Intervention, ...]], Outcome]
    ) -> tuple[Intervention, ...]:
        """Spend the single-use approvals that a request about these agents needs, and return them. Never raises."""
        try:
            return await spend_needed(self.approval_workflow, identities, judge)
        except Exception as error:
            _log.error("approvals_not_spent", **error_members(error))
            return ()

    def record_decision(
        self,
        decided: AccessDecision,
        question: AccessRequest,
        via: str,
        *,
        kind: str,
        action: str,
        lifetime_s: int | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """Record a request and its answer as an audit event. Never raises: the caller has its answer in any case."""
        try:
            event = {"time": format_rfc3339(self._now_ms()), "source": OWN_SOURCE_PREFIX + via}
            event |= {"type": kind, "action": action, **_audit_members(decided.verdict, question, lifetime_s)}
            self.audit_sink.enqueue({**event, **(more or {})})
        except Exception as error:
            self.audit_sink.dropped += 1
            _log.error("decision_not_recorded", via=via, **error_members(error))


def _audit_members(verdict: Verdict, question: AccessRequest, lifetime_s: int | None) -> dict[str, Any]:
    """Return the members of the audit event about a request and its answer.

    Our own decision is in `attributes`, which no feature reads. Otherwise a lifetime that we shorten and restore
    would look like a change of the agent's behavior.
    """
    event: dict[str, Any] = {
        "agent": {"id": question.agent_id, "issuer": question.issuer or None},
        "outcome": "success" if verdict.allow else "denied",
        "error": None if verdict.allow else OWN_DENIAL_ERROR,
        "attributes": {"verdict": verdict.reason, "risk_level": verdict.level.label, "mode": mode_word(verdict)},
    }
    if verdict.outside:
        event["attributes"]["outside_boundary"] = True
    if not verdict.allow:
        event["caused_by"] = CAUSED_BY_TRUST
    elif lifetime_s is not None:
        event["attributes"]["token_lifetime_s"] = lifetime_s
    if question.tenant:
        event["tenant"] = question.tenant
    if question.scopes:
        requested = list(question.scopes[:MAX_EVENT_SCOPES])
        event["scopes"] = {"requested": requested, "granted": requested if verdict.allow else []}
        if verdict.allow and verdict.scopes is not None and len(verdict.scopes) < len(question.scopes):
            # Scopes that we withhold do not count as excessive: otherwise risk would increase itself.
            event["scopes"] = {"requested": requested}
            event["attributes"]["granted"] = " ".join(verdict.scopes)
    if question.ancestors:
        event["delegation"] = [question.agent_id, *question.ancestors]
    return event


def mode_word(verdict: Verdict) -> str:
    """Return the mode of a verdict, as metrics and events name it."""
    return "enforce" if verdict.enforced else "shadow"


TOOL_CALL = "tools/call"
"""Method of MCP whose judged action is the tool; any other method is the action itself."""


class ClientInducedFailure(TrustwatchError):
    """A failure that a client may have caused. Such a request never passes if policy is enforced, regardless of
    `on_failure`."""

    code = "by_client"


class RequestLimitExceeded(ClientInducedFailure):
    """Raised if a request contains more than a hook accepts."""

    code = "too_much"


def text_or_empty(value: Any) -> str:
    """Return *value* if it is a string, otherwise ""."""
    return value if type(value) is str else ""


def check_name_length(name: str) -> str:
    """Return *name*. Raises RequestLimitExceeded if it is too long for an event."""
    if len(name) > MAX_ID_LENGTH:
        raise RequestLimitExceeded(f"a name has more than {MAX_ID_LENGTH} characters")
    return name


def earlier_actors(act: Any, agent: str) -> tuple[str, ...]:
    """Return the earlier actors of a delegation chain (`act` of RFC 8693), nearest first, without the agent itself."""
    actors: list[str] = []
    while type(act) is dict and len(actors) <= MAX_ACTORS:
        actors.append(check_name_length(text_or_empty(act.get("sub"))))
        act = act.get("act")
    if actors[:1] == [agent]:  # the outermost is the current actor
        del actors[0]
    return tuple(name for name in actors[:MAX_ACTORS] if name)


def strictest_decision(decisions: Sequence[AccessDecision]) -> tuple[AccessDecision, int]:
    """Return the decision that satisfies all of *decisions*, and the index of the strictest one."""

    def leniency(at: int) -> tuple[bool, bool, int, int]:
        """Sorts denied decisions first, then those that wait for a person, grant fewest scopes, have the highest
        level.
        """
        verdict = decisions[at].verdict
        left_out = len(verdict.refused_scopes) + len(verdict.held_scopes)
        return verdict.would_allow, verdict.step_up ^ verdict.would_allow, -left_out, -verdict.level

    decides = min(range(len(decisions)), key=leniency)
    if len(decisions) == 1:
        return decisions[0], decides
    deciding = decisions[decides]
    verdict = _combine([decision.verdict for decision in decisions], deciding.verdict)
    approval_id = next((one.approval_id for one in (deciding, *decisions) if one.approval_id), "")
    return AccessDecision(verdict, deciding.context, approval_id), decides


def _combine(verdicts: Sequence[Verdict], deciding: Verdict) -> Verdict:
    """Return one verdict that grants only what each of *verdicts* grants."""
    lifetimes = [one.max_token_lifetime_s for one in verdicts if one.max_token_lifetime_s is not None]
    granted = [one.scopes for one in verdicts if one.scopes is not None]
    scopes = tuple(scope for scope in granted[0] if all(scope in one for one in granted)) if granted else None
    held = _union(one.held_scopes for one in verdicts)
    combined = msgspec.structs.replace(
        deciding,
        allow=all(one.allow for one in verdicts),
        would_allow=all(one.would_allow for one in verdicts),
        enforced=any(one.enforced for one in verdicts),
        level=max(one.level for one in verdicts),
        max_token_lifetime_s=min(lifetimes, default=None),
        scopes=scopes,
        step_up=any(one.step_up for one in verdicts),
        held_scopes=held,
        refused_scopes=_union(one.refused_scopes for one in verdicts),
        refresh_allowed=all(one.refresh_allowed for one in verdicts),
        revoke=any(one.revoke for one in verdicts),
        stale=any(one.stale for one in verdicts),
        outside=_union(one.outside for one in verdicts),
    )
    if combined.allow and scopes == ():  # each grants some scopes, and no scope is granted by all
        reason = STEP_UP if held else SCOPES_REFUSED
        return msgspec.structs.replace(combined, allow=False, would_allow=False, reason=reason, scopes=None)
    return combined


def _union(scopes: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(scope for some in scopes for scope in some))
