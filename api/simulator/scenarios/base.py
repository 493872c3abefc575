"""What a scenario is, and what it may use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from ..draws import RandomStream, hex_digest
from ..grammar import AgentTask, TaskStep
from ..population import Enterprise, SimulatedAgent
from ..roles import ROLES
from ..rows import ActorStream
from ..session import CallOrigin, DelegationContext, SimulatedSession
from ..work import choose_task


@dataclass(frozen=True, slots=True)
class AttackContext:
    """One attack being played: against whom, from when (milliseconds since 1970), and where its rows go."""

    enterprise: Enterprise
    agent: SimulatedAgent
    at_ms: int
    stream: ActorStream

    @property
    def draws(self) -> RandomStream:
        """The attack's own randomness."""
        return self.stream.draws

    @property
    def end_ms(self) -> int:
        """End of the simulation; later rows are dropped."""
        return self.enterprise.settings.end_ms

    def start_session(
        self, at_ms: float, task: AgentTask | None = None, origin: CallOrigin | None = None
    ) -> SimulatedSession:
        """A session of the agent for its most frequent user."""
        task = task or choose_task(self.agent.role, self.draws.uniform())
        user = self.agent.tenant.user_address(self.agent.users[0]) if task.for_user else None
        return SimulatedSession(
            self.stream, self.agent, task, at_ms, DelegationContext(user, (), self.stream.next_number()), origin
        )

    def first_unseen_rank(self, step: TaskStep) -> int:
        """First rank of the step's kind that the agent has not reached yet, with room for the growth of a day."""
        return self.agent.pool_sizes.get(step.kind.name, step.kind.size) + 500

    def unique_word(self, purpose: str) -> str:
        """Eight hex digits of the attack's own."""
        return hex_digest(purpose, self.stream.salt, self.stream.next_number())[:8]


@dataclass(frozen=True, slots=True)
class AttackScenario:
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
    play: Callable[[AttackContext], Iterator[None]]
    roles: frozenset[str]
    needs: tuple[str, ...] = ()
    quiet_before: timedelta | None = None
    window: tuple[float, float] = (0.5, 0.9)


ALL_ROLES = frozenset(role.name for role in ROLES)
UNPRIVILEGED_ROLES = frozenset(role.name for role in ROLES if not role.privileged)


def usual_steps(strike: AttackContext, *effects: str) -> list[TaskStep]:
    """What the agent usually does itself, by effect, in table order; steps of later versions left out."""
    return [s for s in strike.agent.role.steps() if s.calls is None and s.since == 0 and s.effect in effects]
