"""The risk view: the latest risk of every agent, in memory, for answers that touch no database.

One process writes it (as records are applied, before commits) and the same event loop reads it. The number of agents is
bounded: those that were evaluated the longest ago and are below medium are removed first, and answered as unknown.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from ..records.agents import AgentIdentity, AgentSummary, RiskLevel

MAX_VIEW_AGENTS = 5_000_000
_SWEEP_SHARE = 0.05
MAX_RECENT_DECISIONS = 10_000
"""Latest decisions whose tenant is known."""

CommitVersion = tuple[int, int]
"""Epoch and offset of the commit that wrote an agent; a suspended worker may send an old one late."""


@dataclass(slots=True, eq=False)
class RiskViewEntry:
    """One agent in the view. `cached_answer` is the encoded answer under the policy `cached_answer_book`."""

    summary: AgentSummary
    partition: int
    version: CommitVersion | None
    cached_answer: bytes | None = None
    cached_answer_book: object = None


class RiskView:
    """Latest published risk by agent, in memory."""

    def __init__(self, max_agents: int = MAX_VIEW_AGENTS) -> None:
        self._max_agents = max_agents
        self._entries: dict[AgentIdentity, RiskViewEntry] = {}
        self._by_id: dict[str, list[RiskViewEntry]] = {}
        self._recent_decisions: OrderedDict[str, str] = OrderedDict()
        self.on_update: Callable[[AgentSummary], object] | None = None
        """Called with every updated agent; must be quick, since answers wait for it."""

    def __len__(self) -> int:
        return len(self._entries)

    def apply(
        self, summaries: Iterable[AgentSummary], partition: int = 0, versions: Sequence[CommitVersion] | None = None
    ) -> None:
        """Update the view with published agents of a partition, in publishing order, or by their *versions*."""
        for at, summary in enumerate(summaries):
            name = summary.name
            full = name.identity
            version = None if versions is None else versions[at]
            entry = self._entries.get(full)
            if entry is None:
                entry = self._entries[full] = RiskViewEntry(summary, partition, version)
                self._note_decision(summary)
                self._by_id.setdefault(name.agent_id, []).append(entry)
            elif version is None or entry.version is None or version >= entry.version:
                if entry.summary.decision_id != summary.decision_id:
                    self._note_decision(summary)
                entry.summary, entry.cached_answer = summary, None
                entry.partition, entry.version = partition, version
            else:
                continue  # the view holds a newer version
            if self.on_update is not None:
                self.on_update(summary)
        if len(self._entries) > self._max_agents:
            self._sweep()

    def _note_decision(self, summary: AgentSummary) -> None:
        recent = self._recent_decisions
        if summary.decision_id:
            recent[summary.decision_id] = summary.name.tenant
            if len(recent) > MAX_RECENT_DECISIONS:
                recent.popitem(last=False)

    def tenant_of_recent_decision(self, decision_id: str) -> str | None:
        """Return the tenant of a decision that a recent answer named, whether or not it is stored."""
        return self._recent_decisions.get(decision_id)

    def get(self, tenant: str, issuer: str, agent_id: str) -> RiskViewEntry | None:
        """Return one agent by its full name."""
        return self._entries.get((tenant, issuer, agent_id))

    def remove(self, tenant: str, issuer: str, agent_id: str) -> None:
        entry = self._entries.pop((tenant, issuer, agent_id), None)
        if entry is not None:
            same = self._by_id[agent_id]
            same.remove(entry)
            if not same:
                del self._by_id[agent_id]

    def remove_up_to(self, full: AgentIdentity, partition: int, offset: int) -> None:
        """Remove an agent that a commit up to *offset* of its partition wrote; a newer one is another agent."""
        entry = self._entries.get(full)
        if entry is not None and (
            entry.version is None or (entry.partition == partition and entry.version[1] <= offset)
        ):
            self.remove(*full)

    def find_by_id(
        self, agent_id: str, tenant: str | None, issuer: str | None, tenants: Collection[str] | None
    ) -> list[RiskViewEntry]:
        """Return agents with that id among the caller's *tenants* (None = all), of *tenant* and *issuer* if given."""
        return [
            entry
            for entry in self._by_id.get(agent_id, ())
            if (tenant is None or entry.summary.name.tenant == tenant)
            and (issuer is None or entry.summary.name.issuer == issuer)
            and (tenants is None or entry.summary.name.tenant in tenants)
        ]

    def entries(self) -> list[RiskViewEntry]:
        """Return every agent in the view, as a list that another thread may read."""
        return list(self._entries.values())

    def _sweep(self) -> None:
        """Remove the agents below medium that were evaluated first, more than needed so that sweeps are rare."""
        quiet = [entry for entry in self._entries.values() if entry.summary.level < RiskLevel.MEDIUM]
        quiet.sort(key=lambda entry: entry.summary.evaluated_ms)
        excess = len(self._entries) - int(self._max_agents * (1 - _SWEEP_SHARE))
        for entry in quiet[:excess]:
            self.remove(*entry.summary.name.identity)
