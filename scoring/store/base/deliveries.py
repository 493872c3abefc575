"""What the dispatcher asks: from outbox rows to deliveries, and how those ended."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, Protocol

import msgspec

from ...records import OutboxRow


class DeliveryRoute(msgspec.Struct, frozen=True):
    """Which outbox rows a configured target takes."""

    target: str
    kind: str
    levels: frozenset[int]
    cooldown_ms: int


class LeasedDelivery(NamedTuple):
    """One delivery that is about to be tried; *attempt* counts from 1 and identifies the lease."""

    seq: int
    row: OutboxRow
    target: str
    attempt: int
    queued_ms: int
    suppressed_before: int


class DeliverySettlement(NamedTuple):
    """How a leased delivery ended. It has no effect if the lease was lost meanwhile."""

    seq: int
    target: str
    attempt: int
    status: str  # pending (again at next_attempt_ms) | delivered | failed | suppressed
    next_attempt_ms: int
    error: str
    at_ms: int


class OutboxStore(Protocol):
    """What the dispatcher needs. All state of deliveries is here, so a dispatcher may stop at any moment."""

    def route(self, routes: Sequence[DeliveryRoute], now_ms: int, limit: int = 200) -> int:
        """Turn outbox rows into deliveries, in order; returns how many rows were routed.

        A row within the cool-down of (target, agent, group) becomes `suppressed`, unless its level is higher than that
        of the alert before it or that alert did not arrive. A row for a target that is not configured becomes `dead`.
        """

    def lease(self, target: str, now_ms: int, limit: int, lease_ms: int) -> list[LeasedDelivery]:
        """Deliveries of *target* that are due; nobody else gets them for *lease_ms*. Counts the attempt."""

    def settle(self, settlements: Sequence[DeliverySettlement]) -> None:
        """Write how leased deliveries ended."""

    def superseded(self, target: str, seqs: Collection[int]) -> set[int]:
        """Those of *seqs* that a delivered one about the same agent's level has overtaken at *target*.

        What has no cool-down group tells of no level: it neither overtakes nor is overtaken.
        """

    def next_due_ms(self, target: str) -> int | None:
        """When the next pending delivery of *target* is due; None = there is none."""

    def expire(self, queued_before_ms: int, now_ms: int) -> int:
        """Give up (`dead`) pending deliveries that wait since before *queued_before_ms*; returns how many."""

    def delivery_counts(self) -> dict[tuple[str, str], int]:
        """Number of deliveries by (target, status)."""

    def stop_target(self, name: str, fingerprint: str, at_ms: int, reason: str) -> None:
        """Send nothing more to the target as long as its configuration has this *fingerprint*."""

    def stopped_targets(self) -> dict[str, str]:
        """Fingerprint that each stopped target had."""

    def resume_target(self, name: str) -> bool:
        """Send to the target again; whether it was stopped."""

    def enqueue(self, rows: Sequence[OutboxRow]) -> None:
        """Add rows that no commit brings; one whose key is there already is left out."""

    def note_heard(self, source: str, at_ms: int) -> None:
        """Note that something came from *source*; of what several processes note, the latest time counts."""

    def tell_silence(self, source: str, since_ms: int, row: Callable[[int], OutboxRow]) -> bool:
        """Enqueue that *source* is silent, unless something came from it after *since_ms*; whether it is silent.

        *row* is given the time when it was heard last (0 = never) and makes a key of that: so each silence is told
        once, however many processes notice it and however often they are restarted.
        """
