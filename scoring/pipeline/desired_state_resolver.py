"""Current desired states of agents, and the agents that actuators have to reconcile.

A row of the outbox requests a reconciliation. Before its delivery people may pin the agent, the policy may change, and
time passes, so a delivery resolves the state here and never applies an outdated one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import chain

from msgspec.structs import replace

from trustwatch.ingest.timestamps import DAY_MS

from ..delivery.actuators.desired_state import DesiredState, build_action_row, derive_desired_state
from ..policy.access_evaluation import PolicyEvaluator, Verdict
from ..records.agents import AgentName, AgentSummary, RiskLevel
from ..store.database import MAX_PAGE, Tenants, iterate_pages
from ..store.sql_store import SqlStore

PRINCIPAL_WINDOW_MS = 30 * DAY_MS
"""Age up to which a person counts as an agent's principal: revoking the agent's tokens also ends their consents."""

MAX_PRINCIPALS = 200
ENQUEUE_BATCH = 500
"""Rows in one transaction, so that commits of the pipeline can run in between."""

_ELEVATED = (int(RiskLevel.MEDIUM), int(RiskLevel.HIGH), int(RiskLevel.CRITICAL))


class DesiredStateResolver:
    """Resolves desired states. For one event loop; the store is queried in threads."""

    def __init__(
        self,
        store: SqlStore,
        verdicts: PolicyEvaluator,
        now_ms: Callable[[], int],
        new_id: Callable[[], str],
        *,
        every_level: bool = False,
    ) -> None:
        self._looked_at = tuple(map(int, RiskLevel)) if every_level else _ELEVATED
        self._store = store
        self._verdicts = verdicts
        self._now_ms = now_ms
        self._new_id = new_id

    async def resolve(self, asked: DesiredState, *, every_level: bool = False) -> DesiredState:
        """Return the current desired state of the agent of *asked*. Raises Unavailable.

        *every_level*: whether the actuator also acts at `low` and `unknown`.
        """
        name, now_ms = asked.name, self._now_ms()
        row = await asyncio.to_thread(self._store.agents.find_newest, name)
        pin = self._verdicts.interventions.active_pin(name.identity, now_ms)
        agent_type, verdict = self._evaluate_policy(name, row, asked.agent_type)
        decision_id = asked.decision_id if row is None else row.decision_id or asked.decision_id
        desired = derive_desired_state(
            name,
            agent_type,
            verdict,
            decision_id if pin is None else pin.intervention_id,
            caused_ms=asked.caused_ms if pin is None else 0,
            decided_ms=asked.decided_ms,
            every_level=every_level,
        )
        if not desired.revoke:
            return desired
        edges = await asyncio.to_thread(
            self._store.edges.find,
            [name.identity],
            outgoing=True,
            kinds=("acts_for",),
            since_ms=now_ms - PRINCIPAL_WINDOW_MS,
            limit=MAX_PRINCIPALS,
        )
        return replace(desired, principals=tuple(sorted({edge.target for edge in edges})))

    def _evaluate_policy(self, name: AgentName, row: AgentSummary | None, agent_type: str) -> tuple[str, Verdict]:
        """Return the type of an agent, which is *agent_type* if the agent is unknown, and the verdict on it."""
        level, concern = RiskLevel.UNKNOWN, ""
        if row is not None:
            agent_type, level, concern = row.agent_type, RiskLevel(row.level), row.concern
        return agent_type, self._verdicts.evaluate_agent(name, agent_type, level, concern)

    async def enqueue_reconciliation(self, names: Iterable[AgentName], target: str = "") -> int:
        """Enqueue a reconciliation of the agents; return their number. Raises Unavailable.

        The desired states are resolved when the rows are delivered.
        """
        rows = []
        for name in names:
            entry = self._verdicts.view.get(*name.identity)
            row = None if entry is None else entry.summary
            agent_type, verdict = self._evaluate_policy(name, row, "")
            decision_id, now_ms = "" if row is None else row.decision_id, self._now_ms()
            desired = derive_desired_state(name, agent_type, verdict, decision_id, caused_ms=0, decided_ms=now_ms)
            rows.append(build_action_row(f"action-{self._new_id()}", desired, target))
        for start in range(0, len(rows), ENQUEUE_BATCH):
            await asyncio.to_thread(self._store.outbox.enqueue, rows[start : start + ENQUEUE_BATCH])
        return len(rows)

    async def enqueue_full_reconciliation(self, target: str = "", tenants: Tenants = None) -> int:
        """Enqueue a reconciliation of every agent that is, or may have to be, restricted. Raises Unavailable.

        These are the agents at `medium` and above (all if an actuator acts at every level), those that are pinned or
        that a critical agent delegated to, and those with a stored actuation that is active or not completed, at any
        level.
        """
        in_memory = self._verdicts.interventions.pinned_agents(self._now_ms())
        in_memory += [self._store.edges.agent_name(*full) for full in self._verdicts.critical_ancestors]
        mine = [name for name in in_memory if tenants is None or name.tenant in tenants]
        affected = await asyncio.to_thread(self._affected_agents, target, tenants)
        names = {name.identity: name for name in chain(mine, affected)}
        return await self.enqueue_reconciliation(names.values(), target)

    def _affected_agents(self, target: str, tenants: Tenants) -> list[AgentName]:
        agents = self._store.agents.iterate_newest(self._looked_at, tenants)
        actuations = iterate_pages(
            lambda cursor: self._store.actuations.page(tenants, target=target or None, limit=MAX_PAGE, cursor=cursor)
        )
        waiting = ("wanted", "applied", "failed")
        lowered = (actuation.agent for actuation in actuations if actuation.original or actuation.status in waiting)
        return [*(agent.name for agent in agents), *lowered]
