"""Actors of the simulation: agents at everyday work, from being put into service to retirement."""

from __future__ import annotations

from collections.abc import Iterator

from .agent_roles import ROLES_BY_NAME
from .agent_session import SUCCESS_JSON, DelegationContext, SimulatedSession, agent_json, client_json, credential_json
from .behaviour_model import AgentRole, AgentTask, TaskStep, to_json
from .labelled_events import ActorStream, DraftEvent, GroundTruth
from .population import AgentDeployment, Enterprise, SimulatedAgent
from .random_streams import hex_digest

_MAX_DELEGATION_DEPTH = 3
"""Agents that hand work down in one chain at most."""
_RETRY_PROBABILITY = 0.6
_NEW_USER_PROBABILITY = 0.004


def choose_task(role: AgentRole, draw: float) -> AgentTask:
    """A task of the role by weight; `draw` is uniform in [0, 1)."""
    goal = draw * sum(task.weight for task in role.tasks)
    for task in role.tasks:
        goal -= task.weight
        if goal < 0:
            return task
    return role.tasks[-1]


def run_task(enterprise: Enterprise, session: SimulatedSession, event_label: int = 0) -> None:
    """Walk the task's Markov chain from the token to the end; the rows are in the session's stream afterwards."""
    draws = session.stream.draws
    session.obtain_token(event_label)
    session.pause(0.3)
    while True:
        for step in session.task.steps:
            if step.since > session.agent.deployment_at(int(session.clock_ms)).upgrades or (
                step.skip and draws.uniform() < step.skip
            ):
                continue
            _perform_step(enterprise, session, step, event_label)
            while step.again and draws.uniform() < step.again:
                _perform_step(enterprise, session, step, event_label)
        if draws.uniform() >= session.task.loop:
            return


def _perform_step(enterprise: Enterprise, session: SimulatedSession, step: TaskStep, event_label: int) -> None:
    if step.calls is not None:
        delegate(enterprise, session, step, event_label=event_label)
    elif not session.perform(step, event_label=event_label) and session.stream.draws.uniform() < _RETRY_PROBABILITY:
        session.pause(0.4)
        session.perform(step, event_label=event_label)
    session.pause()


def delegate(
    enterprise: Enterprise,
    session: SimulatedSession,
    step: TaskStep,
    *,
    event_label: int = 0,
    task: AgentTask | None = None,
) -> None:
    """Ask another agent for work: an A2A message, then the callee's session under a token exchange.

    The caller waits for the callee. Without an agent of the role nothing happens.
    """
    assert step.calls is not None
    draws, chain = session.stream.draws, session.delegation
    callee = enterprise.find_callee(session.agent, step.calls, int(session.clock_ms), draws.uniform())
    if callee is None or len(chain.actors) >= _MAX_DELEGATION_DEPTH:
        return
    session.perform(step, event_label=event_label, peer=callee.id, outcome=SUCCESS_JSON)
    below = DelegationContext(chain.principal, (session.agent.id, *chain.actors), chain.trace)
    work = task or choose_task(callee.role, draws.uniform())
    sub = SimulatedSession(session.stream, callee, work, session.clock_ms + draws.lognormal(120, 0.4), below)
    run_task(enterprise, sub, event_label)
    session.clock_ms = sub.clock_ms


class AgentActor:
    """An agent at work, one session after the other; `next_ms` is the start of the next one."""

    def __init__(self, enterprise: Enterprise, agent: SimulatedAgent, stream: ActorStream) -> None:
        self._enterprise = enterprise
        self._agent = agent
        self._stream = stream
        settings = enterprise.settings
        events_per_hour = settings.events_per_agent_day * agent.role.activity / enterprise.mean_activity / 24
        self._mean_hours_between_sessions = expected_events(agent.role) / events_per_hour
        self.next_ms = self._next_session_ms(agent.active_from)

    def _next_session_ms(self, at_ms: int) -> int:
        moment = self._agent.activity.advance(
            at_ms, self._mean_hours_between_sessions * self._stream.draws.exponential()
        )
        return moment if moment < self._agent.active_until else self._enterprise.settings.end_ms

    def advance(self) -> list[DraftEvent]:
        """Run the session that starts at `next_ms`; its rows, in no particular order."""
        agent, stream = self._agent, self._stream
        session = start_session(agent, stream, self.next_ms)
        run_task(self._enterprise, session)
        self.next_ms = self._next_session_ms(int(session.clock_ms))
        return stream.drain()


