"""Retention of rows: days as an operator says them, and the times before which rows go."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec

from trustwatch.ingest.settings import SettingsPart, setting
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


class RetentionSettings(SettingsPart, frozen=True):
    """Retention of rows and log segments, days; null is `retention_days`, as for all other rows.

    Archives: `archive.retention_days`.
    """

    decisions: Annotated[Days | None, setting("decisions, except an agent's current one")] = None
    waiting_dead_letters: Annotated[
        Days | None, setting("dead letters that were not replayed; null keeps them up to their limit")
    ] = None
    labels: Annotated[
        Days | None,
        setting("labels of decisions; null is `retention_days`, or a longer `archive.retention_days`"),
    ] = None
    cases: Annotated[Days | None, setting("cases, since their last change")] = None
    log: Annotated[int, setting("segments of the event log that all readers have passed", ge=1, le=36_500)] = 7

    def cutoffs(self, now_ms: int, *, default_days: int, agents_days: int, events_days: int) -> RetentionCutoffs:
        """Times before which rows go."""

        def cutoff(days: int | None, default: int = default_days) -> int:
            return now_ms - (default if days is None else days) * DAY_MS

        others_ms = cutoff(None)
        return RetentionCutoffs(
            decisions_ms=cutoff(self.decisions),
            agents_ms=cutoff(agents_days),
            deliveries_ms=others_ms,
            dead_letters_ms=others_ms,
            waiting_dead_letters_ms=0 if self.waiting_dead_letters is None else cutoff(self.waiting_dead_letters),
            interventions_ms=others_ms,
            actuations_ms=others_ms,
            edges_ms=others_ms,
            feedback_ms=others_ms,
            labels_ms=cutoff(self.labels, events_days),
            cases_ms=cutoff(self.cases),
        )
