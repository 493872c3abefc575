"""Containment: approvals and pins, the blast radius of agents, and actuations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import msgspec

from trustwatch.ingest.described import FLAT, AgentId, RiskScore, member
from trustwatch.scoring.engine.risk_levels import decayed_score
from trustwatch.scoring.records.agents import AgentEdge, AgentName, RiskLevel
from trustwatch.scoring.records.containment import Actuation, Intervention, InterventionKind
from trustwatch.scoring.store.blast_radius import (
    ACTS_FOR,
    MAX_DEPTH,
    AgentGraph,
    BlastRadius,
    find_agent_graph,
    find_blast_radius,
)
from trustwatch.scoring.store.database import Page

from ..http.agent_lookup import AgentResolver, AgentSelector, not_found_error, visible_tenants
from ..http.auth.callers import AuthenticatedCaller
from ..http.problems import invalid_value_error
from ..http.runtime import Runtime
from ..http.separation_of_duties import Attribution, attribute_to_caller, check_reason
from ..http.store_executor import StoreExecutor
from ..settings.access_settings import ANY_NAME
from .approval_workflow import ApprovalWorkflow, without_path_scopes

DAY_S, DAY_MS = 86_400, 86_400_000
MIN_VALID_S, MAX_VALID_S = 60, 30 * DAY_S
"""The shortest and the longest time for which a pin or an approval holds."""
DEFAULT_VALID_S = 3_600.0
DEFAULT_DAYS = 7.0
"""Edges seen in the last so many days make up a blast radius."""
EdgeList = list[AgentEdge]  # `list` is a method of the service
MAX_ACTUATIONS_READ = 500
"""Newest actuations from which containment times are computed."""

PINNABLE_LEVELS = {level.label: level for level in RiskLevel if level > RiskLevel.UNKNOWN}


class BlastRadiusReport(NamedTuple):
    """Agents and principals that an agent reached."""

    name: AgentName
    level: Annotated[RiskLevel, member("level that policy acts on", "high", level=True)]
    descendants_level: Annotated[
        RiskLevel, member("lowest level of descendants of a `critical` agent", "medium", level=True)
    ]
    radius: Annotated[BlastRadius, FLAT]


class ActingAgent(NamedTuple):
    """One agent that acts for a principal. `pair_risk` is its risk while it did, decayed until now."""

    agent_id: AgentId
    level: Annotated[RiskLevel, member("level of the agent itself", "high", level=True)]
    risk_score: RiskScore
    last_ms: Annotated[int, member("when it last acted for the principal")]
    pair_risk: Annotated[RiskScore, member("risk while it acted for this principal, decayed")]


class ContainmentTimes(NamedTuple):
    """Times in seconds from an event until the authorization server confirmed the resulting state."""

    confirmed: int
    p50_s: float
    p99_s: float
    failed: int
    waiting: int


@dataclass(eq=False, repr=False)
class ContainmentService:
    """Manages pins, approvals and actuations, and reports blast radius and risk of principals. Use it from one event
    loop.
    """

    _runtime: Runtime
    _approvals: ApprovalWorkflow
    _agents: AgentResolver
    _executor: StoreExecutor

    # Pins and approvals.

    async def list(
        self,
        caller: AuthenticatedCaller,
        kind: InterventionKind | None = None,
        status: str | None = None,
        agent: AgentSelector | None = None,
        tenant: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Intervention]:
        """List pins and approvals, newest first; only those of *agent* if it is given. An unknown agent has none.

        Raises TenantNotAllowed, ProblemError, Unavailable.
        """
        tenants, name = visible_tenants(caller, tenant), None
        if agent is not None:
            name = await self._agents.find_name(caller, agent)
            if name is None:
                return Page([], None)
        return await self._executor(self._runtime.store.interventions.page, tenants, kind, status, name, limit, cursor)

    async def get(self, caller: AuthenticatedCaller, approval_id: str) -> Intervention:
        """Return an approval. Raises ProblemError (404), Unavailable."""
        approval = await self.find(caller, approval_id)
        if approval is None or approval.kind != "approval":
            raise not_found_error("approval")
        return approval

    async def find(self, caller: AuthenticatedCaller, intervention_id: str) -> Intervention | None:
        """Return an approval or pin, or None if the caller may see none of that id. Raises Unavailable."""
        return await self._executor(
            self._runtime.store.interventions.get, intervention_id, visible_tenants(caller, None)
        )

    async def approve(
        self,
        caller: AuthenticatedCaller,
        approval_id: str,
        why: str,
        valid_s: float = DEFAULT_VALID_S,
        *,
        trust_path: bool = False,
        one_use: bool = False,
    ) -> Intervention:
        """Allow the scopes for this agent for *valid_s* seconds from now.

        Raises ProblemError, Unavailable.
        """
        _check_validity(valid_s)
        approval, person = await self._decidable_approval(caller, approval_id, why)
        if trust_path and without_path_scopes(approval.scopes) == approval.scopes:
            raise invalid_value_error("trust_path", "must be false: the approval is not about a new access path")
        if trust_path and one_use:
            raise invalid_value_error("trust_path", "must be false with one_use: a path is trusted for a time")
        return await self._approvals.decide(
            approval, person, approve=True, valid_s=valid_s, trust_path=trust_path, one_use=one_use
        )

    async def reject(self, caller: AuthenticatedCaller, approval_id: str, why: str) -> Intervention:
        """Reject a request; the next one that needs approval creates a new one. Raises the same errors as `approve`."""
        approval, person = await self._decidable_approval(caller, approval_id, why)
        return await self._approvals.decide(approval, person, approve=False, valid_s=0.0)

    async def withdraw(self, caller: AuthenticatedCaller, approval_id: str, why: str) -> Intervention:
        """End an approval before it expires. Raises the same errors as `approve`."""
        approval, person = await self._decidable_approval(caller, approval_id, why)
        return await self._approvals.end_intervention(approval, person)

    async def _decidable_approval(
        self, caller: AuthenticatedCaller, approval_id: str, why: str
    ) -> tuple[Intervention, Attribution]:
        check_reason("why", why)
        approval = await self.get(caller, approval_id)
        return approval, self._attribute(caller, approval.agent, why)

    async def pin(
        self,
        caller: AuthenticatedCaller,
        agent: AgentSelector,
        level: str,
        why: str,
        valid_s: float = DEFAULT_VALID_S,
    ) -> Intervention:
        """Pin the level that the policy uses. An agent that was never seen must be named in full.

        Raises TenantNotAllowed, ProblemError, Unavailable.
        """
        if level not in PINNABLE_LEVELS:
            raise invalid_value_error("level", f"must be one of {', '.join(PINNABLE_LEVELS)}")
        check_reason("why", why)
        _check_validity(valid_s)
        name = self._agents.name(caller, agent)
        person = self._attribute(caller, name, why)
        return await self._approvals.pin(name, PINNABLE_LEVELS[level], person, valid_s)

    async def unpin(self, caller: AuthenticatedCaller, agent: AgentSelector, why: str) -> Intervention:
        """End the pin of an agent, so that the measured level is used. Raises the same errors as `pin`, and 404 without
        a pin.
        """
        check_reason("why", why)
        name = self._agents.name(caller, agent)
        pin = await self._approvals.unpin(name, self._attribute(caller, name, why))
        if pin is None:
            raise not_found_error("pin")
        return pin

    def _attribute(self, caller: AuthenticatedCaller, agent: AgentName, why: str) -> Attribution:
        """Return the caller as the author of a decision about *agent*. Raises ProblemError (403) if it is the agent."""
        return attribute_to_caller(self._runtime.settings.actuators, caller, agent, why)

    # Blast radius, and the risk of principals.

    async def blast_radius(
        self, caller: AuthenticatedCaller, agent: AgentSelector, days: float = DEFAULT_DAYS, depth: int = MAX_DEPTH
    ) -> BlastRadiusReport:
        """Return the agents that it reached, directly or through others, with their levels, and the principals it acted
        for.

        Raises TenantNotAllowed, ProblemError, Unavailable.
        """
        name, runtime = self._agents.name(caller, agent), self._runtime
        radius = await self._executor(
            find_blast_radius,
            runtime.store.edges,
            name,
            self._measured_level,
            since_ms=self._days_ago_ms(days),
            depth=depth,
        )
        level = runtime.policy_evaluator.effective_level(name.tenant, name.issuer, name.agent_id)
        agents = [agent._replace(risk=self._decayed_risk(agent.risk, agent.risk_ms)) for agent in radius.agents]
        radius = radius._replace(agents=agents, principals=self._edges_now(radius.principals))
        return BlastRadiusReport(name, level, runtime.live_policy.book.descendants, radius)

    async def agent_graph(
        self, caller: AuthenticatedCaller, agent: AgentSelector, since_ms: int = 0, until_ms: int = 0
    ) -> AgentGraph:
        """Return the agents that led to it and that it reached, by edges of a period; by default of the last
        `DEFAULT_DAYS`.

        Raises the same errors as `blast_radius`.
        """
        name = self._agents.name(caller, agent)
        graph = await self._executor(
            find_agent_graph,
            self._runtime.store.edges,
            name,
            self._measured_level,
            since_ms=since_ms or self._days_ago_ms(DEFAULT_DAYS),
            until_ms=until_ms,
        )
        return graph._replace(edges=self._edges_now(graph.edges))

    async def principal_risk(
        self,
        caller: AuthenticatedCaller,
        principal_id: str,
        tenant: str,
        issuer: str,
        days: float = DEFAULT_DAYS,
    ) -> Sequence[ActingAgent]:
        """Return the agents that acted for a principal. The riskiest is first and determines its risk. The principal is
        looked up by pseudonym and plain name. Raises TenantNotAllowed, ProblemError, Unavailable.
        """
        visible_tenants(caller, tenant)
        alias = self._runtime.principal_alias
        names = {principal_id} if alias is None else {principal_id, alias(tenant, principal_id)}
        principals = [(tenant, issuer, name) for name in sorted(names)]
        edges = await self._executor(
            self._runtime.store.edges.find,
            principals,
            outgoing=False,
            kinds=(ACTS_FOR,),
            since_ms=self._days_ago_ms(days),
            principals=True,
        )
        if not edges:
            raise not_found_error("principal")
        agents = []
        for edge in edges:
            entry = self._runtime.risk_view.get(edge.tenant, edge.issuer, edge.source)
            level = RiskLevel.UNKNOWN if entry is None else RiskLevel(entry.summary.level)
            risk_score = 0.0 if entry is None else round(entry.summary.risk_score, 4)
            pair_risk = self._decayed_risk(edge.risk, edge.risk_ms)
            agents.append(ActingAgent(edge.source, level, risk_score, edge.last_ms, pair_risk))
        return sorted(agents, key=lambda agent: (-agent.level, -agent.risk_score, agent.agent_id))

    def _edges_now(self, edges: Iterable[AgentEdge]) -> EdgeList:
        return [msgspec.structs.replace(edge, risk=self._decayed_risk(edge.risk, edge.risk_ms)) for edge in edges]

    def _decayed_risk(self, risk: float, at_ms: int) -> float:
        half_life_ms = self._runtime.settings.risk.half_life_s * 1000.0
        return round(decayed_score(risk, max(0, self._runtime.now_ms() - at_ms), half_life_ms), 4)

    def _measured_level(self, name: AgentName) -> RiskLevel | None:
        entry = self._runtime.risk_view.get(name.tenant, name.issuer, name.agent_id)
        return None if entry is None else RiskLevel(entry.summary.level)

    def _days_ago_ms(self, days: float) -> int:
        return self._runtime.now_ms() - int(days * DAY_MS)

    # Actuations.

    async def actuations(
        self,
        caller: AuthenticatedCaller,
        target: str | None = None,
        agent: AgentSelector | None = None,
        tenant: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Actuation]:
        """List what actuators did and will do, last changed first. Raises the same errors as `list`.

        An agent that was never above `low` has none. One that was pinned and never seen must be named in full.
        """
        tenants, name = visible_tenants(caller, tenant), None
        if agent is not None:
            name = await self._agents.find_name(caller, agent)
            if name is None:
                return Page([], None)
        return await self._executor(self._runtime.store.actuations.page, tenants, name, target, limit, cursor)

    def informed_actuators(self, name: AgentName) -> Sequence[str]:
        """Return the authorization servers that restrict an agent. Without one, issued tokens are not revoked."""
        return [
            actuator.name
            for actuator in self._runtime.settings.actuators
            if name.issuer in actuator.issuers and (name.tenant in actuator.tenants or ANY_NAME in actuator.tenants)
        ]

    async def containment_times(self, caller: AuthenticatedCaller) -> ContainmentTimes:
        """Return the times from decisions to desired states at the server, for states that events led to.

        Raises the same errors as `list`.
        """
        actuations = (await self.actuations(caller, limit=MAX_ACTUATIONS_READ)).items
        times = sorted(
            (actuation.confirmed_ms - actuation.caused_ms) / 1000
            for actuation in actuations
            if actuation.caused_ms and actuation.confirmed_ms
        )
        statuses = [actuation.status for actuation in actuations]
        p50_s, p99_s = _quantile(times, 0.5), _quantile(times, 0.99)
        return ContainmentTimes(len(times), p50_s, p99_s, statuses.count("failed"), statuses.count("wanted"))

    async def reconcile(self, caller: AuthenticatedCaller, target: str, tenant: str | None = None) -> int:
        """Compare every agent that is restricted, or should be, with a server. Return their number.

        Raises TenantNotAllowed, ProblemError, Unavailable.
        """
        names = [actuator.name for actuator in self._runtime.settings.actuators]
        desired_state = self._runtime.desired_state
        if target not in names or desired_state is None:
            configured = ", ".join(names) or "none: `actuators` of the settings is empty"
            raise not_found_error(f"actuator; configured are {configured}")
        return await desired_state.enqueue_full_reconciliation(target, visible_tenants(caller, tenant))


def _quantile(times: Sequence[float], share: float) -> float:
    return times[max(0, math.ceil(len(times) * share) - 1)] if times else math.nan


def _check_validity(valid_s: float) -> None:
    if not MIN_VALID_S <= valid_s <= MAX_VALID_S:
        raise invalid_value_error("valid_s", f"must be from {MIN_VALID_S} to {MAX_VALID_S} seconds")
