"""What a model has learned from is not applied to its state again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from trustwatch.scoring.backtest.plan import first_applied, history_end

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
TUESDAY, WEDNESDAY = MONDAY + timedelta(days=1), MONDAY + timedelta(days=2)
LAST_MS = round(TUESDAY.timestamp() * 1000) - 1
"""The model has seen all of Monday."""


@pytest.mark.parametrize(
    ("since", "after", "expected"),
    [
        (None, None, None),  # all is looked at, so all is applied
        (None, MONDAY, MONDAY),
        (WEDNESDAY, None, TUESDAY),  # Tuesday warms up
        (WEDNESDAY, MONDAY, TUESDAY),
        (WEDNESDAY, WEDNESDAY, WEDNESDAY),
        (TUESDAY, None, TUESDAY),
        (MONDAY, None, MONDAY),  # what is looked at is applied, known or not
    ],
)
def test_events_are_applied_from_the_end_of_the_models_history(
    since: datetime | None, after: datetime | None, expected: datetime | None
) -> None:
    assert history_end(LAST_MS) == TUESDAY
    assert first_applied(LAST_MS, since, after) == expected
