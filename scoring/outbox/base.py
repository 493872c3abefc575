"""The seam of what leaves: a target, a notifier that knows how to reach it, and what came of an attempt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar

from ...ingest.errors import ConfigError
from ..records import RiskLevel
from ..store.base import LeasedDelivery
from .policy import DispatchPolicy

ALL_LEVELS = frozenset(RiskLevel)
MAX_TIMEOUT_S = 60.0

DeliveryOutcome = Literal["delivered", "retry", "failed", "gone", "skipped"]


@dataclass(frozen=True)
class DeliveryTarget:
    """A configured place that outbox rows go to.

    Args:
        name: unique; what delivery states and logs show. 1 to 64 characters.
        levels: it takes the rows that announce one of these levels.
        timeout_s: total time of one attempt, from name resolution to the end of the answer; 0 < s <= 60.

    Raises:
        ConfigError: a member is out of range.
    """

    name: str
    levels: frozenset[RiskLevel] = field(default=ALL_LEVELS, kw_only=True)
    timeout_s: float = field(default=5.0, kw_only=True)

    def __post_init__(self) -> None:
        if not 1 <= len(self.name) <= 64:
            raise ConfigError("target name: expected 1 to 64 characters")
        if not 0 < self.timeout_s <= MAX_TIMEOUT_S:
            raise ConfigError(f"target {self.name}: timeout_s must be above 0 and at most {MAX_TIMEOUT_S:g}")
        if not self.levels:
            raise ConfigError(f"target {self.name}: levels is empty, so it would never be told anything")

    @property
    def has_cooldown(self) -> bool:
        """Whether repeated alerts about one agent and reason are kept back for a while."""
        return True

    @property
    def ordered(self) -> bool:
        """Whether an alert about an agent must not arrive after a newer one about it."""
        return False

    @property
    def fingerprint(self) -> str:
        """Changes when the target is reconfigured. It is stored, so it must not reveal a secret."""
        return self.name


class DeliveryResult(NamedTuple):
    """What came of one attempt.

    `delivered`; `retry` (later, not before *retry_after_s* if that is given); `failed` (this row, for good); `gone`
    (nothing more to this target until it is reconfigured); `skipped` (the target has nothing to do with this row, and
    *error* says why). *error* is at most a line, and is shown to operators.
    """

    outcome: DeliveryOutcome
    error: str = ""
    retry_after_s: float | None = None


T = TypeVar("T", bound=DeliveryTarget)
T_contra = TypeVar("T_contra", bound=DeliveryTarget, contravariant=True)


class Notifier(Protocol[T_contra]):
    """Carries one row to one target. One contract holds for every implementation.

    The caller bounds the time by cancelling; the implementation needs no timeout of its own. The same row may come
    again after success (a crash before it was written down): `row.row.key` stays the same, so the target can tell.
    """

    async def deliver(self, row: LeasedDelivery, target: T_contra) -> DeliveryResult:
        """Try once. An exception counts as `retry`."""


@dataclass(frozen=True)
class DeliveryChannel(Generic[T]):
    """A target together with the notifier that reaches it, for rows of *kind*.

    Args:
        policy: how it is tried again, at once and how often; None = as the dispatcher does. Ages are the dispatcher's.
    """

    kind: str
    target: T
    notifier: Notifier[T]
    policy: DispatchPolicy | None = None
