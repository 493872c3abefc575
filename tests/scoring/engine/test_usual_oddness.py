"""What an agent shows day after day stops counting; what is odd today dulls nothing today."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from trustwatch.models.concerns import CONCERNS
from trustwatch.scoring.engine import risk, usual_oddness
from trustwatch.scoring.engine.settings import RiskEvaluationSettings
from trustwatch.scoring.engine.usual_oddness import HALF_LIFE_DAYS, ODDNESS_LEVELS, PRIOR_EVENTS

from ...support.one_question import QUESTION, one_question

DAY, MIDNIGHT = 86_400_000, 1_764_028_800_000
BOUNDS = one_question(np.array([[40.0, 60.0, 80.0]]))
"""Far away: evidence is looked at, and no level."""
SETTINGS = risk.kernel_parameters(RiskEvaluationSettings())


class History:
    """Events of one agent, in one batch after the other."""

    def __init__(self) -> None:
        self.state = risk.allocate(1)

    def add(self, at_ms: Any, p_values: Any, *, asserted: bool = False, denied: bool = False) -> Any:
        """Evidence by concern and factors of each event, (n, 3, CONCERN_OUTPUTS)."""
        n = len(p_values)
        by_concern, flags = np.zeros((n, len(CONCERNS), risk.CONCERN_OUTPUTS)), np.ones(n, np.int8)
        risk.update(
            np.arange(n),
            np.zeros(n, np.int32),
            self.state,
            np.asarray(at_ms, np.int64),
            np.asarray(p_values, np.float64),
            np.ones(n),
            np.zeros(n),
            np.ones(n),
            np.zeros(n),
            BOUNDS,
            np.zeros(n, np.int64),
            flags * asserted,
            flags * denied,
            SETTINGS,
            np.zeros((n, 2), np.int8),
            np.zeros((n, risk.OUTPUTS)),
            by_concern,
        )
        return by_concern


def alike(p: float, count: int = 1) -> Any:
    """*count* events with one p-value for every concern."""
    return np.full((count, len(CONCERNS)), p)


def test_the_same_oddness_counts_less_on_the_next_day_and_in_full_today() -> None:
    """Ten odd events of a hundred, each day: from the second day on each is worth less than half of what it was."""
    history = History()
    day = np.where(np.arange(100)[:, None] % 10 == 0, 0.0002, 0.6) * np.ones(3)
    times = MIDNIGHT + np.arange(100) * 60_000
    gains = [history.add(times + number * DAY, day)[::10, QUESTION, risk.CONCERN_GAIN].max() for number in range(3)]
    assert gains[0] > 3.0
    assert gains[2] < gains[1] < 0.5 * gains[0]


def test_counts_are_those_of_a_recount() -> None:
    """Random days: factors are as a plain recount of all events has them, and none for overreach."""
    dice = np.random.default_rng(5)
    history, seen = History(), []
    for day in sorted(dice.choice(30, 12, replace=False).tolist()):
        p_values = 10.0 ** -dice.uniform(0.0, 5.0, (int(dice.integers(5, 60)), 3))
        at = MIDNIGHT + day * DAY + np.sort(dice.integers(0, DAY, len(p_values)))
        factors = history.add(at, p_values)[:, :, risk.USUAL_ODDNESS :]
        for concern, level in np.ndindex(2, len(ODDNESS_LEVELS)):
            kept = [(0.5 ** ((day - past) / HALF_LIFE_DAYS), p) for past, p in seen]
            odd = sum(weight * (p[:, concern] <= ODDNESS_LEVELS[level]).sum() for weight, p in kept)
            expected = sum(weight * len(p) for weight, p in kept) * ODDNESS_LEVELS[level] + PRIOR_EVENTS
            assert factors[:, concern, level] == pytest.approx(max((odd + PRIOR_EVENTS) / expected, 1.0), rel=1e-4)
        assert (factors[:, 2] == 1.0).all()
        seen.append((day, p_values))


@pytest.mark.parametrize("kind", ["asserted", "denied"])
def test_nobody_else_can_make_oddness_usual(kind: str) -> None:
    """Forged events and our own denials are not counted, so they dull nothing."""
    history = History()
    history.add(MIDNIGHT + np.arange(50), alike(1e-4, 50), **{kind: True})
    assert (history.add([MIDNIGHT + DAY], alike(0.5))[0, :, risk.USUAL_ODDNESS :] == 1.0).all()


def test_a_p_value_is_never_made_smaller() -> None:
    """An agent that is calmer than its peers gains nothing by it."""
    for p in (1e-6, 3e-4, 0.01, 0.02, 0.3, 1.0):
        assert usual_oddness.unusual_p_value(p, np.ones(4)) == p
        assert p <= usual_oddness.unusual_p_value(p, np.array([1.0, 3.0, 30.0, 300.0])) <= 1.0
    calm = History()
    calm.add(MIDNIGHT + np.arange(1000), alike(0.9, 1000))
    assert (calm.add([MIDNIGHT + DAY], alike(0.5))[0, :, risk.USUAL_ODDNESS :] == 1.0).all()


def test_more_than_a_days_counter_holds_is_left_out() -> None:
    """A flood neither wraps the counter nor stops the service."""
    history = History()
    history.add(np.full(70_000, MIDNIGHT), alike(0.001, 70_000))
    assert int(history.state["events_today"][0]) == int(history.state["odd_today"][0, 0, 0]) == 65_535


def test_seeds_are_what_the_rehearsed_days_showed() -> None:
    """An agent of the history begins with its own share of odd events."""
    p_values = np.array([[0.001, 0.5, 0.001], [0.5, 0.0001, 0.5], [0.5, 0.5, 0.5]])
    odd, events = usual_oddness.count_by_agent(np.array([1, 1, 0]), p_values, 2)
    assert events.tolist() == [1.0, 2.0]
    assert odd[1].tolist() == [[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]]
    assert not odd[0].any()
    history = History()
    usual_oddness.seed(history.state, np.array([0]), odd[1:], events[1:], MIDNIGHT // DAY - 1)
    factors = history.add([MIDNIGHT], alike(0.5))[0, :, risk.USUAL_ODDNESS :]
    kept = 0.5 ** (1 / HALF_LIFE_DAYS)
    assert factors[0, 0] == pytest.approx((kept + PRIOR_EVENTS) / (2 * kept * 0.02 + PRIOR_EVENTS), rel=1e-4)
