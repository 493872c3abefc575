"""The policy decision point of hooks and gateways, and the agents that an AuthZEN evaluation is about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

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
from trustwatch.scoring.records.agents import AgentName, RiskLevel
from trustwatch_client.events import CAUSED_BY_TRUST, MAX_ID_LENGTH

from ..events.audit_sink import AuditSink
from ..http.auth.callers import OWN_SOURCE_PREFIX
from .approval_workflow import ApprovalWorkflow, without_call_scopes

OWN_DENIAL_ERROR = "revoked_by_trustwatch"
"""`error` of the audit event of what we denied: the feature builder leaves it out (`ingest.columns.OWN_DENIALS`)."""


class AccessDecision(NamedTuple):
    """A verdict with its context. `approval_id` is the pending approval, or ""."""

    verdict: Verdict
    context: DecisionContext
    approval_id: str

    def risk_claims(self) -> dict[str, Any]:
        """Claims of risk for a token's resource servers, if the product lets a hook write claims."""
        return {LEVEL_CLAIM: self.verdict.level.label, "policy_version": self.verdict.policy_version}


def refusal_members(question: AccessRequest, decided: AccessDecision) -> dict[str, Any]:
    """Members of a log line about a refusal: the agent, its level and the reason, without principal or scopes."""
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
        verdict_counts: requests by (way, level, reason, mode).
        failure_counts: requests that could not be decided, by (way, answer given: open or closed).
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
        self.verdict_counts[via, verdict.level.label, verdict.reason, mode_word(verdict)] += 1
        approval_id = ""
        if verdict.enforced and verdict.step_up and question.approvable and (verdict.held_scopes or not verdict.allow):
            approval_id = self._request_approval(question, verdict, via)
        return AccessDecision(verdict, context, approval_id)

    @property
    def any_for_one_use(self) -> bool:
        """True if some agent has an approval for one use."""
        return self.approval_workflow.active_interventions.any_for_one_use

    def _request_approval(self, question: AccessRequest, verdict: Verdict, via: str) -> str:
        """Request approval of the scopes that a verdict holds; "" if no approval is needed."""
        scopes = without_call_scopes(verdict.held_scopes)
        if verdict.held_scopes and not scopes:
            return ""
        name = AgentName(self._identities.agent_key(*question.identity), *question.identity)
        return self.approval_workflow.request_approval(
            name, scopes, verdict.level, verdict.reason, via, question.caller
        )

    def count_failure(self, via: str, *, fails_open: bool) -> None:
        """Count a request that could not be decided, and how it is answered."""
        self.failure_counts[via, "open" if fails_open else "closed"] += 1

    def may_enforce(self, tenant: str) -> bool:
        """True if the tenant's policy is enforced, or if that cannot be determined. Never raises.

        If no policy is enforced, no fault of the service may refuse a request.
        """
        try:
            return self.policy_evaluator.policy.book.may_enforce(tenant)
        except Exception:
            return True

    def undecided(self, question: AccessRequest, *, allow: bool) -> AccessDecision:
        """The decision on a request that could not be decided."""
        enforced = self.may_enforce(question.tenant)
        verdict = Verdict(
            allow, allow, enforced, RiskLevel.UNKNOWN, UNDECIDED, None, None, False, (), (), allow, False, ""
        )
        return AccessDecision(verdict, DecisionContext(None, RiskLevel.UNKNOWN, ""), "")

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
        """Build the audit event of a request and its answer.

        Our own decision is in `attributes`, which no feature reads. Otherwise a lifetime that we shorten and restore
        would look like a change of the agent's behavior.
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
            "attributes": {"verdict": verdict.reason, "risk_level": verdict.level.label, "mode": mode_word(verdict)},
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
                # Scopes that we withhold do not count as excessive: otherwise risk would increase itself.
                event["scopes"] = {"requested": list(question.scopes)}
                event["attributes"]["granted"] = " ".join(granted)
        if question.ancestors:
            event["delegation"] = [question.agent_id, *question.ancestors]
        self.audit_sink.enqueue({**event, **(more or {})})


def mode_word(verdict: Verdict) -> str:
    """The mode of a verdict, as metrics and events name it."""
    return "enforce" if verdict.enforced else "shadow"


MAX_SCOPES = 1_000

MAX_EVENT_SCOPES = 256
"""Scopes that an audit event holds."""

MAX_ACTORS = 32


class ClientInducedFailure(TrustwatchError):
    """A failure that a client may have caused. Such a request never passes if policy is enforced, regardless of
    `on_failure`."""

    code = "by_client"


class RequestLimitExceeded(ClientInducedFailure):
    """A request holds more than a hook takes."""

    code = "too_much"


def text_or_empty(value: Any) -> str:
    """*value* if it is a text, else ""."""
    return value if type(value) is str else ""


def check_name_length(name: str) -> str:
    """*name*. Raises RequestLimitExceeded if it is too long for an event."""
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


PERSON_TYPES = frozenset({"user", "identity"})
"""Types of subjects that are never agents."""

NO_AGENT = (
    "the request names no agent: a subject of this type is a person, and the context has none of `agent`, `client_id` "
    "and `act`; it is answered as for an unknown agent"
)

TOOL_CALL = "tools/call"
"""Method of MCP whose judged action is the tool; any other method is the action itself."""


class JudgedAgent(NamedTuple):
    """An agent that is judged. `issuer` is "" if the request names none: then it is the one asked under."""

    agent_id: str
    issuer: str = ""


class UnreadableAgent(ValueError):
    """Raised if a member that names agents has another shape than the ones that are accepted."""


class NamedAgents(NamedTuple):
    """Agents that a request names.

    Attributes:
        judged: each once, the one that acts first; empty if the request names none and its subject is a person.
        ancestors: actors of the delegation chain before the one that acts, nearest first.
        subject: id of the subject if it may be a further agent, else "".
    """

    judged: tuple[JudgedAgent, ...]
    ancestors: tuple[str, ...]
    subject: str


def read_named_agents(subject: dict[str, Any], context: dict[str, Any] | None) -> NamedAgents:
    """The agents that a request names. Raises UnreadableAgent, RequestLimitExceeded."""
    given, properties = context or {}, subject.get("properties")
    named = [
        _read_agent(given[name], f"context.{name}") for name in ("agent", "client_id") if given.get(name) is not None
    ]
    actors = _read_actors(given.get("act"), "context.act")
    if type(properties) is dict:
        actors += _read_actors(properties.get("act"), "subject.properties.act")
    judged = tuple(dict.fromkeys(named + actors))
    is_person = subject["type"] in PERSON_TYPES
    if not judged:
        return NamedAgents(() if is_person else (JudgedAgent(check_name_length(subject["id"])),), (), "")
    ancestors = dict.fromkeys(actor.agent_id for actor in actors if actor != judged[0])
    return NamedAgents(judged, tuple(ancestors), "" if is_person else subject["id"])


def _read_actors(act: Any, at: str) -> list[JudgedAgent]:
    """Actors of a delegation chain (`act` of RFC 8693), the current one first."""
    actors: list[JudgedAgent] = []
    while act is not None:
        if len(actors) == MAX_ACTORS:
            raise RequestLimitExceeded(f"{at} may have {MAX_ACTORS} actors")
        actors.append(_read_agent(act, at, "sub", "id"))
        act, at = act.get("act") if type(act) is dict else None, f"{at}.act"
    return actors


def _read_agent(value: Any, at: str, *id_members: str) -> JudgedAgent:
    """An agent: its id as a text, or an object with the id in the first of *id_members* (`id`) that it has."""
    issuer: Any = None
    if type(value) is dict:
        issuer = None if "sub" in value else value.get("issuer")
        member = next((name for name in id_members if name in value), "id")
        value, at = value.get(member), f"{at}.{member}"
    if type(value) is not str or not value:
        raise UnreadableAgent(f"{at} must be the id of an agent: a text that is not empty, or an object with that `id`")
    if issuer is not None and (type(issuer) is not str or not issuer):
        raise UnreadableAgent(f"{at.rpartition('.')[0]}.issuer must be a text that is not empty")
    return JudgedAgent(check_name_length(value), check_name_length(issuer or ""))


def judged_action(action: str, resource_id: str) -> str:
    """Name of the action that is judged: for a tool call of MCP the tool."""
    return check_name_length(resource_id if action == TOOL_CALL else action)


def strictest_decision(decisions: Sequence[AccessDecision]) -> tuple[AccessDecision, int]:
    """The decision that satisfies all of *decisions*, and the index of the one that decides."""
    decides = min(range(len(decisions)), key=lambda at: _leniency(decisions[at].verdict))
    if len(decisions) == 1:
        return decisions[0], decides
    deciding = decisions[decides]
    verdict = _combine([decision.verdict for decision in decisions], deciding.verdict)
    approval_id = next((one.approval_id for one in (deciding, *decisions) if one.approval_id), "")
    return AccessDecision(verdict, deciding.context, approval_id), decides


def _leniency(verdict: Verdict) -> tuple[bool, bool, int, int]:
    """Sorts verdicts, the strictest first: denied, waiting for a person, fewest scopes, highest level."""
    left_out = len(verdict.refused_scopes) + len(verdict.held_scopes)
    return verdict.would_allow, verdict.step_up ^ verdict.would_allow, -left_out, -verdict.level


def _combine(verdicts: Sequence[Verdict], deciding: Verdict) -> Verdict:
    """One verdict that grants only what each of *verdicts* grants."""
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
