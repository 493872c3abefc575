"""Back-test: history through the live path, and what of it would have been alerts, refusals and revocations."""

from .labels import Label, read_labels
from .outcome import Outcome, conclude
from .plan import Plan, plain_budgets
from .run import backtest

__all__ = ["Label", "Outcome", "Plan", "backtest", "conclude", "plain_budgets", "read_labels"]
