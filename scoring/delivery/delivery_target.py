"""Interface of delivery: targets, notifiers, results, and the times to try again or give up."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar

from ..records.agents import RiskLevel
from ..records.commits import LeasedDelivery


@dataclass(frozen=True)
class DispatchPolicy:
    """Numbers of the dispatcher; times in the unit of their name."""

    backoff_base_s: float = 1.0
    backoff_cap_s: float = 300.0
    retry_after_cap_s: float = 3_600.0
    max_age_s: float = 86_400.0
    cooldown_s: float = 900.0  # long enough for people to begin, short enough that an ongoing problem is reported again
    concurrency: int = 4
    poll_s: float = 1.0


def retry_delay_s(
    policy: DispatchPolicy, attempt: int, retry_after_s: float | None, random_source: random.Random
) -> float:
    """Seconds to wait after failed attempt number *attempt* (from 1): exponential with full jitter, so that many rows
    that failed together do not come back together, but never earlier than the target asked for.

    >>> def ceiling(n):
    ...     return round(max(retry_delay_s(DispatchPolicy(), n, None, random.Random(s)) for s in range(999)))
    >>> [ceiling(n) for n in (1, 2, 3, 20)]
    [1, 2, 4, 300]
    """
    exponent = min(attempt - 1, 62)  # beyond that the cap decides anyway
    chosen = random_source.random() * min(policy.backoff_cap_s, policy.backoff_base_s * 2.0**exponent)
    return chosen if retry_after_s is None else max(chosen, min(retry_after_s, policy.retry_after_cap_s))


MAX_NAME_LENGTH = 64
ATTEMPT_TIMEOUT_S = 10.0
"""Total time of one attempt, from name resolution to the end of the answer: a lane waits no longer for its receiver."""

DeliveryOutcome = Literal["delivered", "retry", "failed", "gone", "skipped"]


class DeliveryTarget(Protocol):
    """A configured place that outbox rows go to."""

    @property
    def name(self) -> str:
        """Unique; what delivery states and logs show. At most `MAX_NAME_LENGTH` characters."""

    @property
    def levels_taken(self) -> frozenset[RiskLevel]:
        """It takes the rows that announce one of these levels."""

    @property
    def has_cooldown(self) -> bool:
        """True if repeated alerts about one agent and reason are kept back for a while."""

    @property
    def ordered(self) -> bool:
        """True if an alert about a case, or an agent without one, must not arrive after a newer one about it."""

    @property
    def fingerprint(self) -> str:
        """Changes when the target is reconfigured. It is stored, so it must not reveal a secret."""


class DeliveryResult(NamedTuple):
    """Result of one attempt.

    `delivered`; `retry` (later, not before *retry_after_s* if that is given); `failed` (this row, for good); `gone`
    (nothing more to this target until it is reconfigured); `skipped` (the target has nothing to do with this row, and
    *error* states why). *error* is at most one line, shown to operators.
    """

    outcome: DeliveryOutcome
    error: str = ""
    retry_after_s: float | None = None


T = TypeVar("T", bound=DeliveryTarget)
T_contra = TypeVar("T_contra", bound=DeliveryTarget, contravariant=True)


class Notifier(Protocol[T_contra]):
    """Carries one row to one target. One contract holds for every implementation.

    The caller bounds the time by cancelling; the implementation needs no timeout of its own. The same row may come
    again after success (a crash before it was written down): `row.row.key` stays the same, so targets can recognize it.
    """

    async def deliver(self, row: LeasedDelivery, target: T_contra) -> DeliveryResult:
        """Try once. An exception counts as `retry`."""


@dataclass(frozen=True)
class DeliveryChannel(Generic[T]):
    """A target together with the notifier that reaches it, for rows of *kind*."""

    kind: str
    target: T
    notifier: Notifier[T]
    policy: DispatchPolicy | None = None
