"""A history in shares is the same history: line by line, count by count, and as `replay` tells it."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trustwatch.ingest.errors import ModelError
from trustwatch.ingest.file_source import FileSource, UnreadableFile
from trustwatch.models.model_persistence import save_trained_model
from trustwatch.scoring.backtest.challenge_counts import ChallengeCounts, challenge_report
from trustwatch.scoring.backtest.counts import run_backtest
from trustwatch.scoring.backtest.plan import BacktestPlan, default_budgets
from trustwatch.scoring.backtest.result import build_result
from trustwatch.scoring.engine.engine import EngineSettings
from trustwatch.scoring.engine.settings import AlertBudget, RiskEvaluationSettings
from trustwatch.scoring.pipeline.replay import HistoryReplay
from trustwatch.scoring.policy.book import LevelTokenPolicy, PolicyBook, PolicyTable
from trustwatch.scoring.records.agents import RiskLevel

BUDGET = AlertBudget(400.0, 300.0, 200.0)
"""Generous, so that a small history has changes of every level."""


def plan(model_dir: Path, path: Path, **more: Any) -> BacktestPlan:
    settings = EngineSettings(RiskEvaluationSettings(alert_budget=BUDGET.by_level()), capacity=100)
    made = BacktestPlan([path], [model_dir], settings, [PolicyBook()], default_budgets(BUDGET), keep_rows=True)
    return made._replace(**more)


def plain(counts: Any) -> list[Any]:
    """Everything but the rows, as values that compare."""
    fields = [getattr(counts, name) for name in counts.__struct_fields__ if name != "rows"]
    return [_comparable(field) for field in fields]


def _comparable(field: Any) -> Any:
    if isinstance(field, ChallengeCounts):
        return challenge_report(field, {}, honest_only=False)
    return field.tolist() if isinstance(field, np.ndarray) else field


def test_shares_agree_line_by_line(model_dir: Path, messy: Path) -> None:
    """One process and several give the same score, level and count for every single event, to the last bit."""
    (alone,), told = run_backtest(plan(model_dir, messy))
    (shared,), told_shared = run_backtest(plan(model_dir, messy, jobs=3))
    assert len(alone.rows) == 2_999 and alone.rows.tobytes() == shared.rows.tobytes()
    for name, one, other in zip(alone.__struct_fields__, plain(alone), plain(shared), strict=False):
        assert one == other, name
    assert told == told_shared and [offset for offset, *_ in told] == [700, 701]
    assert alone.duplicates == 2  # the stranger under the id of another's event is one
    assert alone.changes and alone.policed[0].revoked and alone.rises.all()


def test_it_is_what_replay_tells(model_dir: Path, messy: Path, kit: Any) -> None:
    """The same events in the same order with the same numbers, and as many changes of level."""
    (counts,), _ = run_backtest(plan(model_dir, messy))
    run = HistoryReplay(kit.model, EngineSettings(RiskEvaluationSettings(alert_budget=BUDGET.by_level()), capacity=100))
    lines = list(run.replayed_events(FileSource([messy]), lambda *_: None))
    assert counts.rows["anomaly"].tolist() == [line.anomaly_score for line in lines]
    assert counts.rows["p_value"].tolist() == [line.p_value for line in lines]
    assert counts.rows["risk"].tolist() == [line.risk_score for line in lines]
    assert [RiskLevel(level).label for level in counts.rows["level"].tolist()] == [line.risk_level for line in lines]
    summary = run.summary()
    assert counts.changes.total() == len(summary.decisions)
    for name in ("events", "duplicates", "malformed", "late"):
        assert getattr(counts, name) == getattr(summary, name)


def test_a_window_counts_less_and_changes_nothing(tmp_path: Path, messy: Path, model: Any, make: Any) -> None:
    """What lies before the window warms up, of which the model knows nothing: scores inside are those of the whole."""
    model_dir, before_all = tmp_path / "model", dataclasses.replace(model, window_ms=(make.START_MS, make.START_MS))
    save_trained_model(model_dir, before_all, make.SETTINGS, 100, make.START_MS)
    middle, late = (datetime.fromtimestamp(make.START_MS / 1000 + days * 86_400, UTC) for days in (4.5, 6))
    (whole,), _ = run_backtest(plan(model_dir, messy))
    (part,), _ = run_backtest(plan(model_dir, messy, since=middle, before=late, jobs=2))
    first, last = (at.timestamp() * 1000 for at in (middle, late))
    times = whole.rows["time_ms"]
    inside = whole.rows[(times >= first) & (times < last)]
    # Some odd events are a day late, so behind the first event that is left out what is learned differs.
    before = np.flatnonzero(times >= last)[0]
    kept = inside[inside["offset"] < whole.rows["offset"][before]]
    assert 0 < len(kept) <= len(part.rows) == part.counted == len(inside)
    assert part.rows[: len(kept)].tobytes() == kept.tobytes()
    assert part.agent_days < whole.agent_days


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_can_not_be_read_is_said(model_dir: Path, messy: Path, tmp_path: Path, jobs: int) -> None:
    """Errors of a share come through as they are: a missing file, a model that is none."""
    with pytest.raises(UnreadableFile, match=r"gone\.jsonl"):
        run_backtest(plan(model_dir, tmp_path / "gone.jsonl", jobs=jobs))
    with pytest.raises(ModelError):
        run_backtest(plan(tmp_path, messy, jobs=jobs))


def test_two_models_and_two_policies_make_two_sides(model_dir: Path, messy: Path) -> None:
    """The same model twice differs in nothing; its levels under a lenient policy revoke nobody."""
    lenient = PolicyBook(
        PolicyTable({RiskLevel.CRITICAL: LevelTokenPolicy(True, 60, None, True, False, False)}, "lenient")
    )
    same = plan(model_dir, messy, models=[model_dir, model_dir])
    outcome = build_result(same, *run_backtest(same), None)
    assert outcome.comparison is not None and len(outcome.sides) == 2
    assert outcome.comparison.peaks == [] and all(row.a == row.b for row in outcome.comparison.figures)
    other = plan(model_dir, messy, books=[lenient, PolicyBook()])
    outcome = build_result(other, *run_backtest(other), None)
    assert outcome.comparison is not None
    assert outcome.comparison.revoked_only_by_b and not outcome.comparison.revoked_only_by_a
    a, b = (side.policy for side in outcome.sides)
    assert a is not None and b is not None and b.totals["denied"] > a.totals["denied"]
    assert sum(a.totals.values()) == sum(b.totals.values())
