"""`Lab`: one object for what an analyst asks. Each method is a question; `frames.py` says what the answers hold."""

from __future__ import annotations

import secrets
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from ...ingest.errors import ConfigError
from ...models.detector import DetectorSettings
from ...scoring.backtest import Plan, plain_budgets
from ...scoring.engine import EngineSettings
from ...scoring.policy import PolicyBook
from ...scoring.records import AgentSummary, Decision
from ...scoring.store import SqlStore
from .. import clock
from ..serve.wiring import engine_settings, policy_book
from ..settings import Settings
from . import backtesting, behaviour, learned, replaying, stored, told
from .backtesting import BacktestFrames, Policy
from .history import Found, History, Source, Wanted, moment
from .learned import LabModel
from .opening import LabError, LabWarning, open_store

LIMIT = 100_000
"""Rows of a frame unless told otherwise; more are cut with a `LabWarning`."""

_HOUR_MS, _DAY_MS = 3_600_000, 86_400_000
Agent = Any
"""An agent: its id, or a row of a frame that has `agent_id`, `tenant` and `issuer`."""


class Lab:
    """What a service knows, as frames. Use `open_lab`.

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

    def __enter__(self) -> Lab:
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

    # -- what the store knows ---------------------------------------------------------------------------------------

    def agents(self, *, agent_type: str | None = None, limit: int = LIMIT) -> Any:
        """Agents with their risk now."""
        found = stored.limited(stored.summaries(self._store, self.tenants, agent_type), limit, "agents")
        return stored.agents_frame(found)

    def decisions(
        self,
        agent: Agent = None,
        *,
        tenant: str | None = None,
        since: Any = None,
        until: Any = None,
        limit: int = LIMIT,
    ) -> Any:
        """Changes of level, oldest first; of more than *limit* the newest."""
        found = stored.within(self._decisions(agent, tenant), moment(since), moment(until))
        return stored.decisions_frame(stored.limited(found, limit, "decisions"))

    def alerts(
        self, agent: Agent = None, *, tenant: str | None = None, since: Any = None, until: Any = None,
        limit: int = 10_000,
    ) -> Any:  # fmt: skip
        """Rises to medium or above, and how telling of them fared."""
        within = stored.within(self._decisions(agent, tenant), moment(since), moment(until))
        found = stored.limited(filter(stored.is_alert, within), limit, "alerts")
        return stored.alerts_frame(self._store, found)

    def worst(self, agent: Agent = None, *, tenant: str | None = None, since: Any = None, until: Any = None) -> Any:
        """The decision to look at first, as a row of `decisions`: the highest level, hard signals first, then risk."""
        found = self.decisions(agent, tenant=tenant, since=since, until=until)
        risen = found[found["cause"] == "event"]
        if not len(risen):
            raise LabError("no event has changed a level here: widen since and until, or look at `lab.agents()`")
        return risen.assign(hard=risen["signals"] != "").sort_values(["level", "hard", "risk_score"]).iloc[-1]

    def reasons(self, decision: Any) -> Any:
        """Why a decision was made, the strongest reason first. *decision* is an id or a row of `decisions`."""
        return stored.reasons_frame(self._decision(decision))

    def contributions(self, decision: Any, model: LabModel | None = None) -> Any:
        """All features of a decision's event: what was measured, and what stood out under the model."""
        found = self._decision(decision)
        if not found.feature_vector:
            raise LabError(f"decision {found.decision_id} has no feature vector: no event made it, but {found.cause}")
        chosen = model or self.model()
        if chosen.version != found.model_version:
            _warn(
                f"the decision was made under model {found.model_version}, this is how {chosen.version} sees its event"
            )
        return replaying.contributions_frame(chosen.detector, found.feature_vector)

    def edges(self, agent: Agent = None, *, tenant: str | None = None, since: Any = None, limit: int = 5_000) -> Any:
        """Who delegated to whom, called whom, and acted for whom, last seen first; of one agent, or of all."""
        if agent is None:
            keys = [one.name.key for one in stored.summaries(self._store, self.tenants)]
        else:
            keys = [self._summary(agent, tenant).name.key]
        return stored.edges_frame(self._store, keys, self.tenants, moment(since) or 0, limit)

    def blast_radius(self, agent: Agent, *, tenant: str | None = None, since: Any = None) -> Any:
        """Agents that one reached, by delegation and by calls."""
        return stored.blast_radius_frame(self._store, self._summary(agent, tenant).name, moment(since) or 0)

    def profile(self, agent: Agent, *, tenant: str | None = None) -> Any:
        """What the service has learned an agent's usual pace, volumes and pauses to be, beside its peers."""
        name = self._summary(agent, tenant).name
        row = self._store.agent(name.tenant, name.issuer, name.agent_id)
        assert row is not None
        model, event = None, None
        with suppress(LabError):
            model = self.model().trained
            wanted = Wanted(agent=(name.tenant, name.issuer, name.agent_id))
            event = next((found.event for found in self._events(wanted) if found.event.agent.type), None)
        return behaviour.profile_frame(row, model, event)

    # -- what events tell -------------------------------------------------------------------------------------------

    def events(
        self, agent: Agent = None, *, tenant: str | None = None, since: Any = None, until: Any = None,
        version: str | None = None, agent_type: str | None = None, source: Source = "auto", limit: int = LIMIT,
    ) -> Any:  # fmt: skip
        """Events of a window by event time, each once; *source* is auto, log, archive, kafka, or files and folders."""
        wanted = self._wanted(agent, tenant, since, until)._replace(
            version=version, types=None if agent_type is None else (agent_type,)
        )
        return told.events_frame(History(self.settings, source).newest(wanted, limit, told.Rows().row))

    def last(self, hours: float = 24.0) -> dict[str, Any]:
        """The last *hours* up to the full hour behind the newest event, as `since` and `until`: `**lab.last(24)`."""
        newest = max((one.last_seen_ms for one in stored.summaries(self._store, self.tenants)), default=0)
        if not newest:
            raise LabError("no agent has done anything yet: the store is empty")
        until_ms = (newest // _HOUR_MS + 1) * _HOUR_MS
        return {"since": told.stamp(until_ms - int(hours * _HOUR_MS)), "until": told.stamp(until_ms)}

    @staticmethod
    def minutes(number: float) -> Any:
        """So many minutes, to add to a time or take off it."""
        return told.minutes(number)

    def habits(self, events: Any, kinds: Collection[str] = behaviour.KINDS) -> Any:
        """What the events of a frame are made of: actions, targets, scopes, hours, …, by how often."""
        return behaviour.habits_frame(events, kinds)

    def compare(self, a: Any, b: Any, kinds: Collection[str] = behaviour.KINDS) -> Any:
        """Two frames of events (two agents, two versions, two weeks) item by item, the largest differences first."""
        return behaviour.comparison_frame(a, b, kinds)

    def distances(self, comparison: Any) -> Any:
        """How far apart the two of a `compare` are, by kind."""
        return behaviour.distances_frame(comparison)

    def peer(self, agent: Agent, *, tenant: str | None = None) -> Any:
        """The calmest agent of the same tenant and type, as a row of `agents`: somebody to compare with."""
        one = self._summary(agent, tenant)
        peers = self.agents(agent_type=one.agent_type)
        found = peers[(peers["tenant"] == one.name.tenant) & (peers["agent_id"] != one.name.agent_id)]
        if not len(found):
            raise LabError(f"{one.name.agent_id} is the only agent of type {one.agent_type!r} in its tenant")
        return found.sort_values(["level", "risk_score", "events"], ascending=[True, True, False]).iloc[0]

    def versions(self, agent: Agent = None, **window: Any) -> Any:
        """Versions of agents and when they were at work, of the events of a window (arguments of `events`)."""
        return behaviour.versions_frame(self.events(agent, **window))

    def upgrade(self, agent: Agent = None, **window: Any) -> Any:
        """The change of version with the most events on both sides: `agent_id`, `tenant`, `before`, `after`, `at`."""
        return behaviour.upgrade_of(self.versions(agent, **window))

    # -- what the live path says of events ----------------------------------------------------------------------------

    def scores(
        self, events: Any = None, model: LabModel | None = None, *, agent: Agent = None, tenant: str | None = None,
        since: Any = None, until: Any = None, learn: bool = True, limit: int = LIMIT,
    ) -> Any:  # fmt: skip
        """Every event through the live path: its score, its evidence, and the risk it left.

        Without *events*, all since the model's history ended are replayed, so that agents' state is as it was live.
        """
        return replaying.scores_frame(self._replayed(events, model, agent, tenant, since, until, learn, limit, False))

    def vectors(
        self, events: Any = None, model: LabModel | None = None, *, agent: Agent = None, tenant: str | None = None,
        since: Any = None, until: Any = None, learn: bool = True, limit: int = 20_000,
    ) -> Any:  # fmt: skip
        """The feature vector of every event, as `scores`."""
        return replaying.vectors_frame(self._replayed(events, model, agent, tenant, since, until, learn, limit, True))

    def risk_history(
        self, agent: Agent, *, tenant: str | None = None, since: Any = None, until: Any = None, every: str = "5min"
    ) -> Any:
        """An agent's risk over time: replayed event by event, decaying between them, with the recorded decisions."""
        scores = self.scores(agent=agent, tenant=tenant, since=since, until=until)
        found = list(stored.within(self._decisions(agent, tenant), moment(since), moment(until)))
        return replaying.history_frame(scores, found, self.settings.risk.half_life_s, every)

    # -- models and what-ifs ----------------------------------------------------------------------------------------

    def model(self, directory: str | Path | None = None) -> LabModel:
        """A model: that of the settings, or another directory's. Has features, groups, calibration and promise."""
        path = Path(directory) if directory is not None else self.settings.model_dir
        if path not in self._models:
            self._models[path] = learned.loaded(path, self._engine, self._types())
        return self._models[path]

    def train(
        self, events: Any, *, version: str | None = None, seed: int = 0, trees: int = 100,
        directory: str | Path | None = None,
    ) -> LabModel:  # fmt: skip
        """Learn a model from a frame of events, taken as normal. It goes to *directory*, or away with the lab."""
        name = version or clock.utc_now().strftime("lab-%Y-%m-%d.%H%M%S")
        path = self._work / f"model-{len(self._models)}-{name}" if directory is None else Path(directory)
        salt = secrets.token_bytes(16)
        with suppress(LabError):
            salt = self.model().trained.salt
        made = learned.trained(
            replaying.raw_lines(events), path, salt, name, DetectorSettings(seed=seed, trees=trees), self._engine,
            self.settings.domains(), self._types(), clock.now_ms(),
        )  # fmt: skip
        self._models[path] = made
        return made

    def reliability(self, scores: Any) -> Any:
        """Promised against observed: how often events of a frame `scores` had a p-value of at most so much."""
        return learned.reliability_frame(scores)

    def labels(self, path: str | Path | None = None) -> Any:
        """Labels of events, of a file as `trustwatch simulate --labels` writes it; default: `labels.jsonl` here."""
        return told.labels_frame(self._labels(path, wanted=True))

    def backtest(
        self, events: Any = None, *, models: Sequence[LabModel] = (), policies: Sequence[Policy] = (None,),
        since: Any = None, until: Any = None, labels: str | Path | None = None, budget: float = 1.0,
        learn: bool = True, jobs: int = 1,
    ) -> BacktestFrames:  # fmt: skip
        """History through the live path: alerts, requests, revocations; two models or two policies side by side.

        *budget* is a multiple of the one set. Labels default to `labels.jsonl` of the data directory.
        """
        plan = self._plan(events, models, policies, since, until, labels, budget, learn, jobs)
        return backtesting.run(plan)

    def budgets(
        self, events: Any = None, *, factors: Sequence[float] = (0.2, 0.5, 1.0, 2.0, 5.0, 20.0),
        model: LabModel | None = None, since: Any = None, until: Any = None, labels: str | Path | None = None,
        jobs: int = 1,
    ) -> Any:  # fmt: skip
        """The same history at several alert budgets (multiples of the one set), each run in full."""
        models = () if model is None else (model,)
        return backtesting.budgets_frame(
            self._plan(events, models, (None,), since, until, labels, 1.0, True, jobs), factors
        )

    def what_if(
        self, policies: Mapping[str, Policy], *, events: Any = None, factors: Sequence[float] = (1.0,),
        model: LabModel | None = None, since: Any = None, until: Any = None, jobs: int = 1,
    ) -> tuple[Any, Any]:  # fmt: skip
        """What policies (by name: None for that of the settings, a file, or what one would hold) would have done.

        Gives the frame `what_if`, and the frame `backtest_revoked` with columns `policy` and `factor` before it.
        """
        plan = self._plan(events, () if model is None else (model,), (None,), since, until, None, 1.0, True, jobs)
        books = {name: self._book(policy, name) for name, policy in policies.items()}
        return backtesting.what_if_frames(plan, books, factors)

    def judged(self, revoked: Any, labels: str | Path | None = None) -> Any:
        """Which agents of a frame `backtest_revoked` the labels call bad, and how long after their first bad event."""
        path = self._labels(labels, wanted=False)
        if path is None:
            return told.judged_frame(revoked, None, {})
        found = told.labels_frame(path)
        bad = set(found[found["bad_event"]]["id"])
        since = moment(revoked["at"].min())
        wanted = self._wanted(None, None, None if since is None else told.stamp(since - _DAY_MS), None)
        times = {one.event.id: one.time_ms for one in self._events(wanted) if one.event.id in bad}
        return told.judged_frame(revoked, found, times)

    # -- inside -----------------------------------------------------------------------------------------------------

    @cached_property
    def _store(self) -> SqlStore:
        return open_store(self.settings)

    @property
    def _work(self) -> Path:
        """A folder of this lab alone."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="trustwatch-lab-")
        return Path(self._folder.name)

    @property
    def _engine(self) -> EngineSettings:
        return engine_settings(self.settings, capacity=50_000)

    def _types(self) -> list[tuple[str, str]]:
        """Tenants and agent types that the store knows; none where there is no store."""
        try:
            return sorted({(one.name.tenant, one.agent_type) for one in stored.summaries(self._store, self.tenants)})
        except ConfigError:
            return []

    def _book(self, policy: Policy, name: str) -> PolicyBook:
        return backtesting.book_of(policy, policy_book(self.settings), self._work, name)

    def _summary(self, agent: Agent, tenant: str | None) -> AgentSummary:
        tenant, issuer, agent_id = _named(agent, tenant)
        return stored.find_agent(self._store, self.tenants, agent_id, tenant, issuer)

    def _decisions(self, agent: Agent, tenant: str | None) -> Iterator[Decision]:
        key = None if agent is None else self._summary(agent, tenant).name.key
        return stored.decisions(self._store, self.tenants, key)

    def _decision(self, decision: Any) -> Decision:
        wanted = decision if isinstance(decision, str) else getattr(decision, "decision_id", None)
        if not isinstance(wanted, str) or not wanted:
            raise LabError("no decision: pass an id, or a row of `lab.decisions()` such as `lab.worst()`")
        found = self._store.decision(wanted, self.tenants)
        if found is None:
            raise LabError(f"no decision {wanted!r} in the store; `lab.decisions()` lists them")
        return found

    def _wanted(self, agent: Agent, tenant: str | None, since: Any, until: Any) -> Wanted:
        return Wanted(
            None if agent is None else _named(agent, tenant), moment(since), moment(until),
            self.tenants if tenant is None or agent is not None else self._allowed(tenant),
        )  # fmt: skip

    def _allowed(self, tenant: str) -> frozenset[str]:
        return frozenset({tenant}) & (self.tenants if self.tenants is not None else {tenant})

    def _events(self, wanted: Wanted) -> Iterator[Found]:
        return History(self.settings).events(wanted)

    def _lines(self, model: LabModel, wanted: Wanted) -> Iterator[bytes]:
        """All events since the model's history ended, or since the window begins where that is earlier."""
        learned_ms = model.trained.window_ms[1]
        since_ms = learned_ms + 1
        if wanted.since_ms is not None and wanted.since_ms <= learned_ms:
            since_ms = wanted.since_ms
            _warn(f"model {model.version} has learned from events up to {model.window[1]:%Y-%m-%d %H:%M}: what is "
                  "scored before that it has seen")  # fmt: skip
        return (found.raw for found in self._events(wanted._replace(since_ms=since_ms)))

    def _replayed(
        self, events: Any, model: LabModel | None, agent: Agent, tenant: str | None, since: Any, until: Any,
        learn: bool, limit: int, vectors: bool,
    ) -> list[replaying.Replayed]:  # fmt: skip
        chosen, wanted = model or self.model(), self._wanted(agent, tenant, since, until)
        lines = self._lines(chosen, wanted) if events is None else replaying.raw_lines(events)
        settings = self._engine._replace(learn=learn)
        return replaying.replayed(lines, chosen.trained, settings, self.settings.domains(), wanted, limit, vectors)

    def _labels(self, path: str | Path | None, wanted: bool) -> Path | None:
        """A label file; by default the one in the data directory, if it is there."""
        chosen = Path(path) if path is not None else self.settings.data_dir / "labels.jsonl"
        if chosen.is_file():
            return chosen
        if wanted or path is not None:
            raise LabError(f"{chosen}: no labels; they are JSON lines as `trustwatch simulate --labels` writes")
        return None

    def _plan(
        self, events: Any, models: Sequence[LabModel], policies: Sequence[Policy], since: Any, until: Any,
        labels: str | Path | None, budget: float, learn: bool, jobs: int,
    ) -> Plan:  # fmt: skip
        if len(models) > 2 or not 1 <= len(policies) <= 2:
            raise LabError("a back-test compares two models or two policies at most; `lab.what_if` takes any number")
        chosen = list(models) or [self.model()]
        wanted = self._wanted(None, None, since, until)
        lines = self._lines(chosen[0], wanted) if events is None else replaying.raw_lines(events)
        path = self._work / f"events-{len(list(self._work.glob('events-*')))}.jsonl"
        with path.open("wb") as file:
            file.writelines(line.replace(b"\n", b" ") + b"\n" for line in lines)
        settings = self._engine._replace(learn=learn)
        settings = settings._replace(budget=backtesting.multiple(settings.budget, budget))
        return Plan(
            [path], [one.directory for one in chosen], settings, [self._book(one, f"policy {one}") for one in policies],
            plain_budgets(settings.budget), self.settings.domains(), told.aware(since), told.aware(until),
            self._labels(labels, wanted=False), (), jobs,
        )  # fmt: skip


def _named(agent: Agent, tenant: str | None) -> tuple[str | None, str | None, str]:
    """Tenant, issuer and id of an agent that is given as an id or a row; None = any."""
    if isinstance(agent, str):
        return tenant, None, agent
    try:
        return tenant or agent["tenant"], agent.get("issuer"), agent["agent_id"]
    except (KeyError, TypeError, AttributeError):
        raise LabError("no agent: pass its id, or a row of a frame that has `agent_id` and `tenant`") from None


def _warn(text: str) -> None:
    warnings.warn(text, LabWarning, stacklevel=4)
