"""Behaviour of roles: kinds of resources, steps, tasks and roles, with the parts of their JSON that never change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import msgspec

from .working_hours import WorkShift

ResourceIdStyle = Literal["plain", "mail", "host"]


def to_json(value: object) -> str:
    """Compact JSON of any plain value."""
    return msgspec.json.encode(value).decode()


@dataclass(frozen=True, slots=True)
class ResourceKind:
    """A kind of resource.

    Args:
        name: `resource.type`.
        host: label of the service that holds it; the audience is `https://<host>.<tenant domain>`.
        size: number that an agent uses at the start.
        growth: probability that a use touches one the agent never used before (legitimate novelty).
        style: of ids: `acct-17`, a mail address, or a URL.
        external: true for resources outside the tenant.
    """

    name: str
    host: str
    size: int
    growth: float
    style: ResourceIdStyle = "plain"
    external: bool = False

    def resource_names(self, number: int) -> tuple[str, str]:
        """Id and canonical target of the numbered resource."""
        if self.style == "mail":
            address = f"{self.name}.{number}@client-{number % 23}.example.net"
            return address, address
        if self.style == "host":
            host = f"www.site-{number}.example.org"
            return f"https://{host}/{self.name}", host
        return f"{self.name}-{number}", f"{self.name}-{number}"


@dataclass(slots=True, kw_only=True)
class TaskStep:
    """One kind of action within a task.

    Args:
        again: probability to repeat it at once (a geometric number of repeats).
        skip: probability to leave it out.
        size_in, size_out: median bytes of the request and of the result.
        duration_ms: median duration.
        error, denied: probability of an error and of a denial.
        calls: role of the agent that is asked to do this part (an A2A message, then work under a token exchange).
        since: number of version changes after which the step first appears.
        derived: the resource comes out of an earlier result, not out of the request.
    """

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
        """Expected number of events of this step in one pass."""
        return (1 - self.skip) / (1 - self.again)


@dataclass(frozen=True, slots=True)
class AgentTask:
    """A declared purpose: a Markov chain over its steps.

    From a step the walk repeats it (`again`) or goes on; a step may be left out (`skip`); after the last step it
    returns to the first with probability `loop` (the next item of the same work).
    """

    name: str
    steps: tuple[TaskStep, ...]
    loop: float = 0.0
    weight: float = 1.0
    for_user: bool = True

    @property
    def scopes(self) -> list[str]:
        """Scopes that the task's token asks for, sorted."""
        return sorted({step.scope for step in self.steps})

    @property
    def mean_steps(self) -> float:
        """Expected number of own events, the token request not counted."""
        return sum(step.mean_visits for step in self.steps if step.since == 0) / (1 - self.loop)


@dataclass(frozen=True, slots=True)
class AgentRole:
    """An agent type.

    Args:
        activity: events per day relative to the mean agent.
        shift: working hours.
        lifetime_s: lifetime of its tokens.
        method: how it authenticates at the authorization server.
        privileged: may do what ordinary agents may not (payments, deployments, orchestration).
    """

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
