"""Evaluation of an access request: the verdict that every hook, gateway and actuator renders, and its inputs.

`evaluate_policy` is a pure function of the policy, the level, the request and the approvals of people. Hooks and
gateways wait for a verdict, so its inputs come from memory. Renderers state what a product cannot do; they decide
nothing.

Only the current actor decides (RFC 8693: nested actors inform). The one exception is the operator's choice: the policy
book may raise the level of agents that a *critical* agent delegated to.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

import msgspec

from trustwatch.ingest.capabilities import covers, decode_capabilities, scope_capabilities

from ..records.agents import AgentIdentity, AgentName, RiskLevel
from ..records.containment import Intervention
from .book import EffectivePolicy, LevelTokenPolicy, LivePolicy, PolicyBook
from .interventions import ActiveInterventions
from .risk_view import RiskView, RiskViewEntry

OutsideBoundary = Literal["record", "step_up", "deny"]

RegisteredCapabilities = Callable[[str, str, str], tuple[str, ...] | None]
"""Capabilities that the operator registered for an agent (tenant, issuer, id); None = none."""


@dataclass(eq=False)
class DeclaredBoundary:
    """Finds actions outside what an agent declares. An agent that declares nothing has no boundary."""

    registered: RegisteredCapabilities = lambda *_: None
    outside: OutsideBoundary = "record"
    scope_actions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def find_outside(
        self, identity: AgentIdentity, entry: RiskViewEntry | None, actions: Sequence[str], scopes: Sequence[str]
    ) -> tuple[str, ...]:
        """Return those of *actions* that neither the agent's capabilities nor its known *scopes* cover."""
        declared = self.registered(*identity)
        if declared is None and entry is not None:
            declared = decode_capabilities(entry.summary.capabilities)
        if declared is None:
            return ()
        of_scopes = scope_capabilities(scopes, self.scope_actions) if self.scope_actions else ()
        return tuple(
            action for action in actions if not (covers(declared, action) or (of_scopes and covers(of_scopes, action)))
        )


class AccessRequest(NamedTuple):
    """Request of an agent for a token or a call.

    Attributes:
        tenant, issuer, agent_id: whose request; all may be "".
        scopes: requested scopes, if any.
        refresh: a refresh token is used.
        ancestors: the earlier actors of the delegation chain, nearest first.
        approvable: whether this request may lead to an approval.
        caller: name of a caller in the settings, `hook:NAME`, or `gateway:ISSUER` of the agent's token.
        actions: names of actions that must be inside of the agent's declared boundary; those that are also `scopes` are
            held or refused one by one.
        held: scopes that the agent is known to have, for its boundary.
        spent: approvals for one use that were spent for this request.
    """

    tenant: str
    issuer: str
    agent_id: str
    scopes: tuple[str, ...] = ()
    refresh: bool = False
    ancestors: tuple[str, ...] = ()
    approvable: bool = True
    caller: str = ""
    actions: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    spent: tuple[Intervention, ...] = ()

    @property
    def identity(self) -> AgentIdentity:
        return self.tenant, self.issuer, self.agent_id


class Verdict(msgspec.Struct, frozen=True):
    """Answer of the policy to an access request.

    Attributes:
        allow: what the server is to do. Always true in shadow mode.
        would_allow: result of the policy in any mode.
        enforced: mode is `enforce`.
        level: risk level that was used; a pin or an ancestor may change the measured one.
        reason: code, see `VERDICT_REASONS`.
        max_token_lifetime_s: limit of a new token's lifetime; None = none (shadow mode).
        scopes: the requested scopes that may be granted; None = all of them.
        step_up: a person must approve the scopes in `held_scopes` first.
        held_scopes: requested scopes that wait for a person.
        refused_scopes: requested scopes that the level never gets.
        refresh_allowed: whether a refresh token may be issued or used.
        revoke: existing tokens are to be revoked.
        policy_version: of the book.
        stale: the agent's risk may be out of date.
        rule: policy rule that matched, if any.
        outside: requested actions outside of the agent's declared boundary that are not approved.
    """

    allow: bool
    would_allow: bool
    enforced: bool
    level: RiskLevel
    reason: str
    max_token_lifetime_s: int | None
    scopes: tuple[str, ...] | None
    step_up: bool
    held_scopes: tuple[str, ...]
    refused_scopes: tuple[str, ...]
    refresh_allowed: bool
    revoke: bool
    policy_version: str
    stale: bool = False
    rule: str = ""
    outside: tuple[str, ...] = ()

    @property
    def narrowed(self) -> bool:
        """True if fewer scopes than requested are granted; a server that cannot grant fewer has to deny."""
        return self.scopes is not None


ALL_SCOPES = "*"
"""Pattern in approvals for every scope. No scope has this name."""

ALLOWED = "allowed"
LEVEL_CLAIM = "risk_level"
"""Claim of tokens with the level that is used, if a hook writes claims."""

