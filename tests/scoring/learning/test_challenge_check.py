"""The challenge budget against what is to be expected of days in which nobody answers."""

from __future__ import annotations

import re

import numpy as np
import pytest
from numpy.typing import NDArray

from trustwatch.ingest.events import EFFECTS
from trustwatch.models.call_challenges import EVERY_EFFECT, CallChallenges, ForeignValueRates, HeldOutCalls
from trustwatch.scoring.engine.settings import ChallengeBudget
from trustwatch.scoring.learning.budget_check import ChallengeExpectation, expect_challenges, upper_share
from trustwatch.scoring.learning.walkforward import ValidatedScores

AGENTS, CALLS_OF_EACH = 40, 250
READ = EFFECTS.index("read")
BUDGET = {}


def week_of(scores: NDArray[np.float64], agents: int = AGENTS, tenants: int = 1) -> ValidatedScores:
    """A week of reading calls of agents that take turns."""
    n = len(scores)
    return ValidatedScores(scores, np.arange(n).astype(np.uint64) % agents, np.full(n, READ, np.int8), tenants, 7.0)


def expected_of(rehearsed: ValidatedScores, budget: ChallengeBudget = BUDGET) -> ChallengeExpectation:
    found = expect_challenges(rehearsed, budget)
    assert found is not None
    return found


def calm_scores(agents: int = AGENTS) -> NDArray[np.float64]:
    return np.random.default_rng(5).random(agents * CALLS_OF_EACH) * 0.6


def one_that_waits(agents: int) -> NDArray[np.float64]:
    """Calls of agents of which one has three odd ones, so that the others' thresholds stay where they are."""
    scores = np.full(agents * 100, 0.3)
    scores[: 3 * agents : agents] = 0.9
    return scores


def test_the_budget_is_shown_where_many_agents_hardly_change() -> None:
    """One of 400 agents has a few odd calls."""
    found = expected_of(week_of(one_that_waits(400), 400))

    assert found.waiting_agents == 1 and found.expected < 0.1 and 13.0 < found.at_most < 15.0
    assert found.is_shown and "ADVISORY" not in found.describe() and "advisory" not in found.summary
    assert found.as_dict()["advisory"] is False and found.budget == 10.0


def test_odd_calls_of_all_agents_alike_are_expected_as_budgeted() -> None:
    found = expected_of(week_of(calm_scores()))

    worst = max(np.unique(np.flatnonzero(calm_scores() > 0.5938) % AGENTS, return_counts=True)[1])
    assert found.expected == pytest.approx(10.0, abs=1.5) and found.waiting_agents > 30
    assert found.at_most == pytest.approx(
        1000.0 * upper_share(found.waiting_agents, AGENTS) * worst / CALLS_OF_EACH, rel=0.35
    )
    assert (found.calls, found.agents, found.days) == (AGENTS * CALLS_OF_EACH, AGENTS, 7.0)


def test_the_calls_of_one_changed_agent_are_not_excused_by_themselves() -> None:
    """They set the threshold that all of them just keep; another agent's change would meet a lower one."""
    scores = calm_scores()
    scores[::AGENTS][:100] = 0.9

    found = expected_of(week_of(scores))

    assert found.expected == 10.0 and found.waiting_agents == 1  # by thresholds that have seen them nothing waits
    assert found.at_most == pytest.approx(1000.0 * upper_share(1, AGENTS))  # each with all its calls
    assert not found.is_shown and found.as_dict()["advisory"] is True
    assert found.summary.startswith("10 of 1,000 expected, at most about ") and found.summary.endswith(", advisory")
    assert "ADVISORY: this history does not show that `risk.challenge_budget` is kept" in found.describe()


@pytest.mark.parametrize("agents", [1, 2, 5, 40])
@pytest.mark.parametrize("changed", [False, True])
def test_few_agents_show_nothing(agents: int, changed: bool) -> None:
    """That none of a few had a call that waits says little of those that will change."""
    scores = one_that_waits(agents) if changed else np.full(agents * 200, 0.3)

    found = expected_of(week_of(scores, agents))

    assert not found.is_shown and found.at_most > 15.0


def test_several_tenants_show_nothing() -> None:
    """Their thresholds are bounded against each other, which is not counted."""
    found = expected_of(week_of(one_that_waits(400), 400, tenants=2))

    assert found.at_most < 15.0 and not found.is_shown
    assert "what bounds its tenants against each other is not counted; ADVISORY" in found.describe()


def test_a_short_history_says_nothing() -> None:
    assert expect_challenges(None, {}) is None


def test_an_effect_without_budget_has_no_threshold() -> None:
    found = expected_of(week_of(calm_scores()), {"read": 0.0})

    assert (found.expected, found.budget) == (0.0, 0.0) and not found.is_shown


@pytest.mark.parametrize("seed", range(5))
def test_each_agent_is_judged_by_the_others(seed: int) -> None:
    """Counted anew with the calls of each agent really taken away. Deletions are of one agent alone, and two effects
    have too few calls of their own, so that those of any effect stand in."""
    dice = np.random.default_rng(seed)
    n = 3_000
    agent = dice.choice(12, n, p=dice.dirichlet(np.ones(12))).astype(np.uint64)
    scores = np.round(np.clip(dice.beta(2, 5, n) + 0.3 * (agent < 2) * (dice.random(n) < 0.1), 0.0, 1.0), 6)
    effect = dice.choice(len(EFFECTS), n, p=[0.6, 0.36, 0.02, 0.01, 0.01]).astype(np.int8)
    effect[agent == 3] = EFFECTS.index("delete")

    waiting = 0
    for own in np.unique(agent).tolist():
        others = _by_rehearsal_alone(scores[agent != own], effect[agent != own])
        for code, name in enumerate(EFFECTS):
            threshold = others.threshold(name, 10.0)
            mine = scores[(agent == own) & (effect == code)]
            waiting += 0 if threshold is None else int((mine > threshold.anomaly_score).sum())

    found = expected_of(ValidatedScores(scores, agent, effect, 1, 7.0))
    assert found.expected == pytest.approx(1000.0 * waiting / n) and waiting


def _by_rehearsal_alone(scores: NDArray[np.float64], effect: NDArray[np.int8]) -> CallChallenges:
    """Ground of thresholds that rehearsed calls alone set, an effect's own where they are enough."""
    rehearsed = {name: _exact(scores[effect == code]) for code, name in enumerate(EFFECTS)}
    enough = {name: calls for name, calls in rehearsed.items() if calls.calls >= 100}
    quiet = HeldOutCalls.of(np.zeros(10_000))
    few = dict.fromkeys(set(EFFECTS) - set(enough), HeldOutCalls.of(np.zeros(0)))
    held_out = {**dict.fromkeys(enough, quiet), **few, EVERY_EFFECT: quiet}
    return CallChallenges(ForeignValueRates(0.5, 0.5, {}), held_out, {**enough, EVERY_EFFECT: _exact(scores)})


def _exact(scores: NDArray[np.float64]) -> HeldOutCalls:
    """Those of *scores* at all ranks, so that none between two of them is rounded."""
    ordered = np.sort(scores)[::-1]
    return HeldOutCalls(len(ordered), tuple(range(1, len(ordered) + 1)), tuple(ordered.tolist()))


def test_numbers_are_ones_that_people_read() -> None:
    """No exponent, however small or large a rate is."""
    expectation = ChallengeExpectation(10, 2, 1, 4.0, 1, 0.5, 1.08e-16, 999.9)

    for text in (expectation.summary, expectation.describe()):
        assert "less than 0.001" in text and "1,000" in text
        assert not re.search(r"\de[+-]\d", text)
