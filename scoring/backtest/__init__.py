"""Back-test: history through the live path, and what of it would have been alerts, refusals and revocations."""

from .labels import EventLabel, read_labels
from .outcome import BacktestResult, build_result
from .plan import BacktestPlan, default_budgets
from .run import run_backtest

__all__ = [
    "BacktestPlan",
    "BacktestResult",
    "EventLabel",
    "build_result",
    "default_budgets",
    "read_labels",
    "run_backtest",
]
