"""Actors of the simulation: agents doing everyday work, from deployment to retirement."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from trustwatch.ingest.timestamps import HOUR_MS

from .agent_roles import ROLES_BY_NAME, AgentRole, AgentTask, ResourceKind, TaskStep, to_json
from .labelled_events import ActorStream, DraftEvent, GroundTruth, SimulatedToken, hex_digest, mix64
from .population import AgentDeployment, Enterprise, SimulatedAgent

# Text is assembled from fragments, since encoding a dict per event costs more than everything else together. Fragments
# are encoded once per step (`TaskStep.json_prefix`), version (`cached_json`), session and token.

SUCCESS_JSON = ',"outcome":"success","status":200'
DENIED_JSON = ',"outcome":"denied","status":403,"error":"access_denied"'
INVALID_SCOPE_JSON = ',"outcome":"denied","status":400,"error":"invalid_scope"'
RATE_LIMITED_JSON = ',"outcome":"error","status":429,"error":"rate_limited"'
_ERROR_JSONS = (
    ',"outcome":"error","status":500,"error":"internal_error"',
    ',"outcome":"error","status":503,"error":"unavailable"',
    RATE_LIMITED_JSON,
    ',"outcome":"error","status":504,"error":"timeout"',
)
_REUSE_PROBABILITY = 0.6
"""Share of steps that reuse the session's resource of that kind."""
_REFRESHABLE_MS = 8 * HOUR_MS
"""Time after a token's end in which its refresh token still works."""
_PAUSE_MEDIAN_MS = 2600
_SIZE_SIGMA = 0.5


class CallOrigin(NamedTuple):
    """Origin of calls that do not come from the agent's own instance."""

    ip: str
    asn: int
    user_agent: str


@dataclass(slots=True)
class DelegationContext:
    """Principal of a session, and its links to the session that requested it."""

    principal: str | None
    actors: tuple[str, ...]
    trace: int


