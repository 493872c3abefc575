"""What every part of the lab stands on: settings, store, model, a folder of its own, and how agents are named."""

from __future__ import annotations

import secrets
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from ..api import clock
from ..api.composition import engine_settings, policy_book
from ..api.settings.root import Settings
from ..ingest.errors import ConfigError
from ..models.detector import DetectorSettings
from ..scoring.backtest.plan import BacktestPlan, default_budgets
from ..scoring.engine.engine import EngineSettings
from ..scoring.policy.book import PolicyBook
from ..scoring.records.agents import AgentSummary
from ..scoring.records.decisions import Decision
from ..scoring.store.sql_store import SqlStore
from . import backtest_frames, behaviour_frames, event_frames, model_frames, score_frames, store_frames
from .backtest_frames import BacktestFrames, PolicyChoice
from .event_history import EventFilter, EventHistory, HistoryEvent, HistorySource, parse_time_ms
from .model_frames import LabModel
from .session import LabError, LabWarning, open_read_only_store
from .store_frames import DecisionExplanation

DEFAULT_ROW_LIMIT = 100_000
"""Rows of a frame unless told otherwise; more are cut with a `LabWarning`."""

AgentReference = Any
"""An agent: its id, or a row of a frame that has `agent_id`, `tenant` and `issuer`."""


class SessionBase:
    """A service's store and events, open to be read.

    Args:
        settings: of the service.
        tenants: nothing of others is shown; None = all.
    """

    def __init__(self, settings: Settings, tenants: frozenset[str] | None = None) -> None:
        self.settings = settings
        self.tenants = tenants
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._models: dict[Path, LabModel] = {}

    def __repr__(self) -> str:
        store = "SQLite" if self.settings.store.url is None else "PostgreSQL"
        shown = "all tenants" if self.tenants is None else f"tenants {', '.join(sorted(self.tenants))}"
        return f"<lab of {self.settings.data_dir} ({store}), {shown}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the store, and remove the models and files that were made meanwhile."""
        if "_store" in self.__dict__:
            self._store.close()
            del self.__dict__["_store"]
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
        self._models.clear()

    def model(self, directory: str | Path | None = None) -> LabModel:
        """A model: that of the settings, or another directory's. Has features, groups, calibration and promise."""
        path = Path(directory) if directory is not None else self.settings.model_dir
        if path not in self._models:
            self._models[path] = model_frames.load_lab_model(path, self.engine_settings, self._agent_types())
        return self._models[path]

    @cached_property
    def _store(self) -> SqlStore:
        return open_read_only_store(self.settings)

    @property
    def work_folder(self) -> Path:
        """A folder of this lab alone."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="trustwatch-lab-")
        return Path(self._folder.name)

    @property
    def engine_settings(self) -> EngineSettings:
        return engine_settings(self.settings, capacity=50_000)

    def _agent_types(self) -> list[tuple[str, str]]:
        """Tenants and agent types that the store knows; none where there is no store."""
        try:
            return sorted(
                {(one.name.tenant, one.agent_type) for one in store_frames.agent_summaries(self._store, self.tenants)}
            )
        except ConfigError:
            return []

    def _find_agent(self, agent: AgentReference, tenant: str | None) -> AgentSummary:
        tenant, issuer, agent_id = agent_identity(agent, tenant)
        return store_frames.find_agent_summary(self._store, self.tenants, agent_id, tenant, issuer)

    def _decisions(self, agent: AgentReference, tenant: str | None) -> Iterator[Decision]:
        key = None if agent is None else self._find_agent(agent, tenant).name.key
        return store_frames.iterate_decisions(self._store, self.tenants, key)

    def _find_decision(self, decision: Any) -> Decision:
        wanted = decision if isinstance(decision, str) else getattr(decision, "decision_id", None)
        if not isinstance(wanted, str) or not wanted:
            raise LabError("no decision: pass an id, or a row of `lab.decisions()` such as `lab.worst()`")
        found = self._store.decision(wanted, self.tenants)
        if found is None:
            raise LabError(f"no decision {wanted!r} in the store; `lab.decisions()` lists them")
        return found

    def _event_filter(self, agent: AgentReference, tenant: str | None, since: Any, until: Any) -> EventFilter:
        return EventFilter(
            None if agent is None else agent_identity(agent, tenant),
            parse_time_ms(since),
            parse_time_ms(until),
            self.tenants if tenant is None or agent is not None else self._allowed_tenants(tenant),
        )

    def _allowed_tenants(self, tenant: str) -> frozenset[str]:
        return frozenset({tenant}) & (self.tenants if self.tenants is not None else {tenant})

    def _matching_events(self, wanted: EventFilter) -> Iterator[HistoryEvent]:
        return EventHistory(self.settings).events(wanted)

    def _events_to_replay(self, model: LabModel, wanted: EventFilter) -> Iterator[bytes]:
        """All events since the model's history ended, or since the window begins where that is earlier."""
        learned_ms = model.trained.window_ms[1]
        since_ms = learned_ms + 1
        if wanted.since_ms is not None and wanted.since_ms <= learned_ms:
            since_ms = wanted.since_ms
            warn_incomplete(
                f"model {model.version} has learned from events up to {model.window[1]:%Y-%m-%d %H:%M}: what is "
                "scored before that it has seen"
            )
        return (found.raw for found in self._matching_events(wanted._replace(since_ms=since_ms)))


