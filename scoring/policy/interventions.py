"""Interventions of people in memory: active pins and approvals, for verdicts that touch no database.

Every process that answers has a copy that follows the store; a process that makes a change applies it at once
(`apply_changes`). Expiry needs no message: each entry has the time of its end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from ..records.agents import AgentIdentity, AgentName, RiskLevel
from ..records.containment import OPEN_INTERVENTION_STATUSES, Intervention

CHANGES_OVERLAP_MS = 30_000
"""Overlap of consecutive queries for changes: clocks differ, and transactions end in another order."""


class ActiveInterventions:
    """Active interventions, by agent. For use by one thread."""

    def __init__(self) -> None:
        self._by_id: dict[str, Intervention] = {}
        self._by_agent: dict[AgentIdentity, dict[str, Intervention]] = {}
        self._pending_by_tenant: Counter[str] = Counter()
        self._one_use_ids: set[str] = set()
        self._latest_ms = 0

    @property
    def since_ms(self) -> int:
        """Time from which to query changes."""
        return max(0, self._latest_ms - CHANGES_OVERLAP_MS)

    def __len__(self) -> int:
        return len(self._by_id)

    def apply_changes(self, changed: Iterable[Intervention]) -> list[Intervention]:
        """Apply changed interventions, in any order; return those that were new here."""
        news = []
        for intervention in changed:
            stored = self._by_id.get(intervention.intervention_id)
            self._latest_ms = max(self._latest_ms, intervention.updated_ms)
            if stored is not None and (
                stored == intervention
                or (stored.updated_ms > intervention.updated_ms and intervention.status in OPEN_INTERVENTION_STATUSES)
            ):
                continue  # an end is final, by any clock
            if stored is None and intervention.status not in OPEN_INTERVENTION_STATUSES:
                continue
            news.append(intervention)
            self._index(intervention)
        return news

    def _index(self, intervention: Intervention) -> None:
        full, tenant = intervention.agent.identity, intervention.agent.tenant
        mine = self._by_agent.setdefault(full, {})
        self._count_pending(tenant, (intervention.status == "pending") - self.is_pending(intervention.intervention_id))
        if intervention.status == "approved_once":
            self._one_use_ids.add(intervention.intervention_id)
        else:
            self._one_use_ids.discard(intervention.intervention_id)
        if intervention.status in OPEN_INTERVENTION_STATUSES:
            self._by_id[intervention.intervention_id] = mine[intervention.intervention_id] = intervention
            return
        self._by_id.pop(intervention.intervention_id, None)
        mine.pop(intervention.intervention_id, None)
        if not mine:
            del self._by_agent[full]

    def _count_pending(self, tenant: str, more: int) -> None:
        self._pending_by_tenant[tenant] += more
        if not self._pending_by_tenant[tenant]:
            del self._pending_by_tenant[tenant]

    def remove_agent(self, full: AgentIdentity) -> None:
        """Remove an agent's pins and approvals after an erasure."""
        for intervention_id, intervention in self._by_agent.pop(full, {}).items():
            self._count_pending(intervention.agent.tenant, -(intervention.status == "pending"))
            self._one_use_ids.discard(intervention_id)
            del self._by_id[intervention_id]

    def active_pin(self, full: AgentIdentity, now_ms: int) -> Intervention | None:
        """Return the active pin of an agent; the newest if there are several."""
        if full not in self._by_agent:  # nearly always, and every answer calls this
            return None
        return next(iter(self.active_pins(full, now_ms)), None)

    def active_pins(self, full: AgentIdentity, now_ms: int) -> list[Intervention]:
        """Return the pins of an agent that have not ended, the active one first."""
        mine = self._by_agent.get(full, {}).values()
        pins = [pin for pin in mine if pin.kind == "pin" and pin.expires_ms > now_ms]
        return sorted(pins, key=lambda pin: (pin.asked_ms, pin.intervention_id), reverse=True)

    def pinned_agents(self, now_ms: int) -> list[AgentName]:
        """Return the agents with an active pin."""
        pins = (pin for pin in self._by_id.values() if pin.kind == "pin" and pin.expires_ms > now_ms)
        return list({pin.agent.key: pin.agent for pin in pins}.values())

    def pinned_levels(self, now_ms: int) -> dict[AgentIdentity, RiskLevel]:
        """Return the level of the active pin by agent."""
        pins = {full: self.active_pin(full, now_ms) for full in list(self._by_agent)}
        return {full: RiskLevel(pin.level) for full, pin in pins.items() if pin is not None}

    def approved_scopes(
        self, full: AgentIdentity, now_ms: int, level: int = 0, spent: Sequence[Intervention] = ()
    ) -> frozenset[str]:
        """Return the scopes that a person approved while the agent was at *level* or above."""
        mine = self._by_agent.get(full)
        if not mine and not spent:
            return frozenset()
        lasting = [approval for approval in (mine or {}).values() if approval.status == "approved"]
        return frozenset(
            scope
            for approval in (*lasting, *(one for one in spent if one.agent.identity == full))
            if approval.expires_ms > now_ms and approval.level >= level
            for scope in approval.scopes
        )

    @property
    def any_for_one_use(self) -> bool:
        """Return whether any agent has an approval for one use; otherwise no look-up is needed."""
        return bool(self._one_use_ids)

    def one_use_approvals(self, full: AgentIdentity, now_ms: int) -> list[Intervention]:
        """Return an agent's approvals for one use that are neither spent nor expired, the last to expire first."""
        mine = self._by_agent.get(full)
        if not mine:
            return []
        unspent = [one for one in mine.values() if one.status == "approved_once" and one.expires_ms > now_ms]
        return sorted(unspent, key=lambda approval: approval.expires_ms, reverse=True)

    def pending_approval(
        self, full: AgentIdentity, scopes: Iterable[str], now_ms: int, most: int
    ) -> Intervention | None:
        """Return a pending approval for these scopes, or the newest pending one if *most* are pending already.

        The limit keeps an agent that requests more and more scopes from flooding the approvers.
        """
        asked_scopes = set(scopes)
        waiting = self._waiting(full, now_ms)
        for approval in waiting:
            if asked_scopes <= set(approval.scopes):
                return approval
        return (
            max(waiting, key=lambda approval: (approval.asked_ms, approval.intervention_id))
            if len(waiting) >= most
            else None
        )

    def is_pending(self, intervention_id: str) -> bool:
        """Return whether an approval is pending."""
        intervention = self._by_id.get(intervention_id)
        return intervention is not None and intervention.status == "pending"

    def pending_count_of_tenant(self, tenant: str) -> int:
        """Return the number of pending approvals of a tenant's agents, from any requester."""
        return self._pending_by_tenant[tenant]

    def pending_count(self, full: AgentIdentity, now_ms: int) -> int:
        """Return the number of pending approvals of an agent."""
        return len(self._waiting(full, now_ms))

    def _waiting(self, full: AgentIdentity, now_ms: int) -> list[Intervention]:
        mine = self._by_agent.get(full, {}).values()
        return [approval for approval in mine if approval.status == "pending" and approval.expires_ms > now_ms]

    def expired(self, now_ms: int) -> list[Intervention]:
        """Return interventions that have expired and are not yet stored as ended."""
        return [intervention for intervention in self._by_id.values() if intervention.expires_ms <= now_ms]