class SimulatedSession:
    """A session in progress. `at` is its clock in milliseconds and only moves forward."""

    def __init__(
        self,
        stream: ActorStream,
        agent: SimulatedAgent,
        task: AgentTask,
        at_ms: float,
        chain: DelegationContext,
        origin: CallOrigin | None = None,
    ) -> None:
        self.stream = stream
        self.agent = agent
        self.task = task
        self.clock_ms = at_ms
        self.delegation = chain
        self.origin = origin
        self.current_resources: dict[str, int] = {}
        name = stream.next_number()
        tainted = 0 if stream.extends_baseline else 1
        self.truth = GroundTruth(
            agent.id, agent.tenant.name, f"conv-{mix64(name ^ stream.salt):016x}", tainted, stream.scenario
        )
        parts = ""
        if chain.principal is not None:
            parts = f',"principal":{{"id":{to_json(chain.principal)},"type":"user"}}'
        if chain.principal is not None or chain.actors:
            parts += f',"delegation":{to_json([agent.id, *chain.actors])}'
        trace = mix64(chain.trace ^ stream.salt)
        ids = f',"session":"{self.truth.session}","trace_id":"{trace:016x}{mix64(trace):016x}","txn":"{trace % 10**12}"'
        self._session_json = f'{parts},"task":{to_json(task.name)}{ids}'
        self._keeps_tokens = not chain.actors  # tokens for delegated work end with it
        self._deployment: AgentDeployment | None = None
        self._agent_prefix = self._credential_suffix = ""
        self._token_until = 0.0

    def _enter_deployment(self, at_ms: int) -> AgentDeployment:
        """Return the current epoch. Fragments that depend on it are rebuilt when it changes."""
        epoch = self.agent.deployment_at(at_ms)
        if epoch is not self._deployment:
            self._deployment = epoch
            self._agent_prefix = agent_json(self.agent, epoch, here=self.origin is None) + self._session_json
        return epoch

    def _use_token(self, token: SimulatedToken, at_ms: int) -> None:
        agent, epoch = self.agent, self._enter_deployment(at_ms)
        self._token_until = token.until_ms
        self._credential_suffix = (
            client_json(agent, epoch, self.origin) + credential_json(agent, epoch, token.name) + "}"
        )

    def obtain_token(self, event_label: int = 0) -> None:
        """Get a token: a kept one that is still valid, a refresh, an exchange for the principal, or a new request."""
        at_ms = int(self.clock_ms)
        kept = self.stream.tokens.get((self.task.name, self.delegation.principal)) if self._keeps_tokens else None
        if kept is not None and kept.thumbprint == self._enter_deployment(at_ms).thumbprint:
            if at_ms < kept.until_ms:
                return self._use_token(kept, at_ms)
            if at_ms < kept.until_ms + _REFRESHABLE_MS:
                return self.write_token_event("token.refresh", self.task.scopes, event_label=event_label)
        kind = "token.request" if self.delegation.principal is None else "token.exchange"
        return self.write_token_event(kind, self.task.scopes, event_label=event_label)

    def write_token_event(self, kind: str, scopes: list[str], *, event_label: int = 0, denied: bool = False) -> None:
        """Write one event of the token's life at the authorization server."""
        if not (denied and self._credential_suffix):
            at_ms, stream = int(self.clock_ms), self.stream
            name = hex_digest("token", stream.salt, stream.next_number())
            until = at_ms + self.agent.role.lifetime_s * 1000
            token = SimulatedToken(name, until, self._enter_deployment(at_ms).thumbprint)
            self._use_token(token, at_ms)
            if self._keeps_tokens:  # for the next session of this kind
                stream.tokens[self.task.name, self.delegation.principal] = token
        given = [] if denied else scopes
        issuer = self.agent.tenant.issuer
        resource = f',"resource":{{"type":"token","id":"{issuer}/token","external":false,"audience":"{issuer}"}}'
        asked = f',"scopes":{to_json({"requested": scopes, "granted": given})}'
        outcome = INVALID_SCOPE_JSON if denied else SUCCESS_JSON
        text = f',"type":"{kind}","action":"{kind}","effect":"unknown"'
        self._write_event(text, resource, asked + outcome, (420, 180 if denied else 900, 18), event_label)

    def perform(
        self,
        step: TaskStep,
        *,
        event_label: int = 0,
        resource: str | None = None,
        outcome: str | None = None,
        scale: float = 1.0,
        peer: str | None = None,
    ) -> bool:
        """Perform one action."""
        draws = self.stream.draws
        if self.clock_ms >= self._token_until:
            self.write_token_event("token.refresh", self.task.scopes, event_label=event_label)
            self.clock_ms += 40
        if resource is None:
            resource = self._choose_resource(step)
        if outcome is None:
            outcome, draw = SUCCESS_JSON, draws.uniform()
            if draw < step.denied:
                outcome = DENIED_JSON
            elif draw < step.error + step.denied:
                outcome = _ERROR_JSONS[draws.uniform_index(len(_ERROR_JSONS))]
        factor = self.agent.volume * self._enter_deployment(int(self.clock_ms)).drift * scale
        numbers = (
            int(draws.lognormal(step.size_in * scale, 0.3)),
            int(draws.lognormal(step.size_out * factor, _SIZE_SIGMA)) if outcome is SUCCESS_JSON else 180,
            int(draws.lognormal(step.duration_ms, _SIZE_SIGMA)) + 1,
        )
        middle = step.scopes_json + outcome if peer is None else f',"peer":{to_json(peer)}{step.scopes_json}{outcome}'
        self._write_event(step.json_prefix, resource, middle, numbers, event_label)
        self.clock_ms += numbers[2]
        return outcome is SUCCESS_JSON

    def pause(self, factor: float = 1.0) -> None:
        """Advance the clock by the time that such an agent usually takes between two actions."""
        self.clock_ms += self.stream.draws.lognormal(_PAUSE_MEDIAN_MS * self.agent.pace * factor, 0.7)

    def _write_event(
        self, kind: str, resource: str, middle: str, numbers: tuple[int, int, int], event_label: int
    ) -> None:
        at_ms = int(self.clock_ms)
        self._enter_deployment(at_ms)
        head = self._agent_prefix
        if kind.startswith(',"type":"token'):
            head = head.replace("urn:gateway:", "urn:as:", 1)
        size_in, size_out, duration = numbers
        text = (
            f'{kind}{head}{resource}{middle},"bytes_in":{size_in},"bytes_out":{size_out},'
            f'"duration_ms":{duration}{self._credential_suffix}'
        )
        self.stream.append(at_ms, text, self.truth, event_label)

    def _choose_resource(self, step: TaskStep) -> str:
        """Choose among the agent's known resources by a Zipf-like law, or occasionally a new one."""
        kind, draws = step.kind, self.stream.draws
        current = self.current_resources.get(kind.name)
        if current is not None and draws.uniform() < _REUSE_PROBABILITY:
            return resource_json(self.agent, kind, current, "derived" if step.derived else "granted")
        size = self.agent.pool_sizes.get(kind.name, kind.size)
        if self.stream.extends_baseline and draws.uniform() < kind.growth:
            self.agent.pool_sizes[kind.name] = size + 1
            rank, provenance = size, "new" if draws.uniform() < 0.3 else "derived"
        else:
            rank, provenance = draws.zipf_rank(size), "derived" if step.derived else "granted"
        self.current_resources[kind.name] = rank
        return resource_json(self.agent, kind, rank, provenance)


