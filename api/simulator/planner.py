"""Which attack happens when and to whom, and its actor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from ...ingest.errors import ConfigError
from .calendar import DAY_MS, HOUR_MS
from .draws import Draws
from .population import Enterprise, SimulatedAgent
from .rows import Row, Stream
from .scenarios import SCENARIOS, Scenario, Strike
from .settings import Attack


@dataclass(frozen=True, slots=True)
class PlannedAttack:
    """One attack with everything decided; `at_ms` is milliseconds since 1970."""

    scenario: Scenario
    agent: SimulatedAgent
    at_ms: int


def plan_attacks(enterprise: Enterprise) -> list[PlannedAttack]:
    """Decide moment and agent of every attack; agents that will awaken fall asleep beforehand.

    Raises:
        ConfigError: unknown scenario, agent or moment, or nobody who can play it.
    """
    settings = enterprise.settings
    draws = Draws(settings.seed, 4)
    planned: list[PlannedAttack] = []
    for attack in (*settings.attacks, *_further(enterprise, draws)):
        scenario = SCENARIOS.get(attack.scenario)
        if scenario is None:
            raise ConfigError(f"unknown scenario {attack.scenario!r}; there are {', '.join(SCENARIOS)}")
        at_ms = _moment(enterprise, attack, draws.between(*scenario.window))
        taken = {plan.agent.index for plan in planned}
        agent = _choose(enterprise, scenario, attack, at_ms, taken, draws.unit())
        if attack.at is None:
            at_ms = _at_work(enterprise, agent, at_ms, draws.unit())
        if scenario.quiet_before is not None:
            quiet = min(scenario.quiet_before // timedelta(milliseconds=1), (at_ms - agent.active_from) * 3 // 5)
            agent.active_until, agent.retires = at_ms - quiet, False
        planned.append(PlannedAttack(scenario, agent, at_ms))
    return planned


def _further(enterprise: Enterprise, draws: Draws) -> Iterator[Attack]:
    """Attacks at random moments, as many a day as the settings say."""
    settings = enterprise.settings
    if settings.attacks_per_day == 0:
        return
    names = list(SCENARIOS)
    at = timedelta()
    while True:
        at += timedelta(days=draws.exponential() / settings.attacks_per_day)
        if at >= settings.duration:
            return
        name = names[draws.index(len(names))]
        # A random scenario that this enterprise has nobody for is no mistake of the caller: it does not happen.
        if any(_suits(enterprise, SCENARIOS[name], agent) for agent in enterprise.agents):
            yield Attack(name, at)


def _moment(enterprise: Enterprise, attack: Attack, share: float) -> int:
    settings = enterprise.settings
    if attack.at is None:
        return settings.start_ms + int((settings.end_ms - settings.start_ms) * share)
    if not timedelta(0) <= attack.at < settings.duration:
        raise ConfigError(f"attack {attack.scenario} at {attack.at} is outside the duration {settings.duration}")
    return settings.start_ms + attack.at // timedelta(milliseconds=1)


def _at_work(enterprise: Enterprise, agent: SimulatedAgent, at_ms: int, draw: float) -> int:
    """A drawn moment moves into the agent's working hours, where there are some left: most attacks hide in work."""
    moved = agent.profile.after(at_ms, 0.2 + draw)
    return moved if moved + HOUR_MS < enterprise.settings.end_ms else at_ms


def _choose(
    enterprise: Enterprise, scenario: Scenario, attack: Attack, at_ms: int, taken: set[int], draw: float
) -> SimulatedAgent:
    """The named agent, or one that suits: best with a history behind it, alive then, and no other attack's."""
    suited = [
        agent
        for agent in enterprise.agents
        if attack.agent in (None, agent.id)
        and attack.tenant in (None, agent.tenant.name)
        and (attack.agent is not None or _suits(enterprise, scenario, agent))
    ]
    if not suited:
        who = f"agent {attack.agent!r}" if attack.agent is not None else f"agent of a role in {sorted(scenario.roles)}"
        raise ConfigError(f"no {who} for attack {scenario.name}; the enterprise has {len(enterprise.agents)} agents")
    seasoned = [agent for agent in suited if _seasoned(enterprise, agent, at_ms)] or suited
    free = [agent for agent in seasoned if agent.index not in taken] or seasoned
    return free[int(draw * len(free))]


def _suits(enterprise: Enterprise, scenario: Scenario, agent: SimulatedAgent) -> bool:
    return agent.role.name in scenario.roles and all(enterprise.of_role(agent.tenant, need) for need in scenario.needs)


def _seasoned(enterprise: Enterprise, agent: SimulatedAgent, at_ms: int) -> bool:
    start, end = enterprise.settings.start_ms, enterprise.settings.end_ms
    history = min(DAY_MS, (at_ms - start) // 2)
    return agent.active_from <= at_ms - history and agent.active_until >= min(end, at_ms + 6 * HOUR_MS)


class AttackActor:
    """An attack at work; once it has begun one batch of rows is made ahead, so that its next moment is known.

    It begins at its own moment and not before, since what is new to an agent depends on what it has met until then.
    """

    def __init__(self, enterprise: Enterprise, plan: PlannedAttack, stream: Stream) -> None:
        self._stream = stream
        self._end = enterprise.settings.end_ms
        self._play = plan.scenario.play(Strike(enterprise, plan.agent, plan.at_ms, stream))
        self._ahead: list[Row] = []
        self.next_ms = plan.at_ms

    def _look_ahead(self) -> int:
        for _ in self._play:
            self._ahead = self._stream.take()
            if self._ahead:
                return min(self._ahead).at_ms
        self._ahead = []
        return self._end

    def advance(self) -> list[Row]:
        """The next batch; none at the attack's first moment."""
        rows = self._ahead
        self.next_ms = self._look_ahead()
        return rows
