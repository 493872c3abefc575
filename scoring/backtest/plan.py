"""What a back-test is asked for: a plain value that every process of it gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from ..engine import EngineSettings
from ..policy import PolicyBook
from ..risk import AlertRateBudget

BUDGET_FACTORS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Alert budgets that are tried, in multiples of the budget set."""
_MAX_BUDGET = 1000.0


class BacktestPlan(NamedTuple):
    """One back-test.

    Attributes:
        paths: files of events (JSON lines, plain or gzip), oldest first.
        models: directories of the models to run, one or two.
        settings: of the engine, budget included.
        books: token policies to judge by, one or two.
        budgets: alert budgets to try beside that of the settings.
        domains: the tenants' internal domains.
        since: what happened before it moves state and is not counted; None = all counts.
        before: what happened from then on is left out; None = nothing is.
        labels: label file; None = there is none.
        leave_out: classes of labels that count for nothing.
        jobs: processes.
        after: what happened before it is left out, warm-up included; None = nothing is.
        keep_rows: whether the scores of every event are kept (they are where there are labels).
    """

    paths: Sequence[Path]
    models: Sequence[Path]
    settings: EngineSettings = EngineSettings()
    books: Sequence[PolicyBook] = ()
    budgets: Sequence[AlertRateBudget] = ()
    domains: Mapping[str, Sequence[str]] = {}
    since: datetime | None = None
    before: datetime | None = None
    labels: Path | None = None
    leave_out: Sequence[str] = ()
    jobs: int = 1
    keep_rows: bool = False
    after: datetime | None = None


def default_budgets(budget: AlertRateBudget) -> list[AlertRateBudget]:
    """The budgets that are tried unless others are asked for: multiples of one, none above what can be set.

    >>> [tried.high for tried in plain_budgets(Budget(20.0, 5.0, 1.0))]
    [0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0]
    """
    return [AlertRateBudget(*(min(alerts * factor, _MAX_BUDGET) for alerts in budget)) for factor in BUDGET_FACTORS]
