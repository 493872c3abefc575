"""Frames of what a service knows: the functions that an analyst calls, in one namespace (`reference/frames.md`).

A function that gives a frame is called as the frame is. What reads the service takes a session first; everything else
takes frames, a model, or the outcome of a back-test.
"""

from __future__ import annotations

from .session import EXTRA_MISSING, is_extra_installed

if not is_extra_installed():
    raise ImportError(EXTRA_MISSING)

from .backtest_frames import (
    backtest_alerts,
    backtest_comparison,
    backtest_curves,
    backtest_detection,
    backtest_requests,
    backtest_revoked,
    backtest_separation,
    backtest_sweep,
    backtest_touched,
    budgets,
    labelled_revocations,
    run_backtest,
    what_if,
    write_backtest_report,
)
from .behaviour_frames import comparison, distances, habits, largest_upgrade, profile, versions
from .event_frames import events, labels, last_hours, window_around
from .model_frames import budget_report, calibration, features, groups, reliability, train_model
from .score_frames import contributions, risk_history, scores, vectors
from .store_frames import (
    agents,
    alerts,
    blast_radius,
    decisions,
    edges,
    explain_decision,
    find_peer,
    reasons,
    worst_decision,
)

__all__ = [
    "agents",
    "alerts",
    "backtest_alerts",
    "backtest_comparison",
    "backtest_curves",
    "backtest_detection",
    "backtest_requests",
    "backtest_revoked",
    "backtest_separation",
    "backtest_sweep",
    "backtest_touched",
    "blast_radius",
    "budget_report",
    "budgets",
    "calibration",
    "comparison",
    "contributions",
    "decisions",
    "distances",
    "edges",
    "events",
    "explain_decision",
    "features",
    "find_peer",
    "groups",
    "habits",
    "labelled_revocations",
    "labels",
    "largest_upgrade",
    "last_hours",
    "profile",
    "reasons",
    "reliability",
    "risk_history",
    "run_backtest",
    "scores",
    "train_model",
    "vectors",
    "versions",
    "what_if",
    "window_around",
    "worst_decision",
    "write_backtest_report",
]
