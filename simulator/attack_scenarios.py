"""Attack scenarios, and the context in which one is played."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain as concat
from itertools import count
from typing import Any

from trustwatch.ingest.timestamps import DAY_MS, HOUR_MS

from .actors import (
    DENIED_JSON,
    RATE_LIMITED_JSON,
    SUCCESS_JSON,
    CallOrigin,
    DelegationContext,
    SimulatedSession,
    choose_task,
    expected_events,
    resource_json,
    run_task,
    start_session,
    target_json,
)
from .agent_roles import RESOURCES, ROLES, ROLES_BY_NAME, AgentTask, ResourceKind, TaskStep, make_step
from .labelled_events import ActorStream, RandomStream, hex_digest
from .population import Enterprise, SimulatedAgent


@dataclass(frozen=True, slots=True)
class AttackContext:
    """Context of one running attack: its agent, its start (milliseconds since 1970), and the stream for its rows."""

    enterprise: Enterprise
    agent: SimulatedAgent
    at_ms: int
    stream: ActorStream

    @property
    def draws(self) -> RandomStream:
        """Random numbers of this attack only."""
        return self.stream.draws

    @property
    def end_ms(self) -> int:
        """End of the simulation. Later rows are dropped."""
        return self.enterprise.settings.end_ms

    def start_session(
        self, at_ms: float, task: AgentTask | None = None, origin: CallOrigin | None = None
    ) -> SimulatedSession:
        """Start a session of the agent for its most frequent user."""
        task = task or choose_task(self.agent.role, self.draws.uniform())
        user = self.agent.tenant.user_address(self.agent.users[0]) if task.for_user else None
        return SimulatedSession(
            self.stream, self.agent, task, at_ms, DelegationContext(user, (), self.stream.next_number()), origin
        )

    def first_unseen_rank(self, step: TaskStep) -> int:
        """Return the first rank of the step's kind that the agent has not reached yet, plus a day's growth."""
        return self.agent.pool_sizes.get(step.kind.name, step.kind.size) + 500

    def unique_word(self, purpose: str) -> str:
        """Return eight hex digits that only this attack uses."""
        return hex_digest(purpose, self.stream.salt, self.stream.next_number())[:8]


PlayAttack = Callable[[AttackContext], Iterator[None]]


@dataclass(frozen=True, slots=True)
class AttackScenario:
    name: str
    summary: str
    play: PlayAttack
    roles: frozenset[str]
    needs: tuple[str, ...] = ()
    quiet_before: timedelta | None = None
    window: tuple[float, float] = (0.5, 0.9)


ALL_ROLES = frozenset(role.name for role in ROLES)
UNPRIVILEGED_ROLES = frozenset(role.name for role in ROLES if not role.privileged)
SCENARIOS: dict[str, AttackScenario] = {}
"""Scenarios by name. Each needs a test that its rows show the named behavior."""


def _scenario(summary: str, roles: frozenset[str] = ALL_ROLES, **more: Any) -> Callable[[PlayAttack], PlayAttack]:
    """Register a scenario under the function's name without `play_`."""

    def add(play: PlayAttack) -> PlayAttack:
        name = play.__name__.removeprefix("play_")
        SCENARIOS[name] = AttackScenario(name, summary, play, roles, **more)
        return play

    return add


def usual_steps(strike: AttackContext, *effects: str) -> list[TaskStep]:
    """Return the agent's own usual steps by effect, in table order, without steps of later versions."""
    return [s for s in strike.agent.role.steps() if s.calls is None and s.since == 0 and s.effect in effects]


def _writes_outside(step: TaskStep) -> bool:
    return step.effect == "write" and step.kind.external and step.kind.style != "plain"


def _unknown_target(kind: ResourceKind, word: str) -> tuple[str, str]:
    host = f"files-{word}.example.com"
    return (f"https://{host}/upload", host) if kind.style == "host" else (f"inbox@{host}", f"inbox@{host}")


