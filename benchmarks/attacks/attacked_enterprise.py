"""Simulated enterprises under attack: a week of history, days with attacks, what the live path says of each event."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from unittest import mock

import msgspec
import numpy as np
from numpy.typing import NDArray

from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.file_source import FileSource
from trustwatch.ingest.formats.history_decoding import decode_history_event
from trustwatch.ingest.timestamps import DAY_MS
from trustwatch.models.trained_model import TrainedModel
from trustwatch.scoring.engine import risk, risk_levels
from trustwatch.scoring.engine.engine import EngineSettings
from trustwatch.scoring.engine.scored_batch import ScoredBatch
from trustwatch.scoring.learning.walkforward import train_walk_forward
from trustwatch.scoring.pipeline.replay import HistoryReplay
from trustwatch.simulator.attack_scenarios import SCENARIOS
from trustwatch.simulator.event_stream import PlannedAttack, plan_attacks, simulate
from trustwatch.simulator.labelled_events import SimulatedLabel
from trustwatch.simulator.population import Attack, Enterprise, SimulationSettings

from .additional_scenarios import ADDITIONAL_SCENARIOS, POISONED_HISTORY_SCENARIOS

START = datetime(2026, 3, 2, tzinfo=UTC)
SALT = b"salt of the worlds"
TENANTS = ("acme-corp", "globex")
FIELDS = (
    *("time_ms", "p", "anomaly", "statistic", "gain", "before", "after", "group"),
    *("level", "announced", "concern_p", "statistics", "vectors"),
)
"""Kept of each event. *level* is the one before it, when time had passed since the agent's last; *announced*, the parts
of its access path that had been announced by then (`ScoredBatch.announced_paths`). *concern_p* and *statistics*
(n, 3) are by concern, *vectors* (n, F)."""


class EnterpriseSize(NamedTuple):
    """How large a world is."""

    agents: int
    history_days: int
    judged_days: int
    each: int  # how often every attack is played
    events_per_agent_day: float = 200.0


@dataclass(frozen=True)
class AttackedEnterprise:
    """What happened. Rows are the judged events, in order.

    Attributes:
        labels: truth per row; agent: number of each row's agent (n,).
        trail: per row what the live path said, see `FIELDS`; levels as `RiskLevel`.
        attack: number of the attack each row belongs to, -1 for none.
        plans: the attacks.
        model: what was learned of the history.
        events: raw JSON per row.
    """

    labels: list[SimulatedLabel]
    agent: NDArray[np.int64]
    trail: dict[str, NDArray[Any]]
    attack: NDArray[np.int64]
    plans: list[PlannedAttack]
    model: TrainedModel
    events: list[bytes]

    @property
    def malicious_rows(self) -> NDArray[np.bool_]:
        """Rows that are the attacker's doing."""
        return np.array([bool(label.event_label) for label in self.labels])

    @property
    def unattacked_rows(self) -> NDArray[np.bool_]:
        """Rows of agents that no attack touches in the judged days."""
        return ~np.isin(self.agent, np.unique(self.agent[self.attack >= 0]))

    @property
    def untouched_rows(self) -> NDArray[np.bool_]:
        """Rows of agents that no attack has touched yet."""
        first = np.full(int(self.agent.max()) + 1, len(self.agent))
        np.minimum.at(first, self.agent[self.attack >= 0], np.flatnonzero(self.attack >= 0))
        return np.asarray(np.arange(len(self.agent)) < first[self.agent])

    @property
    def level_rises(self) -> NDArray[np.bool_]:
        """Rows at which an agent's level rose to medium or more."""
        return np.asarray((self.trail["after"] >= risk_levels.MEDIUM) & (self.trail["after"] > self.trail["before"]))

    def agent_days(self, rows: NDArray[np.bool_]) -> int:
        """Days on which agents were active, summed over agents."""
        days = self.trail["time_ms"] // DAY_MS
        return len(np.unique(np.stack([self.agent[rows], days[rows]]), axis=1).T)


class NumericReplay(HistoryReplay):
    """A replay that keeps numbers instead of words."""

    def _events_of(self, scored: ScoredBatch) -> Iterator[Any]:
        risks, levels = scored.risk.copy(), scored.levels.copy()
        yield (
            scored.columns.time_ms,
            scored.p_values,
            scored.anomaly,
            risks[:, risk.STATISTIC],
            risks[:, risk.GAIN],
            levels[:, 0],
            levels[:, 1],
            scored.threshold_rows,
            risks[:, risk.LEVEL_BEFORE].astype(np.int8),
            scored.announced_paths.copy(),
            scored.concern_p_values.copy(),
            scored.concern_risk[:, :, risk.CONCERN_STATISTIC].copy(),
            scored.vectors.astype(np.float32),
        )


