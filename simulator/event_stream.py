"""The simulation itself: all actors merged into one stream in order of event time, a minute of it in memory at once."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import itemgetter

import numpy as np

from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.timestamps import DAY_MS, HOUR_MS, MINUTE_MS

from .actors import AgentActor, LifecycleActor
from .attack_scenarios import SCENARIOS, AttackContext, AttackScenario
from .labelled_events import ActorStream, DraftEvent, RandomStream, SimulatedEvent, SimulatedLabel, mix64
from .population import Attack, Enterprise, SimulatedAgent, SimulationSettings


@dataclass(frozen=True, slots=True)
class PlannedAttack:
    """An attack with everything decided. `at_ms` is milliseconds since 1970."""

    scenario: AttackScenario
    agent: SimulatedAgent
    at_ms: int


def plan_attacks(enterprise: Enterprise) -> list[PlannedAttack]:
    """Decide moment and agent of every attack. Agents that will awaken go dormant beforehand.

    Raises:
        ConfigError: unknown scenario, agent or moment, or no agent that can play it.
    """
    settings = enterprise.settings
    draws = RandomStream(settings.seed, 4)
    planned: list[PlannedAttack] = []
    for attack in (*settings.attacks, *_random_attacks(enterprise, draws)):
        scenario = SCENARIOS.get(attack.scenario)
        if scenario is None:
            raise ConfigError(f"unknown scenario {attack.scenario!r}; there are {', '.join(SCENARIOS)}")
        share = draws.uniform_between(*scenario.window)
        if attack.at is None:
            at_ms = settings.start_ms + int((settings.end_ms - settings.start_ms) * share)
        elif timedelta(0) <= attack.at < settings.duration:
            at_ms = settings.start_ms + attack.at // timedelta(milliseconds=1)
        else:
            raise ConfigError(f"attack {attack.scenario} at {attack.at} is outside the duration {settings.duration}")
        taken = {plan.agent.index for plan in planned}
        agent = _choose_agent(enterprise, scenario, attack, at_ms, taken, draws.uniform())
        if attack.at is None:
            # Most attacks hide in work: the moment moves into the agent's working hours, if some remain.
            moved = agent.activity.advance(at_ms, 0.2 + draws.uniform())
            at_ms = moved if moved + HOUR_MS < settings.end_ms else at_ms
        if scenario.quiet_before is not None:
            quiet = min(scenario.quiet_before // timedelta(milliseconds=1), (at_ms - agent.active_from) * 3 // 5)
            agent.active_until, agent.retires = at_ms - quiet, False
        planned.append(PlannedAttack(scenario, agent, at_ms))
    return planned


def _random_attacks(enterprise: Enterprise, draws: RandomStream) -> Iterator[Attack]:
    settings = enterprise.settings
    if settings.attacks_per_day == 0:
        return
    names = list(SCENARIOS)
    at = timedelta()
    while True:
        at += timedelta(days=draws.exponential() / settings.attacks_per_day)
        if at >= settings.duration:
            return
        name = names[draws.uniform_index(len(names))]
        # A random scenario that no agent of this enterprise can play is skipped without an error.
        if any(_can_play(enterprise, SCENARIOS[name], agent) for agent in enterprise.agents):
            yield Attack(name, at)


def _choose_agent(
    enterprise: Enterprise, scenario: AttackScenario, attack: Attack, at_ms: int, taken: set[int], draw: float
) -> SimulatedAgent:
    """Return the named agent, or a suitable one: preferably with history, alive then, and in no other attack."""
    suited = [
        agent
        for agent in enterprise.agents
        if attack.agent in (None, agent.id)
        and attack.tenant in (None, agent.tenant.name)
        and (attack.agent is not None or _can_play(enterprise, scenario, agent))
    ]
    if not suited:
        who = f"agent {attack.agent!r}" if attack.agent is not None else f"agent of a role in {sorted(scenario.roles)}"
        raise ConfigError(f"no {who} for attack {scenario.name}; the enterprise has {len(enterprise.agents)} agents")
    start, end = enterprise.settings.start_ms, enterprise.settings.end_ms
    first, last = at_ms - min(DAY_MS, (at_ms - start) // 2), min(end, at_ms + 6 * HOUR_MS)
    seasoned = [agent for agent in suited if agent.active_from <= first and agent.active_until >= last] or suited
    free = [agent for agent in seasoned if agent.index not in taken] or seasoned
    return free[int(draw * len(free))]


def _can_play(enterprise: Enterprise, scenario: AttackScenario, agent: SimulatedAgent) -> bool:
    return agent.role.name in scenario.roles and all(
        enterprise.agents_with_role(agent.tenant, need) for need in scenario.needs
    )


class AttackActor:
    """A running attack. After its start, one batch of rows is created ahead, so that its next moment is known.

    It begins at its planned moment, because what is new to an agent depends on its history until then.
    """

    def __init__(self, enterprise: Enterprise, plan: PlannedAttack, stream: ActorStream) -> None:
        self._stream = stream
        self._end = enterprise.settings.end_ms
        self._scenario_run = plan.scenario.play(AttackContext(enterprise, plan.agent, plan.at_ms, stream))
        self._next_drafts: list[DraftEvent] = []
        self.next_ms = plan.at_ms

    def advance(self) -> list[DraftEvent]:
        """Return the next batch, which is empty at the attack's first moment."""
        rows, self._next_drafts, self.next_ms = self._next_drafts, [], self._end
        for _ in self._scenario_run:
            if drafts := self._stream.drain():
                self._next_drafts, self.next_ms = drafts, min(drafts).at_ms
                break
        return rows