def resource_json(agent: SimulatedAgent, kind: ResourceKind, rank: int, provenance: str) -> str:
    """Return the JSON of the agent's resource of that rank.

    Pools of neighbors overlap: resources new to one agent are often known in its peer group.
    """
    return target_json(agent, kind, kind.resource_names(agent.role_index * (kind.size // 3 + 1) + rank), provenance)


def target_json(agent: SimulatedAgent, kind: ResourceKind, names: tuple[str, str], provenance: str) -> str:
    """Return the JSON of a resource with the given ID and target."""
    name, target = names
    external = "true" if kind.external else "false"
    return (
        f',"resource":{{"type":"{kind.name}","id":"{name}","target":"{target}","external":{external},'
        f'"audience":"https://{kind.host}.{agent.tenant.domain}","provenance":"{provenance}"}}'
    )


def agent_json(agent: SimulatedAgent, epoch: AgentDeployment, *, here: bool = True) -> str:
    """Return the JSON of source, tenant and agent, without the instance if the calls come from elsewhere."""
    if here and epoch.cached_json:
        return epoch.cached_json
    fields = {"id": agent.id, "issuer": agent.tenant.issuer, "type": agent.role.name, "version": epoch.version}
    if here:
        fields["instance"] = epoch.instance
    who = to_json(fields | {"capabilities": agent.role.capabilities})
    text = f',"source":"urn:gateway:{agent.tenant.name}-1","tenant":{to_json(agent.tenant.name)},"agent":{who}'
    if here:
        epoch.cached_json = text
    return text


def client_json(agent: SimulatedAgent, epoch: AgentDeployment, origin: CallOrigin | None) -> str:
    """Return the JSON of the network and software of the caller."""
    if origin is None:
        version = f"{agent.role.slug}/{epoch.version}"
        origin = CallOrigin(
            f"{agent.network}.{epoch.address_suffix}", agent.tenant.asn, f"agent-sdk/1.{agent.index % 5} {version}"
        )
    ip, asn, user_agent = origin
    return f',"client":{{"ip":"{ip}","asn":{asn},"user_agent":"{user_agent}"}}'


def credential_json(agent: SimulatedAgent, epoch: AgentDeployment, token: str) -> str:
    """Return the JSON of the credential, which holds fingerprints only."""
    role = agent.role
    return (
        f',"credential":{{"method":"{role.method}","thumbprint":"{epoch.thumbprint}","token_id":"sha256:{token}",'
        f'"token_lifetime_s":{role.lifetime_s}}}'
    )


_MAX_DELEGATION_DEPTH = 3
"""Maximum number of delegating agents in one chain."""
_RETRY_PROBABILITY = 0.6
_NEW_USER_PROBABILITY = 0.004


def choose_task(role: AgentRole, draw: float) -> AgentTask:
    """Choose a task of the role by weight. `draw` is uniform in [0, 1)."""
    goal = draw * sum(task.weight for task in role.tasks)
    for task in role.tasks:
        goal -= task.weight
        if goal < 0:
            return task
    return role.tasks[-1]


def run_task(enterprise: Enterprise, session: SimulatedSession, event_label: int = 0) -> None:
    """Walk the task's Markov chain from the token to the end, and write the rows to the session's stream."""
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
    """Delegate work to another agent: an A2A message, then the callee's session under a token exchange.

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
    """An agent at work, one session after another. `next_ms` is the start of the next session."""

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
        """Run the session that starts at `next_ms`, and return its rows in no particular order."""
        agent, stream = self._agent, self._stream
        session = start_session(agent, stream, self.next_ms)
        run_task(self._enterprise, session)
        self.next_ms = self._next_session_ms(int(session.clock_ms))
        return stream.drain()


def start_session(agent: SimulatedAgent, stream: ActorStream, at_ms: float) -> SimulatedSession:
    """Start a session of a usual task for a usual user. Occasionally a colleague starts to use the agent."""
    draws = stream.draws
    task = choose_task(agent.role, draws.uniform())
    if stream.extends_baseline and draws.uniform() < _NEW_USER_PROBABILITY:
        agent.users.append(draws.uniform_index(20 + len(agent.users) * 4))
    user = agent.tenant.user_address(agent.users[draws.zipf_rank(len(agent.users))]) if task.for_user else None
    return SimulatedSession(stream, agent, task, at_ms, DelegationContext(user, (), stream.next_number()))


def expected_events(role: AgentRole, depth: int = 0) -> float:
    """Return the expected number of events of one session of a role, including sessions it causes at other agents."""
    expected = 0.0
    for task in role.tasks:
        below = 0.0
        if depth < _MAX_DELEGATION_DEPTH:
            calls = [step for step in task.steps if step.calls is not None]
            below = sum(step.mean_visits * expected_events(ROLES_BY_NAME[str(step.calls)], depth + 1) for step in calls)
        expected += task.weight * (1 + task.mean_steps + below / (1 - task.loop))
    return expected / sum(task.weight for task in role.tasks)


class LifecycleActor:
    """Emits the changes that `population` planned, in time order. `next_ms` is the time of the next one."""

    def __init__(self, enterprise: Enterprise, stream: ActorStream) -> None:
        settings = enterprise.settings
        plan: list[tuple[int, SimulatedAgent, str]] = []
        for agent in enterprise.agents:
            if agent.active_from > settings.start_ms:
                plan.append((agent.active_from, agent, "client.register"))
            for epoch in agent.deployments:
                if epoch.rotated_key and agent.is_active(epoch.start_ms):
                    plan.append((epoch.start_ms, agent, "client.change"))
            if agent.retires:
                plan.append((agent.active_until, agent, "token.revoke"))
        plan.sort(key=lambda item: (item[0], item[1].index, item[2]))
        self._plan = deque(plan)
        self._end = settings.end_ms
        self._stream = stream

    @property
    def next_ms(self) -> int:
        """Time of the next announcement, or the end of the simulation."""
        return self._plan[0][0] if self._plan else self._end

    def advance(self) -> list[DraftEvent]:
        """Return the next announcement as a row."""
        at_ms, agent, kind = self._plan.popleft()
        stream, tenant, epoch = self._stream, agent.tenant, agent.deployment_at(at_ms)
        session = f"admin-{hex_digest(kind, stream.salt, stream.next_number())[:16]}"
        token = hex_digest("token", stream.salt, stream.next_number())
        source = agent_json(agent, epoch).replace("urn:gateway:", "urn:as:", 1)
        text = (
            f',"type":"{kind}","action":"{kind}","effect":"admin"{source}'
            f',"resource":{{"type":"client","id":{to_json(agent.id)},"external":false,"audience":"{tenant.issuer}"}}'
            f'{SUCCESS_JSON},"duration_ms":25,"session":"{session}"{client_json(agent, epoch, None)}'
            f"{credential_json(agent, epoch, token)}}}"
        )
        stream.append(at_ms, text, GroundTruth(agent.id, tenant.name, session, 0, stream.scenario), 0)
        return stream.drain()
