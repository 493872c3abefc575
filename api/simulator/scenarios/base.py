"""What a scenario is, and what it may use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from ..draws import Draws, digest
from ..grammar import Step, Task
from ..population import Enterprise, SimulatedAgent
from ..roles import ROLES
from ..rows import Stream
from ..session import Chain, Origin, Session
from ..work import choose_task


@dataclass(frozen=True, slots=True)
class Strike:
    """One attack being played: against whom, from when (milliseconds since 1970), and where its rows go."""

    enterprise: Enterprise
    agent: SimulatedAgent
    at_ms: int
    stream: Stream

    @property
    def draws(self) -> Draws:
        """The attack's own randomness."""
        return self.stream.draws

    @property
    def end_ms(self) -> int:
        """End of the simulation; later rows are dropped."""
        return self.enterprise.settings.end_ms

    def session(self, at_ms: float, task: Task | None = None, origin: Origin | None = None) -> Session:
        """A session of the agent for its most frequent user."""
        task = task or choose_task(self.agent.role, self.draws.unit())
        user = self.agent.tenant.user(self.agent.users[0]) if task.for_user else None
        return Session(self.stream, self.agent, task, at_ms, Chain(user, (), self.stream.name()), origin)

    def unseen(self, step: Step) -> int:
        """First rank of the step's kind that the agent has not reached yet, with room for the growth of a day."""
        return self.agent.pools.get(step.kind.name, step.kind.size) + 500

    def word(self, purpose: str) -> str:
        """Eight hex digits of the attack's own."""
        return digest(purpose, self.stream.salt, self.stream.name())[:8]


@dataclass(frozen=True, slots=True)
class Scenario:
    """An attack by name.

    Args:
        summary: one sentence for people.
        play: writes rows to the strike's stream; each `yield` ends a batch, and batches start in time order.
        roles: agent types it is played with.
        needs: roles that must exist in the same tenant.
        window: shares of the duration between which a moment is drawn where none is given.
        quiet_before: how long the agent is silent before the attack; None for not at all.
    """

    name: str
    summary: str
    play: Callable[[Strike], Iterator[None]]
    roles: frozenset[str]
    needs: tuple[str, ...] = ()
    quiet_before: timedelta | None = None
    window: tuple[float, float] = (0.5, 0.9)


ANY_ROLE = frozenset(role.name for role in ROLES)
UNPRIVILEGED = frozenset(role.name for role in ROLES if not role.privileged)


def own_steps(strike: Strike, *effects: str) -> list[Step]:
    """What the agent usually does itself, by effect, in table order; steps of later versions left out."""
    return [s for s in strike.agent.role.steps() if s.calls is None and s.since == 0 and s.effect in effects]
