"""Attacks beside the simulator's own: slow, quiet, or aimed at what the detector learns.

One line each in `ADDITIONAL_SCENARIOS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from trustwatch.ingest.timestamps import DAY_MS, HOUR_MS
from trustwatch.simulator.actors import (
    SUCCESS_JSON,
    agent_json,
    choose_task,
    client_json,
    credential_json,
    expected_events,
    resource_json,
    run_task,
    start_session,
    target_json,
)
from trustwatch.simulator.agent_roles import ROLES, AgentTask, ResourceKind, TaskStep, to_json
from trustwatch.simulator.attack_scenarios import ALL_ROLES, AttackContext, AttackScenario, usual_steps
from trustwatch.simulator.labelled_events import GroundTruth, hex_digest, mix64

_MOST_EXTRA = 20.0
"""Ramps stop at so many times the usual: beyond, there is nothing slow about them."""
_RAMP_MS = 3 * DAY_MS
_SLOW_MS = int(2.5 * DAY_MS)
_CALM_MS = 6 * HOUR_MS
_AROUND_THE_CLOCK = frozenset({"SecurityTriage", "SupportTriage", "DeploymentBot"})
PlayAttack = Callable[[AttackContext], Iterator[None]]


def writes_outside(step: TaskStep) -> bool:
    """Whether the step writes to a host or an address outside."""
    return step.effect == "write" and step.kind.external and step.kind.style != "plain"


_SENDING_ROLES = frozenset(
    role.name for role in ROLES if any(writes_outside(step) for task in role.tasks for step in task.steps)
)
"""Roles with a way out."""


def _task_with_way_out(strike: AttackContext) -> AgentTask:
    return next(task for task in strike.agent.role.tasks if any(map(writes_outside, task.steps)))


def _unknown_target(strike: AttackContext, kind: ResourceKind, word: str) -> str:
    """A target outside that nobody has met, always the same for one word."""
    host = f"files-{word}.example.com"
    names = (f"https://{host}/upload", host) if kind.style == "host" else (f"inbox@{host}", f"inbox@{host}")
    return target_json(strike.agent, kind, names, "new")


def _sessions_per_hour(strike: AttackContext) -> float:
    """Usual sessions of the agent in a mean hour."""
    settings, role = strike.enterprise.settings, strike.agent.role
    daily = settings.events_per_agent_day * role.activity / strike.enterprise.mean_activity
    return daily / 24 / expected_events(role)


def _working_moments(strike: AttackContext, per_hour: float, lasting_ms: int) -> Iterator[int]:
    """Moments in the agent's working hours, so many in a mean hour of its activity."""
    at_ms, end = strike.at_ms, min(strike.end_ms, strike.at_ms + lasting_ms)
    while (at_ms := strike.agent.activity.advance(at_ms, strike.draws.exponential() / per_hour)) < end:
        yield at_ms


def ramp(growth: float) -> PlayAttack:
    """Usual sessions on top of the usual ones, so that the total grows by *growth* an hour."""

    def play(strike: AttackContext) -> Iterator[None]:
        usual, at_ms = _sessions_per_hour(strike), strike.at_ms
        end = min(strike.end_ms, strike.at_ms + _RAMP_MS)
        while at_ms < end:
            extra = min(growth ** ((at_ms - strike.at_ms) / HOUR_MS + 1) - 1, _MOST_EXTRA)
            wait = strike.draws.exponential() / (usual * extra)
            at_ms = strike.agent.activity.advance(at_ms, min(wait, 1.0))
            if wait <= 1.0 and at_ms < end:
                run_task(strike.enterprise, start_session(strike.agent, strike.stream, at_ms), event_label=1)
                yield

    return play


def volume_ramp(growth: float) -> PlayAttack:
    """Every other usual session reads and sends more than the one before; the bytes grow by *growth* an hour."""

    def play(strike: AttackContext) -> Iterator[None]:
        steps = usual_steps(strike, "read", "write")
        for at_ms in _working_moments(strike, max(0.5, _sessions_per_hour(strike) / 2), _RAMP_MS):
            scale = min(growth ** ((at_ms - strike.at_ms) / HOUR_MS), 1000.0)
            session = strike.start_session(at_ms)
            session.obtain_token()
            for step in steps[:3]:
                session.pause()
                session.perform(step, event_label=1, outcome=SUCCESS_JSON, scale=scale)
            yield

    return play