DENIED_BY_LEVEL = "risk_level"
REFRESH_REFUSED = "refresh_refused"
STEP_UP = "step_up_required"
SCOPES_REFUSED = "scopes_refused"
STALE = "stale"
NOT_NARROWED = "scopes_not_narrowable"
NOT_SHORTENED = "lifetime_not_supported"
UNDECIDED = "undecided"
UNUSUAL_CALL = "unusual_call"
OUTSIDE_BOUNDARY = "outside_boundary"

VERDICT_REASONS = {
    ALLOWED: "the policy allows it",
    DENIED_BY_LEVEL: "the policy of the agent's risk level denies tokens",
    REFRESH_REFUSED: "the policy of the agent's risk level allows no refresh",
    STEP_UP: "every requested scope requires a person's approval",
    SCOPES_REFUSED: "the policy of the agent's risk level grants none of the requested scopes",
    STALE: "the agent's risk may be out of date, and the hook or gateway is set to deny such requests",
    NOT_NARROWED: "some scopes are not granted, and the requesting server cannot leave them out",
    NOT_SHORTENED: "the requesting server cannot issue tokens of the lifetime that the policy allows",
    UNUSUAL_CALL: "the call is more anomalous than nearly all calls of honest agents, and requires a person's approval",
    OUTSIDE_BOUNDARY: "no capability that the agent declares covers the action; the setting `outside_boundary` states "
    "whether a person may approve it",
    UNDECIDED: "the request could not be decided because of an internal error, or because it cannot be read",
}
"""Reason codes of verdicts, which may leave the service, with explanations, which do not."""


def deny(verdict: Verdict, reason: str) -> Verdict:
    """Turn the verdict into a denial because what it allows cannot be done; unchanged in shadow mode."""
    if not (verdict.enforced and verdict.allow):
        return verdict
    return msgspec.structs.replace(verdict, allow=False, would_allow=False, reason=reason, scopes=None)


def evaluate_policy(
    question: AccessRequest,
    effective_policy: EffectivePolicy,
    level: RiskLevel,
    version: str,
    *,
    approved: Collection[str] = (),
    stale: bool = False,
    outside: tuple[str, ...] = (),
    outside_boundary: OutsideBoundary = "record",
) -> Verdict:
    """Return the verdict of the policy on a request."""
    policy = effective_policy.table[level]
    refused, held_scopes = _classify_scopes(question, policy, approved)
    if outside and outside_boundary != "record":
        more = tuple(scope for scope in question.scopes if scope in outside and scope not in refused)
        if outside_boundary == "deny":
            refused = (*refused, *more)
            held_scopes = tuple(scope for scope in held_scopes if scope not in more)
        else:
            held_scopes = tuple(dict.fromkeys((*held_scopes, *more)))
    left_out = {*refused, *held_scopes}
    passing_scopes = tuple(scope for scope in question.scopes if scope not in left_out)
    step_up = bool(held_scopes) or (
        policy.step_up
        and not question.scopes
        and not all(_is_approved(approved, pattern) for pattern in policy.step_up_scopes)
    )
    reason = _verdict_reason(question, policy, passing_scopes, refused, step_up)
    if reason in (STEP_UP, SCOPES_REFUSED) and left_out and left_out <= set(outside):
        reason = OUTSIDE_BOUNDARY
    narrowed = bool(refused or held_scopes) and reason == ALLOWED
    enforced = effective_policy.enforced
    return Verdict(
        allow=reason == ALLOWED or not enforced,
        would_allow=reason == ALLOWED,
        enforced=enforced,
        level=level,
        reason=reason,
        max_token_lifetime_s=policy.max_token_lifetime_s if enforced else None,
        scopes=passing_scopes if narrowed and enforced else None,
        step_up=step_up and policy.allow,
        held_scopes=held_scopes,
        refused_scopes=refused,
        refresh_allowed=policy.refresh_allowed or not enforced,
        revoke=policy.revoke and enforced,
        policy_version=version,
        stale=stale,
        rule=effective_policy.rule,
        outside=outside,
    )


