"""Retention of rows: days as an operator sets them, and the times before which rows are deleted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal, NamedTuple

import msgspec

from trustwatch.ingest.timestamps import DAY_MS

Days = Annotated[int, msgspec.Meta(ge=1, le=36_500)]


class RetentionCutoffs(NamedTuple):
    """Times before which rows are deleted, by kind of row, in UTC milliseconds; 0 keeps all rows.

    Attributes:
        decisions_ms: an agent's current decision stays; PostgreSQL deletes whole weeks, so up to a week later.
        agents_ms: quiet agents: low or unknown, nothing due, neither seen nor evaluated since.
        waiting_dead_letters_ms: dead letters that were not replayed.
        labels_ms: closed feedback with its steps, unless a partition applies its rule.
        cases_ms: by their last change.
        others_ms: outbox rows without a pending delivery, replayed dead letters, ended pins and approvals, actuations
            that restrict nothing, edges by when they were last seen, previews, ended rules of partitions.
    """

    decisions_ms: int = 0
    agents_ms: int = 0
    waiting_dead_letters_ms: int = 0
    labels_ms: int = 0
    cases_ms: int = 0
    others_ms: int = 0


RetentionKind = Literal["decisions", "waiting_dead_letters", "labels", "cases", "log"]
RetentionDays = Mapping[RetentionKind, Days | None]
"""Days by kind of row, and of the event log; all other rows are kept for `retention_days`."""

LOG_DAYS: Final = 7
"""Days of the event log, as of the topic of events."""


def row_cutoffs(
    days: RetentionDays, now_ms: int, *, default_days: int, agents_days: int, events_days: int
) -> RetentionCutoffs:
    """Return the times before which rows are deleted; labels are kept as long as events unless *days* sets them."""

    def cutoff(kind: RetentionKind, default: int = default_days) -> int:
        return now_ms - (days.get(kind) or default) * DAY_MS

    return RetentionCutoffs(
        decisions_ms=cutoff("decisions"),
        agents_ms=now_ms - agents_days * DAY_MS,
        waiting_dead_letters_ms=cutoff("waiting_dead_letters") if days.get("waiting_dead_letters") else 0,
        labels_ms=cutoff("labels", events_days),
        cases_ms=cutoff("cases"),
        others_ms=now_ms - default_days * DAY_MS,
    )
