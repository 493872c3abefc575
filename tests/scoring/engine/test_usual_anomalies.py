"""What an agent shows day after day stops counting; what is odd now dulls nothing for twelve hours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trustwatch.models.concerns import CONCERNS
from trustwatch.models.trained_model import ODD_SHAPE
from trustwatch.scoring.engine import risk, risk_levels, usual_anomalies
from trustwatch.scoring.engine.usual_anomalies import (
    ANOMALY_LEVELS,
    HALF_LIFE_DAYS,
    NEVER_USUAL,
    NEWCOMER_EVENTS,
    NO_HABIT,
    PERIOD_MS,
    PRIOR_EVENTS,
    USUAL,
)

from ...support.one_question import QUESTION, SETTINGS, apply_events, one_question

DAY, MIDNIGHT = 86_400_000, 1_764_028_800_000
BOUNDS = one_question(np.array([[40.0, 60.0, 80.0]]))
"""Far away: evidence is looked at, and no level."""


class History:
    """Events of one agent, in one batch after the other."""

    def __init__(self, events: int = NEWCOMER_EVENTS) -> None:
        self.state = risk_levels.allocate(1)
        self.state["events"] = events

    def add(
        self, at_ms: Any, p_values: Any, *, asserted: bool = False, denied: bool = False, habit: int = USUAL
    ) -> Any:
        """Evidence by concern and factors of each event, (n, 3, CONCERN_OUTPUTS)."""
        return apply_events(self.state, at_ms, p_values, BOUNDS, asserted=asserted, skip=denied, habit=habit)


def alike(p: float, count: int = 1) -> Any:
    """*count* events with one p-value for every concern."""
    return np.full((count, len(CONCERNS)), p)


def test_models_have_room_for_each_level() -> None:
    assert len(ANOMALY_LEVELS) == ODD_SHAPE[1]
    assert list(ANOMALY_LEVELS) == sorted(ANOMALY_LEVELS, reverse=True)


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
        factors = history.add(at, p_values)[:, :, risk.USUAL_FACTORS :]
        for concern, level in np.ndindex(2, len(ANOMALY_LEVELS)):
            kept = [(0.5 ** ((period - past) / 2 / HALF_LIFE_DAYS), p) for past, p in seen if past < period - 1]
            odd = sum(weight * (p[:, concern] <= ANOMALY_LEVELS[level]).sum() for weight, p in kept)
            expected = sum(weight * len(p) for weight, p in kept) * ANOMALY_LEVELS[level] + PRIOR_EVENTS
            assert factors[:, concern, level] == pytest.approx(max((odd + PRIOR_EVENTS) / expected, 1.0), rel=1e-4)
        assert (factors[:, 2] == 1.0).all()
        seen.append((period, p_values))


@pytest.mark.parametrize("kind", ["asserted", "denied"])
def test_nobody_else_can_make_oddness_usual(kind: str) -> None:
    """Forged events and our own denials are not counted, so they dull nothing."""
    history = History()
    history.add(MIDNIGHT + np.arange(50), alike(1e-4, 50), **{kind: True})
    assert (history.add([MIDNIGHT + 2 * DAY], alike(0.5))[0, :, risk.USUAL_FACTORS :] == 1.0).all()


def test_a_p_value_is_never_made_smaller() -> None:
    """An agent that is calmer than its peers gains nothing by it."""
    for p in (1e-6, 3e-4, 0.01, 0.02, 0.3, 1.0):
        assert usual_anomalies.unusual_p_value(p, np.ones(4)) == p
        assert p <= usual_anomalies.unusual_p_value(p, np.array([1.0, 3.0, 30.0, 300.0])) <= 1.0
    quiet = History()
    quiet.add(MIDNIGHT + np.arange(1000), alike(0.9, 1000))
    assert (quiet.add([MIDNIGHT + 2 * DAY], alike(0.5))[0, :, risk.USUAL_FACTORS :] == 1.0).all()


def test_more_than_a_counter_holds_is_left_out() -> None:
    """A flood neither wraps a counter nor stops the service."""
    history = History()
    history.add(np.full(70_000, MIDNIGHT), alike(0.5, 70_000))
    assert int(history.state["events_now"][0, 0]) == 65_535
    odd = History()
    odd.add(np.full(400, MIDNIGHT), alike(0.001, 400))
    assert int(odd.state["odd_now"][0, 0, 0, 0]) == 255
    assert int(odd.state["events_now"][0, 0]) == 400


def test_seeds_are_what_the_rehearsed_days_showed() -> None:
    """An agent of the history begins with its own share of odd events."""
    p_values = np.array([[0.001, 0.5, 0.001], [0.5, 0.0001, 0.5], [0.5, 0.5, 0.5]])
    odd, events = usual_anomalies.count_by_agent(np.array([1, 1, 0]), p_values, 2)
    assert events.tolist() == [1.0, 2.0]
    assert odd[1].tolist() == [[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]]
    assert not odd[0].any()
    history = History()
    usual_anomalies.seed(history.state, np.array([0]), odd[1:], events[1:], MIDNIGHT - DAY)
    factors = history.add([MIDNIGHT], alike(0.5))[0, :, risk.USUAL_FACTORS :]
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
    assert (attacked.add([MIDNIGHT + 9 * DAY], alike(0.5))[0, :, risk.USUAL_FACTORS :] == 1.0).all()


def test_an_attack_dulls_nothing_for_twelve_hours() -> None:
    """What the period before showed is no habit yet, on whichever side of noon or midnight it began."""
    history = History()
    history.add(MIDNIGHT + DAY - 60_000 + np.arange(50), alike(1e-4, 50))
    late = history.add([MIDNIGHT + DAY + PERIOD_MS - 60_000], alike(0.5))
    assert (late[0, :, risk.USUAL_FACTORS :] == 1.0).all()
    assert (history.add([MIDNIGHT + DAY + PERIOD_MS], alike(0.5))[0, 0, risk.USUAL_FACTORS :] > 1.0).all()


def test_the_oddness_of_newcomers_counts_at_once() -> None:
    """Nobody knows what is usual for them: the tenth odd event of the first hour says less than the first."""
    newcomer, known = History(0), History()
    gains = [
        one.add(MIDNIGHT + np.arange(10), alike(1e-4, 10))[:, 0, risk.CONCERN_GAIN].sum() for one in (newcomer, known)
    ]
    assert 0.0 < gains[0] < 0.7 * gains[1]
    newcomer.add(MIDNIGHT + 1_000 + np.arange(NEWCOMER_EVENTS), alike(0.5, NEWCOMER_EVENTS))
    assert (newcomer.add([MIDNIGHT + 5_000], alike(0.5))[0, :2, risk.USUAL_FACTORS + 1 :] > 1.0).all()


def test_an_odder_event_is_never_worth_less() -> None:
    """Whatever was usual before: p-values stay in order."""
    factors = often_odd().add([MIDNIGHT + 9 * DAY], alike(1e-4))[0, 0, risk.USUAL_FACTORS :]
    for given in (factors, np.array([1.0, 20.0, 2.0, 1.0]), np.array([20.0, 1.0, 20.0, 1.0])):
        found = [usual_anomalies.unusual_p_value(p, given) for p in np.geomspace(1e-7, 1.0, 300)]
        assert found == sorted(found)


def test_a_release_ends_all_habits() -> None:
    """Nobody knows whether the days before it were an attack: what is odd afterwards counts in full."""
    history = often_odd()
    risk_levels.release(history.state[0], MIDNIGHT + 7 * DAY, SETTINGS)
    assert (history.add([MIDNIGHT + 9 * DAY], alike(0.5))[0, :, risk.USUAL_FACTORS :] == 1.0).all()


def test_habits_fade_while_nobody_vouches() -> None:
    """Events without a token let the same time pass as others."""
    authenticated, forged = often_odd(), often_odd()
    later = MIDNIGHT + 60 * DAY
    factors = [
        one.add([later], alike(0.5), asserted=one is forged)[0, 0, risk.USUAL_FACTORS :]
        for one in (authenticated, forged)
    ]
    assert factors[0].tolist() == factors[1].tolist()
    assert factors[0].max() < often_odd().add([MIDNIGHT + 9 * DAY], alike(0.5))[0, 0, risk.USUAL_FACTORS :].max()


def test_usual_oddness_is_suspicious_all_the_same() -> None:
    """What is learned of an agent rests on its evidence in full: faults that come each day are no normal work."""
    history = often_odd()
    before = history.state["suspicion"][0, 0]
    by_concern = history.add([MIDNIGHT + 9 * DAY], alike(1e-4))[0]
    assert by_concern[0, risk.CONCERN_GAIN] < 2.0 < history.state["suspicion"][0, 0] - before
    assert (by_concern[:, risk.SUSPICION] == history.state["suspicion"][0]).all()
    assert history.state["suspicion"][0, 0] > history.state["statistic"][0, 0]