def _classify_scopes(
    question: AccessRequest, policy: LevelTokenPolicy, approved: Collection[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the requested scopes that the policy refuses, and those that wait for a person."""
    allowed, held = policy.allowed_scopes, policy.step_up_scopes if policy.step_up else ()
    refused = tuple(scope for scope in question.scopes if allowed is not None and not _scope_matches(allowed, scope))
    left_out = frozenset(refused)
    return refused, tuple(
        scope
        for scope in question.scopes
        if scope not in left_out and _scope_matches(held, scope) and not _is_approved(approved, scope)
    )


def _verdict_reason(
    question: AccessRequest,
    policy: LevelTokenPolicy,
    passing_scopes: Sequence[str],
    refused: Sequence[str],
    step_up: bool,
) -> str:
    if not policy.allow:
        return DENIED_BY_LEVEL
    if question.refresh and not policy.refresh_allowed:
        return REFRESH_REFUSED
    if passing_scopes:
        return ALLOWED
    # A request without scopes gets those that its client is registered for, which are unknown here, so it is held
    # only if all scopes need a person.
    if step_up and (question.scopes or "*" in policy.step_up_scopes):
        return STEP_UP
    return SCOPES_REFUSED if refused else ALLOWED


def _is_approved(approved: Collection[str], scope: str) -> bool:
    """Return whether exactly this scope was approved: a scope in a request must not become a pattern."""
    return scope in approved or ALL_SCOPES in approved


def _scope_matches(patterns: Collection[str], scope: str) -> bool:
    """Match a scope in any case, because `Files.ReadWrite` allows writing, too."""
    return any(fnmatchcase(scope.lower(), pattern.lower()) for pattern in patterns)


class DecisionContext(NamedTuple):
    """Inputs of a verdict, for logs, claims and audit events."""

    entry: RiskViewEntry | None  # None = never seen
    effective_level: RiskLevel
    ancestor: str  # the critical ancestor that raised the level; "" = none


class PolicyEvaluator:
    """Evaluates requests against the policy, with risk and interventions from memory."""

    def __init__(
        self,
        view: RiskView,
        policy: LivePolicy,
        interventions: ActiveInterventions,
        stale: Callable[[int | None], bool],
        now_ms: Callable[[], int],
        boundary: DeclaredBoundary = DeclaredBoundary(),  # noqa: B008 - it has no state
    ) -> None:
        self.view = view
        self.boundary = boundary
        self.policy = policy
        self.interventions = interventions
        self._is_stale = stale
        self._now_ms = now_ms
        self.critical_ancestors: Mapping[AgentIdentity, str] = {}
        """Critical ancestor by the agent it delegated to; updated by a chore, empty if no policy needs it."""

    def evaluate(self, question: AccessRequest) -> tuple[Verdict, DecisionContext]:
        """Return the verdict on a request, and its inputs."""
        book = self.policy.book
        context = self.context_of(question, book)
        entry = context.entry
        agent_type, concern = ("", "") if entry is None else (entry.summary.agent_type, entry.summary.concern)
        effective_policy = book.effective_policy(*question.identity, agent_type, concern)
        now_ms = self._now_ms()
        approved = self.interventions.approved_scopes(
            question.identity, now_ms, int(context.effective_level), question.spent
        )
        stale = self._is_stale(None if entry is None else entry.partition)
        outside: tuple[str, ...] = ()
        if question.actions:
            found = self.boundary.find_outside(question.identity, entry, question.actions, question.held)
            outside = tuple(action for action in found if action not in approved)
        verdict = evaluate_policy(
            question,
            effective_policy,
            context.effective_level,
            book.version,
            approved=approved,
            stale=stale,
            outside=outside,
            outside_boundary=self.boundary.outside,
        )
        return verdict, context

    def context_of(self, question: AccessRequest, book: PolicyBook) -> DecisionContext:
        """Return the risk of the requesting agent, and the pins and ancestors that determine its level."""
        full = question.identity
        entry = self.view.get(*full)
        measured = RiskLevel.UNKNOWN if entry is None else RiskLevel(entry.summary.level)
        pin = self.interventions.active_pin(full, self._now_ms())
        if pin is not None:
            return DecisionContext(entry, RiskLevel(pin.level), "")
        ancestor = self.critical_ancestor(question, book)
        acted_on = max(measured, book.descendants) if ancestor else measured
        return DecisionContext(entry, acted_on, ancestor if acted_on > measured else "")

    def critical_ancestor(self, question: AccessRequest, book: PolicyBook) -> str:
        """Return an earlier actor at `critical`, from the request or already known; "" if none, or the policy ignores
        them.

        Known ancestors count, too, because an attacker omits the chain if possible.
        """
        if book.descendants <= RiskLevel.LOW:
            return ""
        if ancestor := self.critical_ancestors.get(question.identity):
            return ancestor
        for ancestor in question.ancestors:
            if self.effective_level(question.tenant, question.issuer, ancestor) == RiskLevel.CRITICAL:
                return ancestor
        return ""

    def effective_level(self, tenant: str, issuer: str, agent_id: str) -> RiskLevel:
        """Return the level that is used for one agent alone."""
        full = (tenant, issuer, agent_id)
        if (pin := self.interventions.active_pin(full, self._now_ms())) is not None:
            return RiskLevel(pin.level)
        entry = self.view.get(*full)
        return RiskLevel.UNKNOWN if entry is None else RiskLevel(entry.summary.level)

    def evaluate_agent(self, name: AgentName, agent_type: str, measured: RiskLevel, concern: str = "") -> Verdict:
        """Return the verdict on an agent without a request, for actuators, which limit what the agent may request."""
        book, full, level = self.policy.book, name.identity, measured
        question = AccessRequest(*full)
        if (pin := self.interventions.active_pin(full, self._now_ms())) is not None:
            level = RiskLevel(pin.level)
        elif self.critical_ancestor(question, book):
            level = max(measured, book.descendants)
        return evaluate_policy(question, book.effective_policy(*full, agent_type, concern), level, book.version)
