"""When to try again, and when to give up."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class DispatchPolicy:
    """Numbers of the dispatcher; times in the unit of their name.

    Args:
        backoff_base_s: upper bound of the wait after the first failure; it doubles with each further one.
        backoff_cap_s: upper bound of any wait that we choose ourselves.
        retry_after_cap_s: upper bound of a wait that a target asks for.
        max_age_s: a delivery that waited this long is given up (`dead`).
        cooldown_s: further alerts of the same agent and reason within this time are suppressed; 0 = none.
        concurrency: attempts at once per target; also the rows of a target held in memory.
        poll_s: how often to look for work when nobody says that there is some.
    """

    backoff_base_s: float = 1.0
    backoff_cap_s: float = 300.0
    retry_after_cap_s: float = 3_600.0
    max_age_s: float = 86_400.0
    cooldown_s: float = 900.0
    concurrency: int = 4
    poll_s: float = 1.0


def backoff_s(policy: DispatchPolicy, attempt: int, random_source: random.Random) -> float:
    """Seconds to wait after failed attempt number *attempt* (from 1): exponential with full jitter, so that many rows
    that failed together do not come back together.

    >>> ceiling = [max(backoff_s(DispatchPolicy(), n, random.Random(s)) for s in range(999)) for n in (1, 2, 3, 20)]
    >>> [round(s) for s in ceiling]
    [1, 2, 4, 300]
    """
    exponent = min(attempt - 1, 62)  # beyond that the cap decides anyway
    return random_source.random() * min(policy.backoff_cap_s, policy.backoff_base_s * 2.0**exponent)


def retry_delay_s(
    policy: DispatchPolicy, attempt: int, retry_after_s: float | None, random_source: random.Random
) -> float:
    """Like `backoff_s`, but never earlier than the target asked for."""
    chosen = backoff_s(policy, attempt, random_source)
    return chosen if retry_after_s is None else max(chosen, min(retry_after_s, policy.retry_after_cap_s))
