"""An agent everybody forgot comes back and is not what it was."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from ..session import SUCCESS, resource_text
from .base import ANY_ROLE, Scenario, Strike, own_steps

_SESSIONS = 3


def play(strike: Strike) -> Iterator[None]:
    """Three sessions in a row, each reading 25 to 60 resources, half of them new, faster than it ever worked."""
    draws, agent = strike.draws, strike.agent
    at_ms: float = strike.at_ms
    for turn in range(_SESSIONS):
        session = strike.session(at_ms)
        session.open(event_label=1)
        reads = own_steps(strike, "read")
        for number in range(25 + draws.index(36)):
            at = session.at
            step = reads[draws.index(len(reads))]
            fresh = strike.unseen(step) + 100 * turn + number
            rank = fresh if draws.unit() < 0.5 else draws.rank(step.kind.size)
            resource = resource_text(agent, step.kind, rank, "derived")
            session.step(step, event_label=1, resource=resource, outcome=SUCCESS, scale=1.5)
            # Side by side, without waiting for the answer.
            session.at = at + draws.lognormal(600 * agent.pace, 0.6)
        at_ms = session.at + draws.between(60_000, 300_000)
        yield


DORMANT_AWAKENING = Scenario(
    "dormant_awakening",
    "an agent silent for days works again, faster and more widely than before",
    play,
    ANY_ROLE,
    quiet_before=timedelta(days=3),
)
