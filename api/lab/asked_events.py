"""Questions to events: what happened, what agents usually do, how two differ, and what the live path says of it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from . import behaviour, replaying, stored, told
from .asked_store import StoreQueries
from .history import EventHistory, HistorySource, parse_time_ms
from .learned import LabModel
from .opened import DEFAULT_ROW_LIMIT, AgentReference
from .opening import LabError

_HOUR_MS = 3_600_000


class EventQueries(StoreQueries):
    """What events tell, and what the live path says of them."""

    def events(
        self,
        agent: AgentReference = None,
        *,
        tenant: str | None = None,
        since: Any = None,
        until: Any = None,
        version: str | None = None,
        agent_type: str | None = None,
        source: HistorySource = "auto",
        limit: int = DEFAULT_ROW_LIMIT,
    ) -> Any:
        """Events of a window by event time, each once; *source* is auto, log, archive, kafka, or files and folders."""
        wanted = self._event_filter(agent, tenant, since, until)._replace(
            version=version, types=None if agent_type is None else (agent_type,)
        )
        return told.events_frame(EventHistory(self.settings, source).newest(wanted, limit, told.EventRowBuilder().row))

    def last_hours(self, hours: float = 24.0) -> dict[str, Any]:
        """The last *hours* up to the full hour behind the newest event, as `since` and `until`: `**lab.last(24)`."""
        newest = max((one.last_seen_ms for one in stored.agent_summaries(self._store, self.tenants)), default=0)
        if not newest:
            raise LabError("no agent has done anything yet: the store is empty")
        until_ms = (newest // _HOUR_MS + 1) * _HOUR_MS
        return {"since": told.timestamp_of(until_ms - int(hours * _HOUR_MS)), "until": told.timestamp_of(until_ms)}

    @staticmethod
    def minutes(number: float) -> Any:
        """So many minutes, to add to a time or take off it."""
        return told.minutes_delta(number)

    def habits(self, events: Any, kinds: Collection[str] = behaviour.HABIT_KINDS) -> Any:
        """What the events of a frame are made of: actions, targets, scopes, hours, …, by how often."""
        return behaviour.habits_frame(events, kinds)

    def comparison(self, a: Any, b: Any, kinds: Collection[str] = behaviour.HABIT_KINDS) -> Any:
        """Two frames of events (two agents, two versions, two weeks) item by item, the largest differences first."""
        return behaviour.comparison_frame(a, b, kinds)

    def distances(self, comparison: Any) -> Any:
        """How far apart the two of a `compare` are, by kind."""
        return behaviour.distances_frame(comparison)

    def find_peer(self, agent: AgentReference, *, tenant: str | None = None) -> Any:
        """The calmest agent of the same tenant and type, as a row of `agents`: somebody to compare with."""
        one = self._find_agent(agent, tenant)
        peers = self.agents(agent_type=one.agent_type)
        found = peers[(peers["tenant"] == one.name.tenant) & (peers["agent_id"] != one.name.agent_id)]
        if not len(found):
            raise LabError(f"{one.name.agent_id} is the only agent of type {one.agent_type!r} in its tenant")
        return found.sort_values(["level", "risk_score", "events"], ascending=[True, True, False]).iloc[0]

    def versions(self, agent: AgentReference = None, **window: Any) -> Any:
        """Versions of agents and when they were at work, of the events of a window (arguments of `events`)."""
        return behaviour.versions_frame(self.events(agent, **window))

    def largest_upgrade(self, agent: AgentReference = None, **window: Any) -> Any:
        """The change of version with the most events on both sides: `agent_id`, `tenant`, `before`, `after`, `at`."""
        return behaviour.largest_upgrade(self.versions(agent, **window))

    def scores(
        self,
        events: Any = None,
        model: LabModel | None = None,
        *,
        agent: AgentReference = None,
        tenant: str | None = None,
        since: Any = None,
        until: Any = None,
        learn: bool = True,
        limit: int = DEFAULT_ROW_LIMIT,
    ) -> Any:
        """Every event through the live path: its score, its evidence, and the risk it left.

        Without *events*, all since the model's history ended are replayed, so that agents' state is as it was live.
        """
        return replaying.scores_frame(self._replay(events, model, agent, tenant, since, until, learn, limit, False))

    def vectors(
        self,
        events: Any = None,
        model: LabModel | None = None,
        *,
        agent: AgentReference = None,
        tenant: str | None = None,
        since: Any = None,
        until: Any = None,
        learn: bool = True,
        limit: int = 20_000,
    ) -> Any:
        """The feature vector of every event, as `scores`."""
        return replaying.vectors_frame(self._replay(events, model, agent, tenant, since, until, learn, limit, True))

    def risk_history(
        self,
        agent: AgentReference,
        *,
        tenant: str | None = None,
        since: Any = None,
        until: Any = None,
        every: str = "5min",
    ) -> Any:
        """An agent's risk over time: replayed event by event, decaying between them, with the recorded decisions."""
        scores = self.scores(agent=agent, tenant=tenant, since=since, until=until)
        found = list(
            stored.decisions_within(self._decisions(agent, tenant), parse_time_ms(since), parse_time_ms(until))
        )
        return replaying.risk_history_frame(scores, found, self.settings.risk.half_life_s, every)

    def _replay(
        self,
        events: Any,
        model: LabModel | None,
        agent: AgentReference,
        tenant: str | None,
        since: Any,
        until: Any,
        learn: bool,
        limit: int,
        vectors: bool,
    ) -> list[replaying.ReplayedRows]:
        chosen, wanted = model or self.model(), self._event_filter(agent, tenant, since, until)
        lines = self._events_to_replay(chosen, wanted) if events is None else replaying.raw_events(events)
        settings = self.engine_settings._replace(learn=learn)
        return replaying.replay_events(lines, chosen.trained, settings, self.settings.domains(), wanted, limit, vectors)
