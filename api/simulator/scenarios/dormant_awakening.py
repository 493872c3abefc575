"""An agent everybody forgot comes back and is not what it was."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from ..session import SUCCESS_JSON, resource_json
from .base import ALL_ROLES, AttackContext, AttackScenario, usual_steps

_AWAKENING_SESSIONS = 3


def play_dormant_awakening(strike: AttackContext) -> Iterator[None]:
    """Three sessions in a row, each reading 25 to 60 resources, half of them new, faster than it ever worked."""
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
            # Side by side, without waiting for the answer.
            session.clock_ms = at + draws.lognormal(600 * agent.pace, 0.6)
        at_ms = session.clock_ms + draws.uniform_between(60_000, 300_000)
        yield


DORMANT_AWAKENING = AttackScenario(
    "dormant_awakening",
    "an agent silent for days works again, faster and more widely than before",
    play_dormant_awakening,
    ALL_ROLES,
    quiet_before=timedelta(days=3),
)
