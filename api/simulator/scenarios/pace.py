"""Too much of the usual: at once, slowly, or the same thing over and over."""

from __future__ import annotations

from collections.abc import Iterator

from ..calendar import DAY_MS, HOUR_MS
from ..session import RATE_LIMITED_JSON, SUCCESS_JSON, resource_json
from ..work import expected_events, run_task, start_session
from .base import ALL_ROLES, AttackContext, AttackScenario, usual_steps

RAMP_GROWTH_PER_HOUR = 1.04
_RAMP_DURATION_MS = 4 * DAY_MS


def play_burst(strike: AttackContext) -> Iterator[None]:
    """500 to 900 usual actions on usual resources within a minute or two."""
    draws = strike.draws
    session = strike.start_session(strike.at_ms)
    session.obtain_token(event_label=1)
    steps = usual_steps(strike, "read", "write")
    for _ in range(500 + draws.uniform_index(401)):
        step = steps[draws.uniform_index(len(steps))]
        at = session.clock_ms
        session.perform(step, event_label=1)
        # Calls run side by side: the next one does not wait for this one's answer.
        session.clock_ms = at + draws.lognormal(80, 0.5)
    yield


def play_runaway_loop(strike: AttackContext) -> Iterator[None]:
    """One action on one resource, 300 to 900 times, without a pause for thought; now and then the service is busy."""
    draws = strike.draws
    session = strike.start_session(strike.at_ms)
    session.obtain_token(event_label=0)
    steps = usual_steps(strike, "read")
    step = steps[draws.uniform_index(len(steps))]
    resource = resource_json(strike.agent, step.kind, 0, "granted")
    for _ in range(300 + draws.uniform_index(601)):
        at = session.clock_ms
        session.perform(
            step,
            event_label=1,
            resource=resource,
            outcome=RATE_LIMITED_JSON if draws.uniform() < 0.06 else SUCCESS_JSON,
        )
        session.clock_ms = at + draws.lognormal(300, 0.3)
    yield


def play_slow_ramp(strike: AttackContext) -> Iterator[None]:
    """Usual sessions on top of the usual ones: the total grows by 4 % per working hour, for up to four days."""
    draws, agent, settings = strike.draws, strike.agent, strike.enterprise.settings
    daily = settings.events_per_agent_day * agent.role.activity / strike.enterprise.mean_activity
    usual_per_hour = daily / 24 / expected_events(agent.role)
    end = min(strike.end_ms, strike.at_ms + _RAMP_DURATION_MS)
    at_ms = strike.at_ms
    while at_ms < end:
        extra = RAMP_GROWTH_PER_HOUR ** ((at_ms - strike.at_ms) / HOUR_MS + 1) - 1
        # At most an hour's step at a time, so that the rate is never long out of date.
        wait = draws.exponential() / (usual_per_hour * extra)
        at_ms = agent.activity.advance(at_ms, min(wait, 1.0))
        if wait <= 1.0 and at_ms < end:
            run_task(strike.enterprise, start_session(agent, strike.stream, at_ms), event_label=1)
            yield


BURST = AttackScenario("burst", "hundreds of usual actions in a minute or two", play_burst, ALL_ROLES)
RUNAWAY_LOOP = AttackScenario(
    "runaway_loop", "the same action on the same resource, hundreds of times", play_runaway_loop, ALL_ROLES
)
SLOW_RAMP = AttackScenario(
    "slow_ramp",
    "usual actions, but 4 % more of them every hour, for days",
    play_slow_ramp,
    # Those who work around the clock or nearly so: a ramp over a free week-end would not be one.
    frozenset({"SecurityTriage", "SupportTriage", "DeploymentBot"}),
    window=(0.15, 0.4),
)
