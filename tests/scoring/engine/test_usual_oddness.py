"""What an agent shows day after day stops counting; what is odd now dulls nothing for twelve hours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trustwatch.models.concerns import CONCERNS
from trustwatch.scoring.engine import risk, risk_levels, usual_oddness
from trustwatch.scoring.engine.settings import RiskEvaluationSettings
from trustwatch.scoring.engine.usual_oddness import (
    HALF_LIFE_DAYS,
    NEVER_USUAL,
    NEWCOMER_EVENTS,
    NO_HABIT,
    ODDNESS_LEVELS,
    PERIOD_MS,
    PRIOR_EVENTS,
    USUAL,
)

from ...support.one_question import QUESTION, in_full, one_question

DAY, MIDNIGHT = 86_400_000, 1_764_028_800_000
BOUNDS = one_question(np.array([[40.0, 60.0, 80.0]]))
"""Far away: evidence is looked at, and no level."""
SETTINGS = risk_levels.kernel_parameters(RiskEvaluationSettings())


class History:
    """Events of one agent, in one batch after the other."""

    def __init__(self, events: int = NEWCOMER_EVENTS) -> None:
        self.state = risk_levels.allocate(1)
        self.state["events"] = events

    def add(
        self, at_ms: Any, p_values: Any, *, asserted: bool = False, denied: bool = False, habit: int = USUAL
    ) -> Any:
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
            in_full(np.zeros(n)),
            BOUNDS,
            np.zeros(n, np.int64),
            flags * asserted,
            flags * denied,
            np.full(n, habit, np.int8),
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
    """Ten odd events of a hundred, each day: from the second day on each is worth less."""
    history = History()
    day = np.where(np.arange(100)[:, None] % 10 == 0, 0.0002, 0.6) * np.ones(3)
    times = MIDNIGHT + np.arange(100) * 60_000
    gains = [history.add(times + number * DAY, day)[::10, QUESTION, risk.CONCERN_GAIN].max() for number in range(3)]
    assert gains[0] > 3.0
    assert gains[2] < gains[1] < 0.5 * gains[0]


def test_counts_are_those_of_a_recount() -> None:
    """Random halves of days: factors are as a plain recount of all events has them, and none for overreach."""
    dice = np.random.default_rng(5)
    history, seen = History(), []
    for period in sorted(dice.choice(30, 20, replace=False).tolist()):
        p_values = 10.0 ** -dice.uniform(0.0, 5.0, (int(dice.integers(5, 60)), 3))
        at = MIDNIGHT + period * PERIOD_MS + np.sort(dice.integers(0, PERIOD_MS, len(p_values)))
        factors = history.add(at, p_values)[:, :, risk.USUAL_ODDNESS :]
        for concern, level in np.ndindex(2, len(ODDNESS_LEVELS)):
            kept = [(0.5 ** ((period - past) / 2 / HALF_LIFE_DAYS), p) for past, p in seen if past < period - 1]
            odd = sum(weight * (p[:, concern] <= ODDNESS_LEVELS[level]).sum() for weight, p in kept)
            expected = sum(weight * len(p) for weight, p in kept) * ODDNESS_LEVELS[level] + PRIOR_EVENTS
            assert factors[:, concern, level] == pytest.approx(max((odd + PRIOR_EVENTS) / expected, 1.0), rel=1e-4)
        assert (factors[:, 2] == 1.0).all()
        seen.append((period, p_values))


@pytest.mark.parametrize("kind", ["asserted", "denied"])
def test_nobody_else_can_make_oddness_usual(kind: str) -> None:
    """Forged events and our own denials are not counted, so they dull nothing."""
    history = History()
    history.add(MIDNIGHT + np.arange(50), alike(1e-4, 50), **{kind: True})
    assert (history.add([MIDNIGHT + 2 * DAY], alike(0.5))[0, :, risk.USUAL_ODDNESS :] == 1.0).all()


def test_seeds_are_what_the_rehearsed_days_showed() -> None:
    """An agent of the history begins with its own share of odd events."""
    p_values = np.array([[0.001, 0.5, 0.001], [0.5, 0.0001, 0.5], [0.5, 0.5, 0.5]])
    odd, events = usual_oddness.count_by_agent(np.array([1, 1, 0]), p_values, 2)
    assert events.tolist() == [1.0, 2.0]
    assert odd[1].tolist() == [[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]]
    assert not odd[0].any()
    history = History()
    usual_oddness.seed(history.state, np.array([0]), odd[1:], events[1:], MIDNIGHT - DAY)
    factors = history.add([MIDNIGHT], alike(0.5))[0, :, risk.USUAL_ODDNESS :]
    kept = 0.5 ** (1 / HALF_LIFE_DAYS)
    assert factors[0, 0] == pytest.approx((kept + PRIOR_EVENTS) / (2 * kept * 0.02 + PRIOR_EVENTS), rel=1e-4)


def often_odd() -> History:
    """An agent of which half of all events are odd, for a week."""
    history = History()
    for day in range(7):
        history.add(MIDNIGHT + day * DAY + np.arange(20), np.repeat([[1e-4] * 3, [0.7] * 3], 10, axis=0))
    return history


def test_an_attack_is_never_usual() -> None:
    """Who calls, and whence arguments came, counts in full however usual oddness is."""
    history = often_odd()
    gains = [
        history.add([MIDNIGHT + 9 * DAY], alike(1e-4), habit=habit)[0, 0, risk.CONCERN_GAIN]
        for habit in (NEVER_USUAL, NO_HABIT)
    ]
    assert gains[0] > 1.5 * gains[1] > 0.0


@pytest.mark.parametrize("habit", [NEVER_USUAL, NO_HABIT])
def test_an_attack_makes_nothing_usual(habit: int) -> None:
    """Neither its events, nor later ones of a caller who is still new."""
    attacked = History()
    for day in range(7):
        attacked.add(MIDNIGHT + day * DAY + np.arange(20), alike(1e-4, 20), habit=habit)
    assert (attacked.add([MIDNIGHT + 9 * DAY], alike(0.5))[0, :, risk.USUAL_ODDNESS :] == 1.0).all()


def test_an_attack_dulls_nothing_for_twelve_hours() -> None:
    """What the period before showed is no habit yet, on whichever side of noon or midnight it began."""
    history = History()
    history.add(MIDNIGHT + DAY - 60_000 + np.arange(50), alike(1e-4, 50))
    late = history.add([MIDNIGHT + DAY + PERIOD_MS - 60_000], alike(0.5))
    assert (late[0, :, risk.USUAL_ODDNESS :] == 1.0).all()
    assert (history.add([MIDNIGHT + DAY + PERIOD_MS], alike(0.5))[0, 0, risk.USUAL_ODDNESS :] > 1.0).all()


def test_an_odder_event_is_never_worth_less() -> None:
    """Whatever was usual before: p-values stay in order."""
    factors = often_odd().add([MIDNIGHT + 9 * DAY], alike(1e-4))[0, 0, risk.USUAL_ODDNESS :]
    for given in (factors, np.array([1.0, 20.0, 2.0, 1.0]), np.array([20.0, 1.0, 20.0, 1.0])):
        found = [usual_oddness.unusual_p_value(p, given) for p in np.geomspace(1e-7, 1.0, 300)]
        assert found == sorted(found)


def test_habits_fade_while_nobody_vouches() -> None:
    """Events without a token let the same time pass as others."""
    vouched, forged = often_odd(), often_odd()
    later = MIDNIGHT + 60 * DAY
    factors = [
        one.add([later], alike(0.5), asserted=one is forged)[0, 0, risk.USUAL_ODDNESS :] for one in (vouched, forged)
    ]
    assert factors[0].tolist() == factors[1].tolist()
    assert factors[0].max() < often_odd().add([MIDNIGHT + 9 * DAY], alike(0.5))[0, 0, risk.USUAL_ODDNESS :].max()