def agent_identity(agent: AgentReference, tenant: str | None) -> tuple[str | None, str | None, str]:
    """Tenant, issuer and id of an agent that is given as an id or a row; None = any."""
    if isinstance(agent, str):
        return tenant, None, agent
    try:
        return tenant or agent["tenant"], agent.get("issuer"), agent["agent_id"]
    except (KeyError, TypeError, AttributeError):
        raise LabError("no agent: pass its id, or a row of a frame that has `agent_id` and `tenant`") from None


def warn_incomplete(text: str) -> None:
    warnings.warn(text, LabWarning, stacklevel=4)


# Questions to the store: who is there, what was decided, why, who had to do with whom.


class StoreQueries(SessionBase):
    """What the store knows."""

    def agents(self, *, agent_type: str | None = None, limit: int = DEFAULT_ROW_LIMIT) -> Any:
        """Agents with their risk now."""
        found = store_frames.take_limited(
            store_frames.agent_summaries(self._store, self.tenants, agent_type), limit, "agents"
        )
        return store_frames.agents_frame(found)

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
        found = store_frames.decisions_within(
            self._decisions(agent, tenant), parse_time_ms(since), parse_time_ms(until)
        )
        return store_frames.decisions_frame(store_frames.take_limited(found, limit, "decisions"))

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
        within = store_frames.decisions_within(
            self._decisions(agent, tenant), parse_time_ms(since), parse_time_ms(until)
        )
        found = store_frames.take_limited(filter(store_frames.raises_alert, within), limit, "alerts")
        return store_frames.alerts_frame(self._store, found)

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
        return store_frames.reasons_frame(self._find_decision(decision))

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
        return score_frames.contributions_frame(chosen.detector, found.feature_vector)

    def edges(
        self, agent: AgentReference = None, *, tenant: str | None = None, since: Any = None, limit: int = 5_000
    ) -> Any:
        """Who delegated to whom, called whom, and acted for whom, last seen first; of one agent, or of all."""
        if agent is None:
            keys = [one.name.key for one in store_frames.agent_summaries(self._store, self.tenants)]
        else:
            keys = [self._find_agent(agent, tenant).name.key]
        return store_frames.edges_frame(self._store, keys, self.tenants, parse_time_ms(since) or 0, limit)

    def blast_radius(self, agent: AgentReference, *, tenant: str | None = None, since: Any = None) -> Any:
        """Agents that one reached, by delegation and by calls."""
        return store_frames.blast_radius_frame(
            self._store, self._find_agent(agent, tenant).name, parse_time_ms(since) or 0
        )

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
        return behaviour_frames.profile_frame(row, model, event)


