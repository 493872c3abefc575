"""Somebody else uses the agent's credential: other network, other software, other hours, and looks around."""

from __future__ import annotations

from collections.abc import Iterator

from ..calendar import HOUR_MS
from ..roles import ROLES
from ..session import DENIED, SUCCESS, Origin, resource_text
from .base import Scenario, Strike, own_steps

_SOFTWARE = ("python-requests/2.32.3", "curl/8.9.1", "Go-http-client/2.0")


def play(strike: Strike) -> Iterator[None]:
    """80 to 200 reads of resources the agent never touched, a third denied, in its quietest hour within a day."""
    draws, agent = strike.draws, strike.agent
    night = agent.profile.quietest_within(strike.at_ms, 24) + int(draws.between(0, HOUR_MS / 2))
    at_ms = night if night + HOUR_MS < strike.end_ms else strike.at_ms
    origin = Origin(f"203.0.113.{1 + draws.index(250)}", 65536 + draws.index(16), _SOFTWARE[draws.index(3)])
    session = strike.session(at_ms, origin=origin)
    session.open(event_label=1)
    reads = own_steps(strike, "read")
    for number in range(80 + draws.index(121)):
        session.think(0.3)
        step = reads[number % len(reads)]
        resource = resource_text(agent, step.kind, strike.unseen(step) + number, "unknown")
        outcome = DENIED if draws.unit() < 0.35 else SUCCESS
        session.step(step, event_label=1, resource=resource, outcome=outcome)
    yield


STOLEN_CREDENTIAL = Scenario(
    "stolen_credential",
    "the same client from another network, with other software, at a quiet hour, enumerating resources",
    play,
    # Who works around the clock has no quiet hour to hide in.
    frozenset(role.name for role in ROLES if role.shift in ("office", "extended")),
)