def mimicry_reads(strike: AttackContext) -> Iterator[None]:
    """Whole sessions of usual reads at the usual pace, but every resource is one that the agent has not met."""
    for number, at_ms in enumerate(_working_moments(strike, max(1.0, _sessions_per_hour(strike)), DAY_MS)):
        if number == 10:
            return
        session = strike.start_session(at_ms)
        session.obtain_token()
        for step in usual_steps(strike, "read")[:4]:
            session.pause()
            rank = strike.first_unseen_rank(step) + number * 7
            session.perform(step, event_label=1, resource=resource_json(strike.agent, step.kind, rank, "granted"))
        yield


def _play_post(strike: AttackContext, at_ms: int, resource: str, step: TaskStep, scale: float) -> None:
    """A usual task in which one post goes where the attacker wants it."""
    session = strike.start_session(at_ms, _task_with_way_out(strike))
    session.obtain_token()
    for usual in session.task.steps:
        if usual.calls is None and usual.since == 0 and not writes_outside(usual):
            session.pause()
            session.perform(usual)
    session.pause()
    session.perform(step, event_label=1, resource=resource, outcome=SUCCESS_JSON, scale=scale)


def _way_out_of(strike: AttackContext) -> TaskStep:
    return next(filter(writes_outside, _task_with_way_out(strike).steps))


def mimicry_post(strike: AttackContext) -> Iterator[None]:
    """One usual session, one post of usual size by a usual action; only the target is a stranger."""
    step = _way_out_of(strike)
    _play_post(strike, strike.at_ms, _unknown_target(strike, step.kind, strike.unique_word("host")), step, 1.0)
    yield


def slow_posts(known: bool) -> PlayAttack:
    """About a post every two working hours for days: to one stranger, or three times the size to a known target."""

    def play(strike: AttackContext) -> Iterator[None]:
        step = _way_out_of(strike)
        stranger = _unknown_target(strike, step.kind, strike.unique_word("host"))
        usual = resource_json(strike.agent, step.kind, 0, "granted")
        for at_ms in _working_moments(strike, 0.5, _SLOW_MS):
            _play_post(strike, at_ms, usual if known else stranger, step, 3.0 if known else 1.0)
            yield

    return play


def slow_reads(strike: AttackContext) -> Iterator[None]:
    """About once in a working hour a usual session reads one thing more, which the agent may read and never did."""
    steps = usual_steps(strike, "read")
    for number, at_ms in enumerate(_working_moments(strike, 1.0, _SLOW_MS)):
        session = start_session(strike.agent, strike.stream, at_ms)
        run_task(strike.enterprise, session)
        step = steps[number % len(steps)]
        rank = strike.first_unseen_rank(step) + number * 11
        session.perform(step, event_label=1, resource=resource_json(strike.agent, step.kind, rank, "granted"))
        yield


def _exfiltrate(strike: AttackContext, at_ms: int, word: str, label: int) -> None:
    """Three large reads, then two large posts to the stranger of that word."""
    task, draws = _task_with_way_out(strike), strike.draws
    session = strike.start_session(at_ms, task)
    session.obtain_token()
    session.pause()
    first = next(step for step in task.steps if step.effect == "read")
    for _ in range(3):
        session.perform(first, event_label=label, outcome=SUCCESS_JSON, scale=4)
        session.pause(0.4)
    step = _way_out_of(strike)
    for _ in range(2):
        target = _unknown_target(strike, step.kind, word)
        session.perform(
            step, event_label=label, resource=target, outcome=SUCCESS_JSON, scale=draws.uniform_between(40, 120)
        )
        session.pause(0.4)


def play_flood(strike: AttackContext) -> Iterator[None]:
    """A day of noise to widen the baseline (new resources, strange targets, odd sizes), then an exfiltration."""
    steps, out, draws = usual_steps(strike, "read", "write"), _way_out_of(strike), strike.draws
    for number, at_ms in enumerate(_working_moments(strike, max(2.0, _sessions_per_hour(strike)), DAY_MS)):
        session = strike.start_session(at_ms)
        session.obtain_token()
        for turn in range(5):
            step = steps[draws.uniform_index(len(steps))]
            resource = resource_json(
                strike.agent, step.kind, strike.first_unseen_rank(step) + number * 13 + turn, "new"
            )
            session.pause()
            session.perform(step, resource=resource, scale=draws.lognormal(1.0, 1.0))
        session.pause()
        noise = _unknown_target(strike, out.kind, f"{strike.unique_word('noise')}{number}")
        session.perform(out, resource=noise, scale=draws.lognormal(1.0, 1.5))
        yield
    _exfiltrate(strike, strike.at_ms + DAY_MS + HOUR_MS, strike.unique_word("host"), 1)
    yield


