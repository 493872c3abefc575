"""The enterprise of `roles.toml`: names of people, kinds of resources, and the tasks of each role of agents."""

from __future__ import annotations

import tomllib
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from itertools import accumulate
from typing import Any, Literal

import msgspec

from trustwatch.ingest.timestamps import HOUR_MS

WEEK_HOURS = 168
_EPOCH_HOUR_OF_WEEK = 72
"""1970-01-01 was a Thursday: hour 0 of the epoch is hour 72 of a week that starts on Monday."""

WorkShift = Literal["office", "night", "always", "extended"]


def _hourly_activity(shift: WorkShift, day: int, hour: int) -> float:
    """Return the relative activity in one local hour. Day 0 is Monday. Never zero, since some people work late."""
    weekend = day >= 5
    if shift == "night":
        return 1.0 if hour < 5 else 0.01
    if shift == "always":
        return 0.8 if weekend else 1.0 + 0.2 * (8 <= hour < 18)
    if shift == "extended":
        return (0.35 if weekend else 1.0) if 7 <= hour < 22 else 0.05
    if weekend or not 7 <= hour < 19:
        return 0.01
    return 0.3 if hour in (7, 12, 18) else 1.0


class ActivityProfile:
    """Activity over a week in UTC, mean 1, constant within an hour."""

    def __init__(self, shift: WorkShift, utc_offset: int) -> None:
        local = [((h + utc_offset) % WEEK_HOURS) for h in range(WEEK_HOURS)]
        raw = [_hourly_activity(shift, *divmod(h, 24)) for h in local]
        mean = sum(raw) / WEEK_HOURS
        self.weights = [w / mean for w in raw]
        self._cumulative = list(accumulate(self.weights, initial=0.0))

    def advance(self, at_ms: int, amount: float) -> int:
        """Return the moment by which `amount` mean hours of activity have passed since `at_ms`.

        With `amount` = exponential / rate this is the next arrival of a Poisson process whose rate follows the profile.
        """
        hours, rest = divmod(at_ms + _EPOCH_HOUR_OF_WEEK * HOUR_MS, HOUR_MS)
        week, hour = divmod(hours, WEEK_HOURS)
        total = self._cumulative[-1]
        goal = self._cumulative[hour] + self.weights[hour] * rest / HOUR_MS + amount
        weeks, goal = divmod(goal, total)
        hour = min(bisect_right(self._cumulative, goal) - 1, WEEK_HOURS - 1)
        part = (goal - self._cumulative[hour]) / self.weights[hour]
        moment = ((week + int(weeks)) * WEEK_HOURS + hour + part - _EPOCH_HOUR_OF_WEEK) * HOUR_MS
        return max(at_ms, int(moment))

    def quietest_hour(self, at_ms: int, hours: int) -> int:
        """Return the start of the least active of the next `hours` after `at_ms`, the earliest if several are equal."""
        first = at_ms // HOUR_MS + 1
        weights = [self.weights[(hour + _EPOCH_HOUR_OF_WEEK) % WEEK_HOURS] for hour in range(first, first + hours)]
        return (first + weights.index(min(weights))) * HOUR_MS


@lru_cache(maxsize=256)
def activity_profile(shift: WorkShift, utc_offset: int) -> ActivityProfile:
    """Return the shared profile of a shift and time zone."""
    return ActivityProfile(shift, utc_offset)


ResourceIdStyle = Literal["plain", "mail", "host"]


def to_json(value: object) -> str:
    """Return the compact JSON of a plain value."""
    return msgspec.json.encode(value).decode()


@dataclass(frozen=True, slots=True)
class ResourceKind:
    name: str
    host: str
    size: int
    growth: float
    style: ResourceIdStyle = "plain"
    external: bool = False

    def resource_names(self, number: int) -> tuple[str, str]:
        """Return ID and canonical target of the numbered resource."""
        if self.style == "mail":
            address = f"{self.name}.{number}@client-{number % 23}.example.net"
            return address, address
        if self.style == "host":
            host = f"www.site-{number}.example.org"
            return f"https://{host}/{self.name}", host
        return f"{self.name}-{number}", f"{self.name}-{number}"


@dataclass(slots=True, kw_only=True)
class TaskStep:
    """One kind of action within a task."""

    action: str
    effect: str
    kind: ResourceKind
    scope: str
    type: str = "tool.call"
    again: float = 0.0
    skip: float = 0.0
    size_in: int = 300
    size_out: int = 1500
    duration_ms: int = 120
    error: float = 0.01
    denied: float = 0.001
    calls: str | None = None
    since: int = 0
    derived: bool = False
    json_prefix: str = field(init=False, repr=False)
    scopes_json: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        action = to_json(self.action)
        self.json_prefix = f',"type":"{self.type}","action":{action},"effect":"{self.effect}"'
        self.scopes_json = f',"scopes":{to_json({"requested": [self.scope], "granted": [self.scope]})}'

    @property
    def mean_visits(self) -> float:
        """Return the expected number of events of this step in one pass."""
        return (1 - self.skip) / (1 - self.again)


@dataclass(frozen=True, slots=True)
class AgentTask:
    """A declared purpose: a Markov chain over its steps.

    From a step the walk repeats it (`again`) or continues; a step may be left out (`skip`); after the last step it
    returns to the first with probability `loop` (the next item of the same work).
    """

    name: str
    steps: tuple[TaskStep, ...]
    loop: float = 0.0
    weight: float = 1.0
    for_user: bool = True

    @property
    def scopes(self) -> list[str]:
        """Scopes that the task's token requests, sorted."""
        return sorted({step.scope for step in self.steps})

    @property
    def mean_steps(self) -> float:
        """Expected number of the task's own events, without the token request."""
        return sum(step.mean_visits for step in self.steps if step.since == 0) / (1 - self.loop)


@dataclass(frozen=True, slots=True)
class AgentRole:
    """An agent type."""

    name: str
    slug: str
    tasks: tuple[AgentTask, ...]
    activity: float = 1.0
    shift: WorkShift = "office"
    lifetime_s: int = 600
    method: str = "private_key_jwt"
    privileged: bool = False

    @property
    def capabilities(self) -> list[str]:
        """Every action it declares, sorted."""
        return sorted({step.action for task in self.tasks for step in task.steps})

    def steps(self) -> list[TaskStep]:
        """All steps of all tasks, in table order."""
        return [step for task in self.tasks for step in task.steps]


_TABLES = tomllib.loads(files(__package__).joinpath("roles.toml").read_text(encoding="utf-8"))

FIRST_NAMES, LAST_NAMES = _TABLES["first_names"], _TABLES["last_names"]
RESOURCES = {name: ResourceKind(name, **members) for name, members in _TABLES["resources"].items()}
"""Kinds of resources by name."""


def make_step(action: str, effect: str, kind: str, scope: str, **more: Any) -> TaskStep:
    """Create a step from one table line. `kind` is a name in `RESOURCES`, `more` as in `TaskStep`."""
    return TaskStep(action=action, effect=effect, kind=RESOURCES[kind], scope=scope, **more)


def _read_role(role: dict[str, Any]) -> AgentRole:
    tasks = [
        AgentTask(**task | {"steps": tuple(make_step(**step) for step in task["steps"])}) for task in role["tasks"]
    ]
    return AgentRole(**role | {"tasks": tuple(tasks)})


ROLES = tuple(map(_read_role, _TABLES["roles"]))
ROLES_BY_NAME = {role.name: role for role in ROLES}