def start_session(agent: SimulatedAgent, stream: ActorStream, at_ms: float) -> SimulatedSession:
    """A session of a usual task for a usual user; now and then a colleague starts to use the agent."""
    draws = stream.draws
    task = choose_task(agent.role, draws.uniform())
    if stream.extends_baseline and draws.uniform() < _NEW_USER_PROBABILITY:
        agent.users.append(draws.uniform_index(20 + len(agent.users) * 4))
    user = agent.tenant.user_address(agent.users[draws.zipf_rank(len(agent.users))]) if task.for_user else None
    return SimulatedSession(stream, agent, task, at_ms, DelegationContext(user, (), stream.next_number()))


def expected_events(role: AgentRole, depth: int = 0) -> float:
    """Expected events of one session of a role, with the sessions it causes at other agents."""
    total = sum(task.weight for task in role.tasks)
    return sum(task.weight / total * _expected_task_events(task, depth) for task in role.tasks)


def _expected_task_events(task: AgentTask, depth: int) -> float:
    below = 0.0
    if depth < _MAX_DELEGATION_DEPTH:
        calls = [step for step in task.steps if step.calls is not None]
        below = sum(step.mean_visits * expected_events(ROLES_BY_NAME[str(step.calls)], depth + 1) for step in calls)
    return 1 + task.mean_steps + below / (1 - task.loop)


class LifecycleActor:
    """Emits the changes that `population` planned, in time order; `next_ms` is the next one's moment."""

    def __init__(self, enterprise: Enterprise, stream: ActorStream) -> None:
        self._end = enterprise.settings.end_ms
        self._stream = stream
        plan = [item for agent in enterprise.agents for item in _lifecycle_events(agent, enterprise.settings.start_ms)]
        self._plan = iter(sorted(plan, key=lambda item: (item[0], item[1].index, item[2])))
        self._next_event = next(self._plan, None)

    @property
    def next_ms(self) -> int:
        """Moment of the next announcement, or the end of the simulation."""
        return self._end if self._next_event is None else self._next_event[0]

    def advance(self) -> list[DraftEvent]:
        """The next announcement as a row."""
        if self._next_event is not None:
            self._write_event(*self._next_event)
            self._next_event = next(self._plan, None)
        return self._stream.drain()

    def _write_event(self, at_ms: int, agent: SimulatedAgent, kind: str) -> None:
        epoch = agent.deployment_at(at_ms)
        session = f"admin-{hex_digest(kind, self._stream.salt, self._stream.next_number())[:16]}"
        text = _lifecycle_json(
            agent, epoch, kind, session, hex_digest("token", self._stream.salt, self._stream.next_number())
        )
        self._stream.append(at_ms, text, GroundTruth(agent.id, agent.tenant.name, session, 0, self._stream.scenario), 0)


def _lifecycle_events(agent: SimulatedAgent, start_ms: int) -> Iterator[tuple[int, SimulatedAgent, str]]:
    if agent.active_from > start_ms:
        yield agent.active_from, agent, "client.register"
    for epoch in agent.deployments:
        if epoch.rotated_key and agent.is_active(epoch.start_ms):
            yield epoch.start_ms, agent, "client.change"
    if agent.retires:
        yield agent.active_until, agent, "token.revoke"


def _lifecycle_json(agent: SimulatedAgent, epoch: AgentDeployment, kind: str, session: str, token: str) -> str:
    issuer = agent.tenant.issuer
    source = agent_json(agent, epoch).replace("urn:gateway:", "urn:as:", 1)
    return (
        f',"type":"{kind}","action":"{kind}","effect":"admin"{source}'
        f',"resource":{{"type":"client","id":{to_json(agent.id)},"external":false,"audience":"{issuer}"}}'
        f'{SUCCESS_JSON},"duration_ms":25,"session":"{session}"{client_json(agent, epoch, None)}'
        f"{credential_json(agent, epoch, token)}}}"
    )