def poisoned(share: float, rest_ms: int) -> PlayAttack:
    """Exfiltrations to one target are *share* of the agent's sessions from the start until *rest_ms* before the end;
    then the same once more, which alone is labelled."""

    def play(strike: AttackContext) -> Iterator[None]:
        word = strike.unique_word("host")
        last = strike.end_ms - rest_ms
        per_hour = _sessions_per_hour(strike) * share / (1.0 - share)
        for at_ms in _working_moments(strike, per_hour, last - strike.at_ms):
            _exfiltrate(strike, at_ms, word, 0)
            yield
        _exfiltrate(strike, strike.agent.activity.advance(last + HOUR_MS, 1.0), word, 1)
        yield

    return play


def play_new_id(strike: AttackContext) -> Iterator[None]:
    """The agent comes back under a new id, registered with a new key; works as usual for hours; then exfiltrates."""
    old, stream = strike.agent, strike.stream
    name, epoch = strike.unique_word("pod"), old.deployment_at(strike.at_ms)
    epoch = replace(
        epoch, version="", instance=f"{epoch.instance[:-6]}{name[:6]}", thumbprint=hex_digest("key", name)[:43]
    )
    agent = replace(old, id=f"{old.id}-{name[:4]}", deployments=[epoch], pool_sizes=dict(old.pool_sizes), retires=False)
    again = replace(strike, agent=agent)
    session = f"admin-{mix64(stream.next_number() ^ stream.salt):016x}"
    resource = f'{{"type":"client","id":{to_json(agent.id)},"external":false,"audience":"{agent.tenant.issuer}"}}'
    text = (
        f',"type":"client.register","action":"client.register","effect":"admin"'
        f'{agent_json(agent, epoch).replace("urn:gateway:", "urn:as:", 1)},"resource":{resource}{SUCCESS_JSON}'
        f',"duration_ms":25,"session":"{session}"{client_json(agent, epoch, None)}'
        f"{credential_json(agent, epoch, hex_digest('token', name))}}}"
    )
    stream.append(strike.at_ms, text, GroundTruth(agent.id, agent.tenant.name, session, 1, stream.scenario), 0)
    yield
    for at_ms in _working_moments(again, max(1.0, _sessions_per_hour(again)), _CALM_MS):
        run_task(strike.enterprise, again.start_session(at_ms, choose_task(agent.role, strike.draws.uniform())))
        yield
    _exfiltrate(again, strike.at_ms + _CALM_MS + HOUR_MS // 2, strike.unique_word("host"), 1)
    yield


def _make_scenario(name: str, summary: str, play: PlayAttack, roles: frozenset[str] = ALL_ROLES) -> AttackScenario:
    return AttackScenario(name, summary, play, roles)


ADDITIONAL_SCENARIOS: dict[str, AttackScenario] = {
    scenario.name: scenario
    for scenario in (
        _make_scenario("ramp_2", "boiling frog: 2 % more sessions every hour", ramp(1.02), _AROUND_THE_CLOCK),
        _make_scenario("ramp_8", "boiling frog: 8 % more sessions every hour", ramp(1.08), _AROUND_THE_CLOCK),
        _make_scenario("volume_ramp", "boiling frog: 5 % more bytes every hour", volume_ramp(1.05)),
        _make_scenario("mimicry_reads", "usual reads at the usual pace, of things never read before", mimicry_reads),
        _make_scenario("mimicry_post", "one usual post of usual size, to a stranger", mimicry_post, _SENDING_ROLES),
        _make_scenario("slow_reads", "one more allowed read of something new per working hour", slow_reads),
        _make_scenario(
            "slow_posts", "an allowed post to one stranger every other working hour", slow_posts(False), _SENDING_ROLES
        ),
        _make_scenario(
            "slow_posts_known", "as above, three times the size to a known target", slow_posts(True), _SENDING_ROLES
        ),
        _make_scenario(
            "flood", "a day of noise to widen the baseline, then an exfiltration", play_flood, _SENDING_ROLES
        ),
        _make_scenario(
            "new_id",
            "back under a new id after a crash, calm for six hours, then an exfiltration",
            play_new_id,
            _SENDING_ROLES,
        ),
    )
}
"""Played against a clean history."""

POISONED_HISTORY_SCENARIOS: dict[str, AttackScenario] = {
    name: _make_scenario(
        name,
        f"{percent} % of the agent's history are exfiltrations to the same target, then one more",
        play,
        _SENDING_ROLES,
    )
    for percent in (0, 1, 5, 10)
    for name, play in [(f"poisoned_{percent}", poisoned(max(percent, 0.001) / 100, DAY_MS))]
}
"""Played from the first day of the history on."""