# Questions to events: what happened, what agents usually do, how two differ, and what the live path says of it.


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
        return event_frames.events_frame(
            EventHistory(self.settings, source).newest(wanted, limit, event_frames.EventRowBuilder().row)
        )

    def last_hours(self, hours: float = 24.0) -> dict[str, Any]:
        """The last *hours* up to the full hour behind the newest event, as `since` and `until`: `**lab.last(24)`."""
        newest = max((one.last_seen_ms for one in store_frames.agent_summaries(self._store, self.tenants)), default=0)
        if not newest:
            raise LabError("no agent has done anything yet: the store is empty")
        until_ms = (newest // _HOUR_MS + 1) * _HOUR_MS
        return {
            "since": event_frames.timestamp_of(until_ms - int(hours * _HOUR_MS)),
            "until": event_frames.timestamp_of(until_ms),
        }

    @staticmethod
    def minutes(number: float) -> Any:
        """So many minutes, to add to a time or take off it."""
        return event_frames.minutes_delta(number)

    def habits(self, events: Any, kinds: Collection[str] = behaviour_frames.HABIT_KINDS) -> Any:
        """What the events of a frame are made of: actions, targets, scopes, hours, …, by how often."""
        return behaviour_frames.habits_frame(events, kinds)

    def comparison(self, a: Any, b: Any, kinds: Collection[str] = behaviour_frames.HABIT_KINDS) -> Any:
        """Two frames of events (two agents, two versions, two weeks) item by item, the largest differences first."""
        return behaviour_frames.comparison_frame(a, b, kinds)

    def distances(self, comparison: Any) -> Any:
        """How far apart the two of a `compare` are, by kind."""
        return behaviour_frames.distances_frame(comparison)

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
        return behaviour_frames.versions_frame(self.events(agent, **window))

    def largest_upgrade(self, agent: AgentReference = None, **window: Any) -> Any:
        """The change of version with the most events on both sides: `agent_id`, `tenant`, `before`, `after`, `at`."""
        return behaviour_frames.largest_upgrade(self.versions(agent, **window))

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
        return score_frames.scores_frame(self._replay(events, model, agent, tenant, since, until, learn, limit, False))

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
        return score_frames.vectors_frame(self._replay(events, model, agent, tenant, since, until, learn, limit, True))

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
            store_frames.decisions_within(self._decisions(agent, tenant), parse_time_ms(since), parse_time_ms(until))
        )
        return score_frames.risk_history_frame(scores, found, self.settings.risk.half_life_s, every)

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
    ) -> list[score_frames.ReplayedRows]:
        chosen, wanted = model or self.model(), self._event_filter(agent, tenant, since, until)
        lines = self._events_to_replay(chosen, wanted) if events is None else score_frames.raw_events(events)
        settings = self.engine_settings._replace(learn=learn)
        return score_frames.replay_events(
            lines, chosen.trained, settings, self.settings.domains(), wanted, limit, vectors
        )


# `Lab`: one object for what an analyst asks. Each method is a question; `columns` says what the answers hold.


_DAY_MS = 86_400_000


