"""Somebody else uses the agent's credential: other network, other software, other hours, and looks around."""

from __future__ import annotations

from collections.abc import Iterator

from ..calendar import HOUR_MS
from ..roles import ROLES
from ..session import DENIED_JSON, SUCCESS_JSON, CallOrigin, resource_json
from .base import AttackContext, AttackScenario, usual_steps

_ATTACKER_USER_AGENTS = ("python-requests/2.32.3", "curl/8.9.1", "Go-http-client/2.0")


def play_stolen_credential(strike: AttackContext) -> Iterator[None]:
    """80 to 200 reads of resources the agent never touched, a third denied, in its quietest hour within a day."""
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


STOLEN_CREDENTIAL = AttackScenario(
    "stolen_credential",
    "the same client from another network, with other software, at a quiet hour, enumerating resources",
    play_stolen_credential,
    # Who works around the clock has no quiet hour to hide in.
    frozenset(role.name for role in ROLES if role.shift in ("office", "extended")),
)
