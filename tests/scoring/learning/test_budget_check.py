"""Promised against observed alerts on a model's own history."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from trustwatch.scoring.engine.settings import AlertBudget, RiskEvaluationSettings
from trustwatch.scoring.learning.budget_check import check_budget

from ...support.one_question import for_each_concern

BUDGET = AlertBudget()


def promised(make: Any, kit: Any, p_values: Any, budget: AlertBudget = BUDGET) -> Any:
    """Promise of the kit's model over 400 events of twelve agents with the given p-values."""
    columns = kit.columns(make.stream(5, 400))
    return check_budget(
        kit.model,
        columns,
        for_each_concern(np.asarray(p_values(len(columns)), float)),
        RiskEvaluationSettings(alert_budget=budget.by_level()),
    )


def test_calm_history_keeps_every_budget(kit: Any, make: Any) -> None:
    """Nothing odd, no alert; but a hundred agent-days can not tell that one in a thousand is kept."""
    promise = promised(make, kit, lambda n: np.full(n, 0.7))
    assert [level.alerts for level in promise.levels] == [0, 0, 0]
    assert promise.agent_days >= 12
    assert not promise.levels[-1].enough_data
    assert "too little history to tell" in promise.describe()[-1 if not promise.groups_of_the_fleet else -2]


def test_odd_history_shows(kit: Any, make: Any) -> None:
    """One agent's run of impossible events is one alert of each level, in their rates per 1,000 agent-days."""
    columns = kit.columns(make.stream(5, 400))
    first = columns.events[0].agent.id

    def odd(n: int) -> Any:
        return [1e-9 if event.agent.id == first else 0.7 for event in columns.events][:n]

    promise = promised(make, kit, odd)
    assert [level.alerts for level in promise.levels] == [1, 1, 1]
    assert promise.levels[0].observed == 1000.0 / promise.agent_days
    assert "NOT KEPT" not in "\n".join(promise.describe())  # one alert may be chance


def test_agents_that_the_history_knows_are_no_newcomers(make: Any, kit: Any) -> None:
    """The oddness of newcomers bets less at once. Were all agents checked as such, the promise would be too good."""
    columns = kit.columns(make.stream(5, 1_200))
    dice = np.random.default_rng(3)
    p_values = np.where(dice.random(len(columns)) < 0.1, 0.0005, 0.6)

    def alerts(events_before: int) -> int:
        seeds = kit.model.seeds
        shown = np.full(len(seeds.keys), events_before + len(columns))
        model = dataclasses.replace(kit.model, seeds=dataclasses.replace(seeds, events=shown))
        return check_budget(model, columns, for_each_concern(p_values), RiskEvaluationSettings()).levels[0].alerts

    assert alerts(10_000) > alerts(-len(columns))
