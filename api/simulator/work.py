"""Everyday work: an agent walks through its tasks, hands work to others, and is put into service and out of it."""

from __future__ import annotations

from .grammar import Role, Step, Task
from .population import Enterprise, SimulatedAgent
from .roles import BY_NAME
from .rows import Row, Stream
from .session import SUCCESS, Chain, Session

_DEEPEST = 3
"""Agents that hand work down in one chain at most."""
_RETRY = 0.6
_NEW_USER = 0.004


def choose_task(role: Role, draw: float) -> Task:
    """A task of the role by weight; `draw` is uniform in [0, 1)."""
    goal = draw * sum(task.weight for task in role.tasks)
    for task in role.tasks:
        goal -= task.weight
        if goal < 0:
            return task
    return role.tasks[-1]


def run_task(enterprise: Enterprise, session: Session, event_label: int = 0) -> None:
    """Walk the task's Markov chain from the token to the end; the rows are in the session's stream afterwards."""
    draws = session.stream.draws
    session.open(event_label)
    session.think(0.3)
    while True:
        for step in session.task.steps:
            if step.since > session.agent.epoch_at(int(session.at)).upgrades or (
                step.skip and draws.unit() < step.skip
            ):
                continue
            _do(enterprise, session, step, event_label)
            while step.again and draws.unit() < step.again:
                _do(enterprise, session, step, event_label)
        if draws.unit() >= session.task.loop:
            return


def _do(enterprise: Enterprise, session: Session, step: Step, event_label: int) -> None:
    if step.calls is not None:
        hand_down(enterprise, session, step, event_label=event_label)
    elif not session.step(step, event_label=event_label) and session.stream.draws.unit() < _RETRY:
        session.think(0.4)
        session.step(step, event_label=event_label)
    session.think()


def hand_down(
    enterprise: Enterprise, session: Session, step: Step, *, event_label: int = 0, task: Task | None = None
) -> None:
    """Ask another agent for work: an A2A message, then the callee's session under a token exchange.

    The caller waits for the callee. Nothing happens where nobody of the role is there.
    """
    assert step.calls is not None
    draws, chain = session.stream.draws, session.chain
    callee = enterprise.callee(session.agent, step.calls, int(session.at), draws.unit())
    if callee is None or len(chain.actors) >= _DEEPEST:
        return
    session.step(step, event_label=event_label, peer=callee.id, outcome=SUCCESS)
    below = Chain(chain.principal, (session.agent.id, *chain.actors), chain.trace)
    work = task or choose_task(callee.role, draws.unit())
    sub = Session(session.stream, callee, work, session.at + draws.lognormal(120, 0.4), below)
    run_task(enterprise, sub, event_label)
    session.at = sub.at


class Worker:
    """An agent at work, one session after the other; `next_ms` is the start of the next one."""

    def __init__(self, enterprise: Enterprise, agent: SimulatedAgent, stream: Stream) -> None:
        self._enterprise = enterprise
        self._agent = agent
        self._stream = stream
        settings = enterprise.settings
        events_per_hour = settings.events_per_agent_day * agent.role.activity / enterprise.mean_activity / 24
        self._pause = mean_events(agent.role) / events_per_hour
        self.next_ms = self._next(agent.active_from)

    def _next(self, at_ms: int) -> int:
        moment = self._agent.profile.after(at_ms, self._pause * self._stream.draws.exponential())
        return moment if moment < self._agent.active_until else self._enterprise.settings.end_ms

    def advance(self) -> list[Row]:
        """Run the session that starts at `next_ms`; its rows, in no particular order."""
        agent, stream = self._agent, self._stream
        session = new_session(agent, stream, self.next_ms)
        run_task(self._enterprise, session)
        self.next_ms = self._next(int(session.at))
        return stream.take()


def new_session(agent: SimulatedAgent, stream: Stream, at_ms: float) -> Session:
    """A session of a usual task for a usual user; now and then a colleague starts to use the agent."""
    draws = stream.draws
    task = choose_task(agent.role, draws.unit())
    if stream.learns and draws.unit() < _NEW_USER:
        agent.users.append(draws.index(20 + len(agent.users) * 4))
    user = agent.tenant.user(agent.users[draws.rank(len(agent.users))]) if task.for_user else None
    return Session(stream, agent, task, at_ms, Chain(user, (), stream.name()))


def mean_events(role: Role, depth: int = 0) -> float:
    """Expected events of one session of a role, with the sessions it causes at other agents."""
    total = sum(task.weight for task in role.tasks)
    return sum(task.weight / total * _mean_of_task(task, depth) for task in role.tasks)


def _mean_of_task(task: Task, depth: int) -> float:
    below = 0.0
    if depth < _DEEPEST:
        calls = [step for step in task.steps if step.calls is not None]
        below = sum(step.mean_visits * mean_events(BY_NAME[str(step.calls)], depth + 1) for step in calls)
    return 1 + task.mean_steps + below / (1 - task.loop)