class LabSession(EventQueries):
    """What a service knows, as frames. Use `open_session`.

    Args:
        settings: of the service.
        tenants: nothing of others is shown; None = all.
    """

    def train_model(
        self,
        events: Any,
        *,
        version: str | None = None,
        seed: int = 0,
        trees: int = 100,
        directory: str | Path | None = None,
    ) -> LabModel:
        """Learn a model from a frame of events, taken as normal. It goes to *directory*, or away with the lab."""
        name = version or clock.utc_now().strftime("lab-%Y-%m-%d.%H%M%S")
        path = self.work_folder / f"model-{len(self._models)}-{name}" if directory is None else Path(directory)
        salt = secrets.token_bytes(16)
        with suppress(LabError):
            salt = self.model().trained.salt
        made = model_frames.train_lab_model(
            score_frames.raw_events(events),
            path,
            salt,
            name,
            DetectorSettings(seed=seed, trees=trees),
            self.engine_settings,
            self.settings.domains(),
            self._agent_types(),
            clock.now_ms(),
        )
        self._models[path] = made
        return made

    def reliability(self, scores: Any) -> Any:
        """Promised against observed: how often events of a frame `scores` had a p-value of at most so much."""
        return model_frames.reliability_frame(scores)

    def labels(self, path: str | Path | None = None) -> Any:
        """Labels of events, of a file as `trustwatch simulate --labels` writes it; default: `labels.jsonl` here."""
        return event_frames.labels_frame(self._label_file(path, wanted=True))

    def run_backtest(
        self,
        events: Any = None,
        *,
        models: Sequence[LabModel] = (),
        policies: Sequence[PolicyChoice] = (None,),
        since: Any = None,
        until: Any = None,
        labels: str | Path | None = None,
        budget: float = 1.0,
        learn: bool = True,
        jobs: int = 1,
    ) -> BacktestFrames:
        """History through the live path: alerts, requests, revocations; two models or two policies side by side.

        *budget* is a multiple of the one set. Labels default to `labels.jsonl` of the data directory.
        """
        plan = self._backtest_plan(events, models, policies, since, until, labels, budget, learn, jobs)
        return backtest_frames.run_plan(plan)

    def budgets(
        self,
        events: Any = None,
        *,
        factors: Sequence[float] = (0.2, 0.5, 1.0, 2.0, 5.0, 20.0),
        model: LabModel | None = None,
        since: Any = None,
        until: Any = None,
        labels: str | Path | None = None,
        jobs: int = 1,
    ) -> Any:
        """The same history at several alert budgets (multiples of the one set), each run in full."""
        models = () if model is None else (model,)
        return backtest_frames.budgets_frame(
            self._backtest_plan(events, models, (None,), since, until, labels, 1.0, True, jobs), factors
        )

    def what_if(
        self,
        policies: Mapping[str, PolicyChoice],
        *,
        events: Any = None,
        factors: Sequence[float] = (1.0,),
        model: LabModel | None = None,
        since: Any = None,
        until: Any = None,
        jobs: int = 1,
    ) -> tuple[Any, Any]:
        """What policies (by name: None for that of the settings, a file, or what one would hold) would have done.

        Gives the frame `what_if`, and the frame `backtest_revoked` with columns `policy` and `factor` before it.
        """
        plan = self._backtest_plan(
            events, () if model is None else (model,), (None,), since, until, None, 1.0, True, jobs
        )
        books = {name: self._policy_book(policy, name) for name, policy in policies.items()}
        return backtest_frames.what_if_frames(plan, books, factors)

    def labelled_revocations(self, revoked: Any, labels: str | Path | None = None) -> Any:
        """Which agents of a frame `backtest_revoked` the labels call bad, and how long after their first bad event."""
        path = self._label_file(labels, wanted=False)
        if path is None:
            return event_frames.labelled_revocations_frame(revoked, None, {})
        found = event_frames.labels_frame(path)
        bad = set(found[found["bad_event"]]["id"])
        since = parse_time_ms(revoked["at"].min())
        wanted = self._event_filter(
            None, None, None if since is None else event_frames.timestamp_of(since - _DAY_MS), None
        )
        times = {one.event.id: one.time_ms for one in self._matching_events(wanted) if one.event.id in bad}
        return event_frames.labelled_revocations_frame(revoked, found, times)

    def _policy_book(self, policy: PolicyChoice, name: str) -> PolicyBook:
        return backtest_frames.load_policy_book(policy, policy_book(self.settings), self.work_folder, name)

    def _label_file(self, path: str | Path | None, wanted: bool) -> Path | None:
        """A label file; by default the one in the data directory, if it is there."""
        chosen = Path(path) if path is not None else self.settings.data_dir / "labels.jsonl"
        if chosen.is_file():
            return chosen
        if wanted or path is not None:
            raise LabError(f"{chosen}: no labels; they are JSON lines as `trustwatch simulate --labels` writes")
        return None

    def _backtest_plan(
        self,
        events: Any,
        models: Sequence[LabModel],
        policies: Sequence[PolicyChoice],
        since: Any,
        until: Any,
        labels: str | Path | None,
        budget: float,
        learn: bool,
        jobs: int,
    ) -> BacktestPlan:
        if len(models) > 2 or not 1 <= len(policies) <= 2:
            raise LabError("a back-test compares two models or two policies at most; `lab.what_if` takes any number")
        chosen = list(models) or [self.model()]
        wanted = self._event_filter(None, None, since, until)
        lines = self._events_to_replay(chosen[0], wanted) if events is None else score_frames.raw_events(events)
        path = self.work_folder / f"events-{len(list(self.work_folder.glob('events-*')))}.jsonl"
        with path.open("wb") as file:
            file.writelines(line.replace(b"\n", b" ") + b"\n" for line in lines)
        settings = self.engine_settings._replace(learn=learn)
        settings = settings.with_budget(settings.risk.alert_budget.scaled(budget))
        return BacktestPlan(
            [path],
            [one.directory for one in chosen],
            settings,
            [self._policy_book(one, f"policy {one}") for one in policies],
            default_budgets(settings.risk.alert_budget),
            self.settings.domains(),
            event_frames.datetime_of(since),
            event_frames.datetime_of(until),
            self._label_file(labels, wanted=False),
            (),
            jobs,
        )