_MERGE_SLICE_MS = MINUTE_MS
"""Span of event time that is generated, sorted and returned at once."""


SimulationActor = AgentActor | LifecycleActor | AttackActor
"""Producer of rows: `advance` returns rows that are never older than `next_ms` was before it, and moves `next_ms`."""


def simulate(settings: SimulationSettings) -> Iterator[SimulatedEvent]:
    """Yield the events of the whole simulation in order of event time.

    Equal settings give identical bytes. Memory holds the agents and about a minute of events, for any duration.

    Raises:
        ConfigError: before the first event: an attack names an unknown scenario or agent, or no agent can play it.
    """
    enterprise = Enterprise(settings)
    # The salt of event IDs: two simulations differ even if only their start does.
    key = np.random.SeedSequence((settings.seed, abs(settings.start_ms), settings.end_ms - settings.start_ms))
    low, high = key.generate_state(2)
    salt = int(high) << 32 | int(low)
    attacks = plan_attacks(enterprise)
    actors: list[SimulationActor] = [
        AgentActor(enterprise, agent, ActorStream(agent.index, RandomStream(settings.seed, 1, agent.index), salt))
        for agent in enterprise.agents
    ]
    number = len(actors)
    actors.append(LifecycleActor(enterprise, ActorStream(number, RandomStream(settings.seed, 3), salt)))
    for turn, attack in enumerate(attacks):
        stream = ActorStream(number + 1 + turn, RandomStream(settings.seed, 2, turn), salt, attack.scenario.name)
        actors.append(AttackActor(enterprise, attack, stream))
    return _complete_events(_merge_actors(actors, settings.start_ms, settings.end_ms), salt)


def _merge_actors(actors: list[SimulationActor], start_ms: int, end_ms: int) -> Iterator[list[DraftEvent]]:
    """Yield lists of rows in order. Rows at or after the end are dropped."""
    heap = [(actor.next_ms, number, actor) for number, actor in enumerate(actors) if actor.next_ms < end_ms]
    heapq.heapify(heap)
    pending: list[DraftEvent] = []
    edge = start_ms
    while edge < end_ms:
        edge = min(edge + _MERGE_SLICE_MS, end_ms)
        while heap and heap[0][0] < edge:
            _, number, actor = heap[0]
            pending += actor.advance()
            if actor.next_ms < end_ms:
                heapq.heapreplace(heap, (actor.next_ms, number, actor))
            else:
                heapq.heappop(heap)
        pending.sort()
        cut = bisect_left(pending, edge, key=itemgetter(0))
        yield pending[:cut]
        del pending[:cut]


def _complete_events(slices: Iterator[list[DraftEvent]], salt: int) -> Iterator[SimulatedEvent]:
    second, stamp = -1, ""
    for rows in slices:
        for at_ms, key, text, truth, event_label in rows:
            if at_ms // 1000 != second:
                second = at_ms // 1000
                stamp = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
            name = f"evt-{mix64(key ^ salt):016x}"
            event = f'{{"id":"{name}","time":"{stamp}{at_ms % 1000:03d}Z"{text}'.encode()
            label = SimulatedLabel(name, truth[0], truth[1], truth[2], event_label, truth[3], truth[4])
            yield SimulatedEvent(event, label, at_ms)