@_scenario(
    "a prompt injection makes the agent read a lot and send it to an external target it never used",
    frozenset(role.name for role in ROLES if any(map(_writes_outside, role.steps()))),
)
def play_exfiltration(strike: AttackContext) -> Iterator[None]:
    """Play a normal beginning, three to six large reads, then one to three large writes to a new target."""
    draws = strike.draws
    # The agent stays within its declared purpose and capabilities.
    task = next(task for task in strike.agent.role.tasks if any(map(_writes_outside, task.steps)))
    session = strike.start_session(strike.at_ms, task)
    session.obtain_token()
    session.pause()
    first = next(step for step in task.steps if step.effect == "read")
    session.perform(first, outcome=SUCCESS_JSON)
    session.pause()
    for _ in range(3 + draws.uniform_index(4)):
        session.perform(first, event_label=1, outcome=SUCCESS_JSON, scale=4)
        session.pause(0.4)
    way_out = next(filter(_writes_outside, task.steps))
    stranger = target_json(strike.agent, way_out.kind, _unknown_target(way_out.kind, strike.unique_word("host")), "new")
    for _ in range(1 + draws.uniform_index(3)):
        session.perform(
            way_out, event_label=1, resource=stranger, outcome=SUCCESS_JSON, scale=draws.uniform_between(40, 120)
        )
        session.pause(0.4)
    yield


_ATTACKER_USER_AGENTS = ("python-requests/2.32.3", "curl/8.9.1", "Go-http-client/2.0")


@_scenario(
    "the same client from another network, with other software, at a quiet hour, enumerating resources",
    # An agent that works around the clock has no quiet hour to hide in.
    frozenset(role.name for role in ROLES if role.shift in ("office", "extended")),
)
def play_stolen_credential(strike: AttackContext) -> Iterator[None]:
    """Play 80 to 200 reads of untouched resources, a third denied, in the agent's quietest hour within a day."""
    draws, agent = strike.draws, strike.agent
    night = agent.activity.quietest_hour(strike.at_ms, 24) + int(draws.uniform_between(0, HOUR_MS / 2))
    at_ms = night if night + HOUR_MS < strike.end_ms else strike.at_ms
    origin = CallOrigin(
        f"203.0.113.{1 + draws.uniform_index(250)}",
        65536 + draws.uniform_index(16),
        _ATTACKER_USER_AGENTS[draws.uniform_index(3)],
    )
    session = strike.start_session(at_ms, origin=origin)
    session.obtain_token(event_label=1)
    reads = usual_steps(strike, "read")
    for number in range(80 + draws.uniform_index(121)):
        session.pause(0.3)
        step = reads[number % len(reads)]
        resource = resource_json(agent, step.kind, strike.first_unseen_rank(step) + number, "unknown")
        outcome = DENIED_JSON if draws.uniform() < 0.35 else SUCCESS_JSON
        session.perform(step, event_label=1, resource=resource, outcome=outcome)
    yield


_SCOPE_CREEP_SESSIONS = 8
_DENIED_SESSIONS = 4
"""Number of rounds refused before the scope is granted."""

_TARGET_STEPS: tuple[TaskStep, ...] = (
    make_step("export_table", "read", "tbl", "data:export", size_out=60_000),
    make_step("list_employees", "read", "emp", "hr:admin", size_out=30_000),
    make_step("read_statement", "read", "acct", "payments:admin", size_out=9_000),
    make_step("read_secret_metadata", "read", "vault", "vault:admin", size_out=900),
    make_step("grant_role", "admin", "cluster", "iam:admin", type="admin"),
)


