"""Charts of the frames, in one namespace: each function takes frames as `frames` gives them, and returns a `Chart`."""

from __future__ import annotations

from .session import EXTRA_MISSING, is_extra_installed

if not is_extra_installed():
    raise ImportError(EXTRA_MISSING)

from .agent_charts import compare, contributions, edges, habits, levels, profile, risk, timeline
from .event_charts import activity, scores
from .model_charts import budget_report, budgets, calibration, curves, detection, features, reliability, sweep
from .policy_charts import requests, revocations, what_if

__all__ = [
    "activity",
    "budget_report",
    "budgets",
    "calibration",
    "compare",
    "contributions",
    "curves",
    "detection",
    "edges",
    "features",
    "habits",
    "levels",
    "profile",
    "reliability",
    "requests",
    "revocations",
    "risk",
    "scores",
    "sweep",
    "timeline",
    "what_if",
]
