"""The policy decision point that hooks and gateways ask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from trustwatch.ingest.errors import TrustwatchError
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.scoring.policy.access_evaluation import (
    LEVEL_CLAIM,
    AccessRequest,
    DecisionContext,
    PolicyEvaluator,
    Verdict,
)
from trustwatch.scoring.records.agents import AgentName
from trustwatch_client.events import CAUSED_BY_TRUST, MAX_ID_LENGTH

from ..events.audit_sink import AuditSink
from ..http.auth.callers import OWN_SOURCE_PREFIX
from .approval_workflow import ApprovalWorkflow, without_call_scopes

OWN_DENIAL_ERROR = "revoked_by_trustwatch"
"""`error` of the audit event of what we denied: the feature builder leaves it out (`ingest.columns.OWN_DENIALS`)."""


class AccessDecision(NamedTuple):
    """A verdict with what it stands on. `approval_id` is the approval that waits for a person; "" = none does."""

    verdict: Verdict
    context: DecisionContext
    approval_id: str

    def risk_claims(self) -> dict[str, Any]:
        """Claims of risk for a token's resource servers, where the product lets a hook write claims."""
        return {LEVEL_CLAIM: self.verdict.level.label, "policy_version": self.verdict.policy_version}


def refusal_members(question: AccessRequest, decided: AccessDecision) -> dict[str, Any]:
    """Members of a log line about a refusal: whose agent, at which level, why. Neither principal nor scopes."""
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
    """Decides requests from memory, and counts and records what it decided.

    Attributes:
        verdict_counts: questions by (way, level, reason, mode).
        failure_counts: questions that could not be decided, by (way, what was answered then: open or closed).
    """

    policy_evaluator: PolicyEvaluator
    approval_workflow: ApprovalWorkflow
    audit_sink: AuditSink
    _identities: IdentityHasher

    def __post_init__(self) -> None:
        self.verdict_counts: Counter[tuple[str, str, str, str]] = Counter()
        self.failure_counts: Counter[tuple[str, str]] = Counter()

    def decide(
        self, question: AccessRequest, via: str, fit: Callable[[Verdict], Verdict] | None = None
    ) -> AccessDecision:
        """The verdict on a request that came by *via* (`hydra`, `ext_authz`, …). Never waits."""
        verdict, context = self.policy_evaluator.evaluate(question)
        if fit is not None:
            verdict = fit(verdict)
        mode = "enforce" if verdict.enforced else "shadow"
        self.verdict_counts[via, verdict.level.label, verdict.reason, mode] += 1
        approval_id = ""
        if verdict.enforced and verdict.step_up and question.approvable and (verdict.held_scopes or not verdict.allow):
            approval_id = self._request_approval(question, verdict, via)
        return AccessDecision(verdict, context, approval_id)

    @property
    def any_for_one_use(self) -> bool:
        """True if some agent has an approval for one use."""
        return self.approval_workflow.active_interventions.any_for_one_use

    def _request_approval(self, question: AccessRequest, verdict: Verdict, via: str) -> str:
        """Ask a person for the scopes that a verdict holds; "" where nobody is asked."""
        scopes = without_call_scopes(verdict.held_scopes)
        if verdict.held_scopes and not scopes:
            return ""
        name = AgentName(self._identities.agent_key(*question.identity), *question.identity)
        return self.approval_workflow.request_approval(
            name, scopes, verdict.level, verdict.reason, via, question.caller
        )

    def count_failure(self, via: str, *, fails_open: bool) -> None:
        """Count a question that could not be decided, and how it was answered for that reason."""
        answered = "open" if fails_open else "closed"
        self.failure_counts[via, answered] += 1

    def record_decision(
        self,
        decided: AccessDecision,
        question: AccessRequest,
        via: str,
        *,
        kind: str,
        action: str,
        at_ms: int,
        lifetime_s: int | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """Make an audit event of a question and its answer.

        What we decide ourselves stands in `attributes`, which no feature reads: a life that we shorten, and give back
        on recovery, would otherwise look like a change of the agent's habits.
        """
        verdict = decided.verdict
        event: dict[str, Any] = {
            "time": format_rfc3339(at_ms),
            "source": OWN_SOURCE_PREFIX + via,
            "type": kind,
            "action": action,
            "agent": {"id": question.agent_id, "issuer": question.issuer or None},
            "outcome": "success" if verdict.allow else "denied",
            "error": None if verdict.allow else OWN_DENIAL_ERROR,
            "attributes": {"verdict": verdict.reason, "risk_level": verdict.level.label, "mode": _mode_word(verdict)},
        }
        if verdict.outside:
            event["attributes"]["outside_boundary"] = True
        if not verdict.allow:
            event["caused_by"] = CAUSED_BY_TRUST
        if lifetime_s is not None:
            event["attributes"]["token_lifetime_s"] = lifetime_s
        if question.tenant:
            event["tenant"] = question.tenant
        if question.scopes:
            granted = () if not verdict.allow else question.scopes if verdict.scopes is None else verdict.scopes
            event["scopes"] = {"requested": list(question.scopes), "granted": list(granted)}
            if verdict.allow and len(granted) < len(question.scopes):
                # Not granted by us is not asked too much: else its risk would feed itself.
                event["scopes"] = {"requested": list(question.scopes)}
                event["attributes"]["granted"] = " ".join(granted)
        if question.ancestors:
            event["delegation"] = [question.agent_id, *question.ancestors]
        self.audit_sink.enqueue({**event, **(more or {})})


def _mode_word(verdict: Verdict) -> str:
    return "enforce" if verdict.enforced else "shadow"


MAX_SCOPES = 1_000

MAX_EVENT_SCOPES = 256
"""Scopes that an audit event holds."""

MAX_ACTORS = 32


class ClientInducedFailure(TrustwatchError):
    """A client may have brought it about, so it never lets a request pass: denied where policy is enforced, whatever
    `on_failure` says."""

    code = "by_client"


class RequestLimitExceeded(ClientInducedFailure):
    """A request holds more than a hook takes."""

    code = "too_much"


def text_or_empty(value: Any) -> str:
    """*value* if it is a text, else ""."""
    return value if type(value) is str else ""


def check_name_length(name: str) -> str:
    """*name* itself. Raises RequestLimitExceeded where no event could hold it."""
    if len(name) > MAX_ID_LENGTH:
        raise RequestLimitExceeded(f"a name has more than {MAX_ID_LENGTH} characters")
    return name


def earlier_actors(act: Any, agent: str) -> tuple[str, ...]:
    """Earlier actors of a delegation chain (`act` of RFC 8693), nearest first; the agent itself is not one of them."""
    actors: list[str] = []
    while type(act) is dict and len(actors) <= MAX_ACTORS:
        actors.append(check_name_length(text_or_empty(act.get("sub"))))
        act = act.get("act")
    if actors[:1] == [agent]:  # the outermost is the current actor
        del actors[0]
    return tuple(name for name in actors[:MAX_ACTORS] if name)
