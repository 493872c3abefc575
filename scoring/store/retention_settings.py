"""Retention of rows: days as an operator says them, and the times before which rows go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal, NamedTuple

import msgspec

from trustwatch.ingest.timestamps import DAY_MS

Days = Annotated[int, msgspec.Meta(ge=1, le=36_500)]


class RetentionCutoffs(NamedTuple):
    """Times before which rows go, by kind of row, UTC milliseconds; 0 keeps them all."""

    decisions_ms: int = 0  # an agent's current one stays; on PostgreSQL they go by whole weeks, so up to a week later
    agents_ms: int = 0  # calm ones: low or unknown, nothing due, neither seen nor evaluated since
    deliveries_ms: int = 0  # rows of the outbox without a pending delivery
    dead_letters_ms: int = 0  # those that were replayed
    waiting_dead_letters_ms: int = 0  # those that nobody replayed
    interventions_ms: int = 0  # pins and approvals that ended
    actuations_ms: int = 0  # what is lowered at a server stays
    edges_ms: int = 0  # since they were last seen
    feedback_ms: int = 0  # previews, and rules of partitions that ended
    labels_ms: int = 0  # feedback that is over, with its steps, and not while a partition holds to its rule
    cases_ms: int = 0  # cases that changed last before


RetentionKind = Literal["decisions", "waiting_dead_letters", "labels", "cases", "log"]
RetentionDays = Mapping[RetentionKind, Days | None]
"""Days by kind of row, and of the event log; all other rows are kept as long as `retention_days` says."""

LOG_DAYS: Final = 7
"""Days of the event log: a week of what was sent, as the topic of events keeps."""


def row_cutoffs(
    days: RetentionDays, now_ms: int, *, default_days: int, agents_days: int, events_days: int
) -> RetentionCutoffs:
    """Times before which rows go; labels stay as long as the events, unless *days* names them."""

    def cutoff(kind: RetentionKind, default: int = default_days) -> int:
        return now_ms - (days.get(kind) or default) * DAY_MS

    others_ms = now_ms - default_days * DAY_MS
    return RetentionCutoffs(
        decisions_ms=cutoff("decisions"),
        agents_ms=now_ms - agents_days * DAY_MS,
        deliveries_ms=others_ms,
        dead_letters_ms=others_ms,
        waiting_dead_letters_ms=cutoff("waiting_dead_letters") if days.get("waiting_dead_letters") else 0,
        interventions_ms=others_ms,
        actuations_ms=others_ms,
        edges_ms=others_ms,
        feedback_ms=others_ms,
        labels_ms=cutoff("labels", events_days),
        cases_ms=cutoff("cases"),
    )
