"""Pictures of the lab's frames: each takes frames as `Lab` gives them, and returns a `Chart`."""

from __future__ import annotations

from .pictures_agents import compare, contributions, edges, habits, levels, profile, risk, timeline
from .pictures_events import activity, scores
from .pictures_models import budget_report, budgets, calibration, curves, detection, features, reliability, sweep
from .pictures_policy import requests, revocations, what_if

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
