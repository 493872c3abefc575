"""What is said of alerts over budget rests on the alerts and on the other budgets that were tried."""

from __future__ import annotations

import pytest

from trustwatch.scoring.backtest.policy_simulation import BacktestAlert, budget_excesses, chance_of_at_least
from trustwatch.scoring.engine.settings import AlertBudget
from trustwatch.scoring.records.agents import RiskLevel

BUDGET = AlertBudget(20.0, 5.0, 1.0)
NONE_TRIED: list[tuple[AlertBudget, list[int]]] = []


def alert(agent: str, kind: str, level: RiskLevel = RiskLevel.MEDIUM, *, newcomer: bool = False) -> BacktestAlert:
    who = ("acme", "https://as.example", agent)
    return BacktestAlert(0, who, kind, "e-1", RiskLevel.LOW, level, "overreach", 0.5, 0.001, newcomer)


def test_within_budget_nothing_is_said() -> None:
    assert budget_excesses(BUDGET, [2, 0, 0], 100, [alert("a", "Payer")] * 2, NONE_TRIED) == []


def test_the_types_that_cause_it_are_named_with_their_numbers() -> None:
    alerts = [alert(f"p-{number}", "Payer") for number in range(6)] + [alert("r", "Reader"), alert("r", "Reader")]
    [excess] = budget_excesses(BUDGET, [8, 0, 0], 100, alerts, NONE_TRIED)
    assert (excess.level, excess.alerts, excess.rate, excess.budget) == ("medium", 8, 80.0, 20.0)
    assert excess.words[0] == (
        "caused by: 6 by 6 agents of type Payer, mostly overreach; 2 by 1 agent of type Reader, mostly overreach"
    )
    assert not any("one agent" in words or "hardly has" in words for words in excess.words)


def test_one_agent_and_newcomers_are_told_apart() -> None:
    [excess] = budget_excesses(BUDGET, [9, 0, 0], 100, [alert("noisy", "Payer", newcomer=True)] * 9, NONE_TRIED)
    assert "9 of 9 are of one agent, noisy" in excess.words[1]
    assert "train on a history that has them" in excess.words[2]


@pytest.mark.parametrize(
    ("at_half", "said"),
    [
        ([2, 0, 0], "set risk.alert_budget to {medium: 10, high: 2.5, critical: 0.5} (it is {medium: 20, high: 5"),
        ([3, 0, 0], "no smaller risk.alert_budget that was tried, down to {medium: 10, high: 2.5, critical: 0.5}"),
    ],
)
def test_the_number_to_set_is_one_at_which_this_history_keeps_the_budget(at_half: list[int], said: str) -> None:
    """2 alerts are accepted on 100 agent-days; the largest smaller budget that brings no more is named."""
    tried = [(BUDGET.scaled(0.5), at_half), (BUDGET, [9, 0, 0]), (BUDGET.scaled(2.0), [20, 0, 0])]
    [excess] = budget_excesses(BUDGET, [9, 0, 0], 100, [alert("a", "Payer"), *[alert("b", "Payer")] * 8], tried)
    assert excess.words[-1].startswith(said)


def test_what_chance_explains_is_no_reason_to_change_a_setting() -> None:
    [excess] = budget_excesses(BUDGET, [0, 0, 1], 300, [alert("a", "Payer", RiskLevel.CRITICAL)], NONE_TRIED)
    assert excess.chance == pytest.approx(0.259, abs=0.001)
    assert excess.words[0].startswith("may be chance: if 0.3 are expected, 1 or more occur in 26 of 100 histories")


@pytest.mark.parametrize(("number", "expected", "chance"), [(0, 3.0, 1.0), (1, 0.5, 0.393), (5, 1.0, 0.00366)])
def test_chance_is_that_of_independent_alerts(number: int, expected: float, chance: float) -> None:
    assert chance_of_at_least(number, expected) == pytest.approx(chance, rel=0.01)
