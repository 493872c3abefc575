"""Too much of the usual: at once, slowly, or the same thing over and over."""

from __future__ import annotations

from collections.abc import Iterator

from ..calendar import DAY_MS, HOUR_MS
from ..session import BUSY, SUCCESS, resource_text
from ..work import mean_events, new_session, run_task
from .base import ANY_ROLE, Scenario, Strike, own_steps

GROWTH_PER_HOUR = 1.04
_RAMP_MS = 4 * DAY_MS


def play_burst(strike: Strike) -> Iterator[None]:
    """500 to 900 usual actions on usual resources within a minute or two."""
    draws = strike.draws
    session = strike.session(strike.at_ms)
    session.open(event_label=1)
    steps = own_steps(strike, "read", "write")
    for _ in range(500 + draws.index(401)):
        step = steps[draws.index(len(steps))]
        at = session.at
        session.step(step, event_label=1)
        # Calls run side by side: the next one does not wait for this one's answer.
        session.at = at + draws.lognormal(80, 0.5)
    yield


def play_loop(strike: Strike) -> Iterator[None]:
    """One action on one resource, 300 to 900 times, without a pause for thought; now and then the service is busy."""
    draws = strike.draws
    session = strike.session(strike.at_ms)
    session.open(event_label=0)
    steps = own_steps(strike, "read")
    step = steps[draws.index(len(steps))]
    resource = resource_text(strike.agent, step.kind, 0, "granted")
    for _ in range(300 + draws.index(601)):
        at = session.at
        session.step(step, event_label=1, resource=resource, outcome=BUSY if draws.unit() < 0.06 else SUCCESS)
        session.at = at + draws.lognormal(300, 0.3)
    yield


def play_ramp(strike: Strike) -> Iterator[None]:
    """Usual sessions on top of the usual ones: the total grows by 4 % per working hour, for up to four days."""
    draws, agent, settings = strike.draws, strike.agent, strike.enterprise.settings
    daily = settings.events_per_agent_day * agent.role.activity / strike.enterprise.mean_activity
    usual_per_hour = daily / 24 / mean_events(agent.role)
    end = min(strike.end_ms, strike.at_ms + _RAMP_MS)
    at_ms = strike.at_ms
    while at_ms < end:
        extra = GROWTH_PER_HOUR ** ((at_ms - strike.at_ms) / HOUR_MS + 1) - 1
        # At most an hour's step at a time, so that the rate is never long out of date.
        wait = draws.exponential() / (usual_per_hour * extra)
        at_ms = agent.profile.after(at_ms, min(wait, 1.0))
        if wait <= 1.0 and at_ms < end:
            run_task(strike.enterprise, new_session(agent, strike.stream, at_ms), event_label=1)
            yield


BURST = Scenario("burst", "hundreds of usual actions in a minute or two", play_burst, ANY_ROLE)
RUNAWAY_LOOP = Scenario("runaway_loop", "the same action on the same resource, hundreds of times", play_loop, ANY_ROLE)
SLOW_RAMP = Scenario(
    "slow_ramp",
    "usual actions, but 4 % more of them every hour, for days",
    play_ramp,
    # Those who work around the clock or nearly so: a ramp over a free week-end would not be one.
    frozenset({"SecurityTriage", "SupportTriage", "DeploymentBot"}),
    window=(0.15, 0.4),
)