@_scenario("token requests grow by a scope an hour, are denied at first, then granted and used", UNPRIVILEGED_ROLES)
def play_scope_creep(strike: AttackContext) -> Iterator[None]:
    """Play eight sessions, about an hour apart, each requesting one more scope. The last four are granted and used."""
    draws = strike.draws
    pause = min(HOUR_MS, (strike.end_ms - strike.at_ms) // (_SCOPE_CREEP_SESSIONS + 1))
    usual = usual_steps(strike, "read")
    for number in range(_SCOPE_CREEP_SESSIONS):
        session = strike.start_session(strike.at_ms + number * pause + draws.uniform_between(0, 0.3) * pause)
        targets = _TARGET_STEPS[: 1 + min(number, len(_TARGET_STEPS) - 1)]
        scopes = sorted({*session.task.scopes, *(prize.scope for prize in targets)})
        session.write_token_event("token.request", scopes, event_label=1, denied=number < _DENIED_SESSIONS)
        session.pause(0.5)
        if number < _DENIED_SESSIONS:
            session.obtain_token()
            session.pause(0.5)
        for own in usual[:3]:
            session.perform(own)
            session.pause()
        for prize in targets if number >= _DENIED_SESSIONS else ():
            session.perform(prize, event_label=1, outcome=SUCCESS_JSON)
            session.pause()
        yield


RAMP_GROWTH_PER_HOUR = 1.04
_RAMP_DURATION_MS = 4 * DAY_MS


@_scenario("hundreds of usual actions in a minute or two")
def play_burst(strike: AttackContext) -> Iterator[None]:
    """Play 500 to 900 usual actions on usual resources within a minute or two."""
    draws = strike.draws
    session = strike.start_session(strike.at_ms)
    session.obtain_token(event_label=1)
    steps = usual_steps(strike, "read", "write")
    for _ in range(500 + draws.uniform_index(401)):
        step = steps[draws.uniform_index(len(steps))]
        at = session.clock_ms
        session.perform(step, event_label=1)
        # Calls run concurrently: the next one does not wait for this one's answer.
        session.clock_ms = at + draws.lognormal(80, 0.5)
    yield


@_scenario(
    "usual actions, but 4 % more of them every hour, for days",
    # Only agents that work almost around the clock, because a ramp over a free weekend would not be one.
    frozenset({"SecurityTriage", "SupportTriage", "DeploymentBot"}),
    window=(0.15, 0.4),
)
def play_slow_ramp(strike: AttackContext) -> Iterator[None]:
    """Play extra usual sessions: the total grows by 4 % per working hour, for up to four days."""
    draws, agent, settings = strike.draws, strike.agent, strike.enterprise.settings
    daily = settings.events_per_agent_day * agent.role.activity / strike.enterprise.mean_activity
    usual_per_hour = daily / 24 / expected_events(agent.role)
    end = min(strike.end_ms, strike.at_ms + _RAMP_DURATION_MS)
    at_ms = strike.at_ms
    while at_ms < end:
        extra = RAMP_GROWTH_PER_HOUR ** ((at_ms - strike.at_ms) / HOUR_MS + 1) - 1
        # Steps of at most an hour keep the rate up to date.
        wait = draws.exponential() / (usual_per_hour * extra)
        at_ms = agent.activity.advance(at_ms, min(wait, 1.0))
        if wait <= 1.0 and at_ms < end:
            run_task(strike.enterprise, start_session(agent, strike.stream, at_ms), event_label=1)
            yield


_CALLER_ROLES = frozenset({"ResearchAgent", "CodeReviewer"})
"""Unprivileged roles that often call other agents: only the edge and the principal reveal the attack."""
_CALL_STEP = make_step("send_message", "write", "plan", "a2a:call", type="a2a.message")
_PAYMENT_STEP = next(s for s in ROLES_BY_NAME["PaymentProcessor"].steps() if s.action == "process_payment")


def _delegated_session(strike: AttackContext, caller: SimulatedSession, callee: SimulatedAgent) -> SimulatedSession:
    caller.perform(_CALL_STEP, event_label=1, peer=callee.id, outcome=SUCCESS_JSON)
    chain = DelegationContext(
        caller.delegation.principal, (caller.agent.id, *caller.delegation.actors), caller.delegation.trace
    )
    session = SimulatedSession(strike.stream, callee, callee.role.tasks[0], caller.clock_ms + 150, chain)
    session.obtain_token(event_label=1)
    session.pause(0.3)
    return session


@_scenario(
    "an unprivileged agent makes an orchestrator pay for a principal it never acted for",
    _CALLER_ROLES,
    needs=("Orchestrator", "PaymentProcessor"),
)
def play_confused_deputy(strike: AttackContext) -> Iterator[None]:
    """Play a chain of caller, orchestrator and payment agent: a new edge, a new principal, three to six payments."""
    draws, enterprise, agent = strike.draws, strike.enterprise, strike.agent
    orchestrator = enterprise.find_callee(agent, "Orchestrator", strike.at_ms, 0.0)
    if orchestrator is None:
        return
    payer = enterprise.find_callee(orchestrator, "PaymentProcessor", strike.at_ms, 0.0)
    if payer is None:
        return
    # A user for whom no possible caller of the deputies acted, preferably one of the caller's users.
    callers = enterprise.agents_with_role(agent.tenant, "Orchestrator")
    served = {user for other in (orchestrator, payer, *callers) for user in other.users}
    user = next(user for user in concat(agent.users, count()) if user not in served)
    chain = DelegationContext(agent.tenant.user_address(user), (), strike.stream.next_number())
    caller = SimulatedSession(strike.stream, agent, agent.role.tasks[0], strike.at_ms, chain)
    caller.obtain_token()
    caller.pause(0.3)
    caller.perform(usual_steps(strike, "read")[0], outcome=SUCCESS_JSON)
    caller.pause()
    middle = _delegated_session(strike, caller, orchestrator)
    middle.perform(orchestrator.role.tasks[0].steps[0], event_label=1, outcome=SUCCESS_JSON)
    middle.pause(0.4)
    last = _delegated_session(strike, middle, payer)
    for number in range(3 + draws.uniform_index(4)):
        payee = resource_json(payer, RESOURCES["payee"], _PAYMENT_STEP.kind.size + 400 + number, "new")
        last.perform(_PAYMENT_STEP, event_label=1, resource=payee, outcome=SUCCESS_JSON, scale=2)
        last.pause(0.4)
    yield


_AWAKENING_SESSIONS = 3


@_scenario("an agent silent for days works again, faster and more widely than before", quiet_before=timedelta(days=3))
def play_dormant_awakening(strike: AttackContext) -> Iterator[None]:
    """Play three consecutive sessions, each reading 25 to 60 resources, half of them new, faster than ever before."""
    draws, agent = strike.draws, strike.agent
    at_ms: float = strike.at_ms
    for turn in range(_AWAKENING_SESSIONS):
        session = strike.start_session(at_ms)
        session.obtain_token(event_label=1)
        reads = usual_steps(strike, "read")
        for number in range(25 + draws.uniform_index(36)):
            at = session.clock_ms
            step = reads[draws.uniform_index(len(reads))]
            fresh = strike.first_unseen_rank(step) + 100 * turn + number
            rank = fresh if draws.uniform() < 0.5 else draws.zipf_rank(step.kind.size)
            resource = resource_json(agent, step.kind, rank, "derived")
            session.perform(step, event_label=1, resource=resource, outcome=SUCCESS_JSON, scale=1.5)
            # Concurrently, without waiting for the answer.
            session.clock_ms = at + draws.lognormal(600 * agent.pace, 0.6)
        at_ms = session.clock_ms + draws.uniform_between(60_000, 300_000)
        yield


@_scenario("the same action on the same resource, hundreds of times")
def play_runaway_loop(strike: AttackContext) -> Iterator[None]:
    """Play one action on one resource, 300 to 900 times, without pauses. Occasionally the service is busy."""
    draws = strike.draws
    session = strike.start_session(strike.at_ms)
    session.obtain_token(event_label=0)
    steps = usual_steps(strike, "read")
    step = steps[draws.uniform_index(len(steps))]
    resource = resource_json(strike.agent, step.kind, 0, "granted")
    for _ in range(300 + draws.uniform_index(601)):
        at = session.clock_ms
        outcome = RATE_LIMITED_JSON if draws.uniform() < 0.06 else SUCCESS_JSON
        session.perform(step, event_label=1, resource=resource, outcome=outcome)
        session.clock_ms = at + draws.lognormal(300, 0.3)
    yield
