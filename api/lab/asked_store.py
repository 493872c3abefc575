"""Questions to the store: who is there, what was decided, why, who had to do with whom."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from . import behaviour, replaying, stored
from .history import EventFilter, parse_time_ms
from .learned import LabModel
from .opened import DEFAULT_ROW_LIMIT, AgentReference, SessionBase, warn_incomplete
from .opening import LabError
from .words import DecisionExplanation


class StoreQueries(SessionBase):
    """What the store knows."""

    def agents(self, *, agent_type: str | None = None, limit: int = DEFAULT_ROW_LIMIT) -> Any:
        """Agents with their risk now."""
        found = stored.take_limited(stored.agent_summaries(self._store, self.tenants, agent_type), limit, "agents")
        return stored.agents_frame(found)

    def decisions(
        self,
        agent: AgentReference = None,
        *,
        tenant: str | None = None,
        since: Any = None,
        until: Any = None,
        limit: int = DEFAULT_ROW_LIMIT,
    ) -> Any:
        """Changes of level, oldest first; of more than *limit* the newest."""
        found = stored.decisions_within(self._decisions(agent, tenant), parse_time_ms(since), parse_time_ms(until))
        return stored.decisions_frame(stored.take_limited(found, limit, "decisions"))

    def alerts(
        self,
        agent: AgentReference = None,
        *,
        tenant: str | None = None,
        since: Any = None,
        until: Any = None,
        limit: int = 10_000,
    ) -> Any:
        """Rises to medium or above, and how telling of them fared."""
        within = stored.decisions_within(self._decisions(agent, tenant), parse_time_ms(since), parse_time_ms(until))
        found = stored.take_limited(filter(stored.raises_alert, within), limit, "alerts")
        return stored.alerts_frame(self._store, found)

    def worst_decision(
        self, agent: AgentReference = None, *, tenant: str | None = None, since: Any = None, until: Any = None
    ) -> Any:
        """The decision to look at first, as a row of `decisions`: the highest level, hard signals first, then risk."""
        found = self.decisions(agent, tenant=tenant, since=since, until=until)
        risen = found[found["cause"] == "event"]
        if not len(risen):
            raise LabError("no event has changed a level here: widen since and until, or look at `lab.agents()`")
        return risen.assign(hard=risen["signals"] != "").sort_values(["level", "hard", "risk_score"]).iloc[-1]

    def reasons(self, decision: Any) -> Any:
        """Why a decision was made, the strongest reason first. *decision* is an id or a row of `decisions`."""
        return stored.reasons_frame(self._find_decision(decision))

    def explain_decision(self, decision: Any) -> DecisionExplanation:
        """A decision in sentences: what happened, why, and what would have kept the level lower."""
        return DecisionExplanation(self._find_decision(decision))

    def contributions(self, decision: Any, model: LabModel | None = None) -> Any:
        """All features of a decision's event: what was measured, and what stood out under the model."""
        found = self._find_decision(decision)
        if not found.feature_vector:
            raise LabError(f"decision {found.decision_id} has no feature vector: no event made it, but {found.cause}")
        chosen = model or self.model()
        if chosen.version != found.model_version:
            warn_incomplete(
                f"the decision was made under model {found.model_version}, this is how {chosen.version} sees its event"
            )
        return replaying.contributions_frame(chosen.detector, found.feature_vector)

    def edges(
        self, agent: AgentReference = None, *, tenant: str | None = None, since: Any = None, limit: int = 5_000
    ) -> Any:
        """Who delegated to whom, called whom, and acted for whom, last seen first; of one agent, or of all."""
        if agent is None:
            keys = [one.name.key for one in stored.agent_summaries(self._store, self.tenants)]
        else:
            keys = [self._find_agent(agent, tenant).name.key]
        return stored.edges_frame(self._store, keys, self.tenants, parse_time_ms(since) or 0, limit)

    def blast_radius(self, agent: AgentReference, *, tenant: str | None = None, since: Any = None) -> Any:
        """Agents that one reached, by delegation and by calls."""
        return stored.blast_radius_frame(self._store, self._find_agent(agent, tenant).name, parse_time_ms(since) or 0)

    def profile(self, agent: AgentReference, *, tenant: str | None = None) -> Any:
        """What the service has learned an agent's usual pace, volumes and pauses to be, beside its peers."""
        name = self._find_agent(agent, tenant).name
        row = self._store.agent(name.tenant, name.issuer, name.agent_id)
        assert row is not None
        model, event = None, None
        with suppress(LabError):
            model = self.model().trained
            wanted = EventFilter(agent=(name.tenant, name.issuer, name.agent_id))
            event = next((found.event for found in self._matching_events(wanted) if found.event.agent.type), None)
        return behaviour.profile_frame(row, model, event)