def clean_history(size: EnterpriseSize, seed: int) -> AttackedEnterprise:
    """Every attack of the simulator and of `ADDITIONAL_SCENARIOS`, each on other agents, behind a clean history."""
    first = timedelta(days=size.history_days)
    attacks = [
        Attack(name, first + timedelta(hours=7 + 5.3 * turn + 0.6 * number))
        for turn in range(size.each)
        for number, name in enumerate((*SCENARIOS, *ADDITIONAL_SCENARIOS))
    ]
    return _build(size, seed, attacks)


def poisoned_history(size: EnterpriseSize, seed: int) -> AttackedEnterprise:
    """Attacks that were part of the history already."""
    return _build(
        size, seed, [Attack(name, timedelta(hours=6)) for name in POISONED_HISTORY_SCENARIOS for _ in range(size.each)]
    )


def _build(size: EnterpriseSize, seed: int, attacks: list[Attack]) -> AttackedEnterprise:
    settings = SimulationSettings(
        START,
        timedelta(days=size.history_days + size.judged_days),
        seed,
        size.agents,
        TENANTS,
        attacks=tuple(attacks),
        events_per_agent_day=size.events_per_agent_day,
    )
    cut = settings.start_ms + size.history_days * DAY_MS
    with mock.patch.dict(SCENARIOS, {**ADDITIONAL_SCENARIOS, **POISONED_HISTORY_SCENARIOS}):
        plans = plan_attacks(Enterprise(settings))
        made = list(simulate(settings))
    history = [event.event for event in made if event.at_ms < cut]
    judged = [event for event in made if event.at_ms >= cut]
    columns = ColumnEncoder(SALT, domains()).encode([decode_history_event(event)[0] for event in history])
    model = train_walk_forward(columns, SALT, "world").model
    labels, events = [event.label for event in judged], [event.event for event in judged]
    number: dict[tuple[str, str], int] = {}
    agent = np.array([number.setdefault((label.tenant, label.agent_id), len(number)) for label in labels])
    trail = replay_scores(model, events)
    attack = np.array([_attack_of(label, event.at_ms, plans) for label, event in zip(labels, judged, strict=True)])
    return AttackedEnterprise(labels, agent, trail, attack, plans, model, events)


def domains() -> dict[str, tuple[str, ...]]:
    """Internal domains of the tenants."""
    return {name: (f"{name}.example",) for name in TENANTS}


def replay_scores(
    model: TrainedModel, events: Sequence[bytes], settings: EngineSettings | None = None
) -> dict[str, NDArray[Any]]:
    """What the live path says of each event: arrays by the names of `FIELDS`."""
    run = NumericReplay(model, settings or EngineSettings(), domains())
    parts = list(run.replayed_events(FileSource(io.BytesIO(b"\n".join(events) + b"\n")), raise_malformed))
    return {name: np.concatenate([part[at] for part in parts]) for at, name in enumerate(FIELDS)}


def _attack_of(label: SimulatedLabel, at_ms: int, plans: list[PlannedAttack]) -> int:
    """The attack that an event belongs to: of its scenario, against its agent where that has one, begun last."""
    if not label.session_label:
        return -1
    begun = [at for at, plan in enumerate(plans) if plan.scenario.name == label.scenario and plan.at_ms <= at_ms]
    own = [
        at
        for at in begun
        if label.agent_id.startswith(plans[at].agent.id) and plans[at].agent.tenant.name == label.tenant
    ]
    return max(own or begun, key=lambda at: plans[at].at_ms)


def raise_malformed(offset: int, path: str, reason: str) -> None:
    """End: what the simulator makes is an event."""
    raise SystemExit(f"record {offset} is no event: {reason} at {path}")


def rename_agents(events: Sequence[bytes], suffix: str) -> list[bytes]:
    """The same events by agents that nobody has met: every agent id gets the suffix."""
    out = []
    for raw in events:
        event = msgspec.json.decode(raw)
        event["agent"]["id"] += suffix
        if "delegation" in event:
            event["delegation"] = [name + suffix for name in event["delegation"]]
        if "peer" in event:
            event["peer"] += suffix
        out.append(msgspec.json.encode(event))
    return out
