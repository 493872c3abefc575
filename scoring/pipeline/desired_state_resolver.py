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
from ..records.commits import OutboxRow
from ..records.containment import Actuation
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
        name = asked.name
        row = await asyncio.to_thread(self._store.agents.find_newest, name)
        pin = self._verdicts.interventions.active_pin(name.identity, self._now_ms())
        decision_id = asked.decision_id if row is None else row.decision_id or asked.decision_id
        desired = derive_desired_state(
            name,
            asked.agent_type if row is None else row.agent_type,
            self._evaluate_policy(name, row, asked),
            decision_id if pin is None else pin.intervention_id,
            caused_ms=asked.caused_ms if pin is None else 0,
            decided_ms=asked.decided_ms,
            every_level=every_level,
        )
        if not desired.revoke:
            return desired
        return replace(desired, principals=await asyncio.to_thread(self._recent_principals, name))

    def _evaluate_policy(self, name: AgentName, row: AgentSummary | None, asked: DesiredState) -> Verdict:
        measured = RiskLevel.UNKNOWN if row is None else RiskLevel(row.level)
        agent_type, concern = (asked.agent_type, "") if row is None else (row.agent_type, row.concern)
        return self._verdicts.evaluate_agent(name, agent_type, measured, concern)

    def _recent_principals(self, name: AgentName) -> tuple[str, ...]:
        since_ms = self._now_ms() - PRINCIPAL_WINDOW_MS
        edges = self._store.edges.find(
            [name.identity], outgoing=True, kinds=("acts_for",), since_ms=since_ms, limit=MAX_PRINCIPALS
        )
        return tuple(sorted({edge.target for edge in edges}))

    async def enqueue_reconciliation(self, names: Iterable[AgentName], target: str = "") -> int:
        """Enqueue a reconciliation of the agents; return their number. Raises Unavailable."""
        rows = [self._reconciliation_row(name, target) for name in names]
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
        lowered = (actuation.agent for actuation in actuations if _is_lowered_or_pending(actuation))
        return [*(agent.name for agent in agents), *lowered]

    def _reconciliation_row(self, name: AgentName, target: str) -> OutboxRow:
        """Return the outbox row of a reconciliation; the desired state is resolved when it is delivered."""
        full = name.identity
        entry = self._verdicts.view.get(*full)
        measured = RiskLevel.UNKNOWN if entry is None else RiskLevel(entry.summary.level)
        agent_type, concern = ("", "") if entry is None else (entry.summary.agent_type, entry.summary.concern)
        verdict = self._verdicts.evaluate_agent(name, agent_type, measured, concern)
        decision_id = "" if entry is None else entry.summary.decision_id
        desired = derive_desired_state(name, agent_type, verdict, decision_id, caused_ms=0, decided_ms=self._now_ms())
        return build_action_row(f"action-{self._new_id()}", desired, target)


def _is_lowered_or_pending(actuation: Actuation) -> bool:
    return bool(actuation.original) or actuation.status in ("wanted", "applied", "failed")
