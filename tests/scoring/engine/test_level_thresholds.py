"""Thresholds of a model: each concern has those of its share of the alert budget, or none."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from trustwatch.ingest.errors import ConfigError
from trustwatch.models.betting import TAIL_SHARE, AlarmTail
from trustwatch.models.detector import ONE_QUESTION, DetectorSettings
from trustwatch.models.trained_model import TrainedModel
from trustwatch.scoring.engine.risk_levels import COMPROMISE, MALFUNCTION, OVERREACH, model_thresholds, thresholds
from trustwatch.scoring.engine.settings import AlertBudget

BUDGET = AlertBudget()


def model_with(kit: Any, shares: tuple[float, float, float], days: int = 0) -> TrainedModel:
    """The kit's model at other shares of the budget, and with overreach seen on so many agent-days."""
    model: TrainedModel = kit.model
    settings = dataclasses.replace(model.detector.settings, budget_shares=shares)
    detector = dataclasses.replace(model.detector, settings=settings)
    seen = AlarmTail(2.0, 1.0, TAIL_SHARE, days)
    return dataclasses.replace(model, detector=detector, alarms=(*model.alarms[:2], seen))


def test_a_share_asks_for_more_evidence_than_the_whole(kit: Any) -> None:
    """Half of the budget has the thresholds of a budget of half; without a share no evidence is enough."""
    half = model_thresholds(model_with(kit, (0.5, 0.5, 0.0)), BUDGET)
    whole = model_thresholds(model_with(kit, ONE_QUESTION), BUDGET)
    model = kit.model
    part = AlertBudget(BUDGET.medium / 2, BUDGET.high / 2, BUDGET.critical / 2)

    expected = thresholds(model.group_rates, part, model.exponents[MALFUNCTION], model.alarms[MALFUNCTION])
    assert np.array_equal(half[:, MALFUNCTION], expected)
    assert (half[:, MALFUNCTION] > whole[:, MALFUNCTION]).all()
    assert np.isinf(half[:, OVERREACH]).all() and np.isinf(whole[:, [COMPROMISE, OVERREACH]]).all()


@pytest.mark.parametrize(("days", "levels"), [(99, 0), (1_499, 0), (1_500, 1), (6_000, 2), (30_000, 3)])
def test_overreach_moves_only_levels_whose_promise_its_history_can_check(kit: Any, days: int, levels: int) -> None:
    """A tenth of 20, 5 and 1 alerts in 1,000 agent-days must be three over the history."""
    limits = model_thresholds(model_with(kit, (0.5, 0.4, 0.1), days), BUDGET)[0, OVERREACH]

    assert np.isfinite(limits).tolist() == [at < levels for at in range(3)]


def test_calm_days_bring_overreach_no_nearer(kit: Any) -> None:
    """It builds up for longer than a rehearsal lasts: never less than independent hours need, unlike other concerns."""
    model = model_with(kit, (0.5, 0.4, 0.1), 30_000)
    quiet = model.alarms[OVERREACH]._replace(start=0.1, scale=0.1, rehearsed=True)
    limits = model_thresholds(dataclasses.replace(model, alarms=(quiet, quiet, quiet)), BUDGET)[0]

    hourly = np.log(24.0 / (0.1 * np.array([0.02, 0.005, 0.001])))
    assert limits[OVERREACH] == pytest.approx(hourly)
    assert (limits[COMPROMISE] < np.log(model.group_rates[0] / (0.5 * np.array([0.02, 0.005, 0.001])))).all()


@pytest.mark.parametrize("shares", [(0.5, 0.5, 0.5), (-0.1, 0.5, 0.5), (0.0, 0.0, 0.0), (0.5, 0.5)])
def test_shares_that_are_no_division_of_the_budget_are_refused(shares: Any) -> None:
    with pytest.raises(ConfigError, match="budget_shares is"):
        DetectorSettings(budget_shares=shares)
