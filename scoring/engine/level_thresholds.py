"""Evidence at which each level begins, by peer group and concern: so that normal agents keep the alert budget."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trustwatch.models.betting import AlarmTail
from trustwatch.models.concerns import CONCERNS
from trustwatch.models.trained_model import TrainedModel

from .risk_levels import OVERREACH
from .settings import AlertBudget

RESERVE = 3.0
"""Thresholds are read at one in so many of the accepted share of the history's agent-days. Days to come are odder: on
the fleets that chose it, two to three times as often beyond a level (decision 0038)."""

LEAST_STRETCH, MAX_STRETCH = 0.7, 1.5
"""Thresholds are between these times what independent events would need. A history without an odd day must not make a
level of the first; the less of a budget its days could show, the nearer the least is to once (`_least_stretch`). One
full of odd days must not put levels out of reach: `scoring.learning.budget_check` then reports that the budget is not
kept."""

MEDIUM_SHARE = 0.8
"""Part of its threshold at which *medium* begins, where a rehearsal shows what the fleet's days reach. Honest fleets
used a fifth of the budget of that level, and attacks of a few calls end between .8 and once (decision 0038). Levels
that cost an agent its tokens keep all of theirs."""

OVERREACH_STRETCH = (1.0, np.inf)
"""Overreach builds up over days, and goes on behind the few days of a rehearsal: in a fleet of a thousand, .7 times let
five times its share through. Slow changes may need much."""

HOURS_A_DAY = 24.0
"""Bets of overreach on a day: it takes one an hour."""

MIN_EXPECTED_ALERTS = 3.0
"""Alerts that a budget must allow over a history before their number says anything about it (rule of three)."""

_LEAST_EVIDENCE = (3.0, 5.0, 7.0)
_MIN_LEVEL_DISTANCE = 1.0
"""Least distance of two levels' thresholds, natural log."""


def model_thresholds(model: TrainedModel, budget: AlertBudget) -> npt.NDArray[np.float64]:
    """Evidence at which each level begins by peer group of a model and concern, natural log, shape (g, 3, 3).

    A concern that has no share of the budget moves no level: its thresholds are infinite. So are those of overreach
    that its history is too short to check: odd days come in rows, and a promise about them would be a guess.
    """
    bounds = np.full((len(model.group_rates), len(CONCERNS), 3), np.inf)
    shares = model.detector.budget_shares
    for concern, (share, exponent, alarms) in enumerate(zip(shares, model.exponents, model.alarms, strict=True)):
        if share > 0.0:
            part = AlertBudget(share * budget.medium, share * budget.high, share * budget.critical)
            if concern != OVERREACH:
                bounds[:, concern] = thresholds(model.group_rates, part, exponent, alarms)
            elif alarms.usable:
                rates = np.full(len(bounds), HOURS_A_DAY)
                limits = thresholds(rates, part, 1.0, alarms, OVERREACH_STRETCH, medium_share=1.0)
                allowed = np.array([part.medium, part.high, part.critical]) / 1000.0
                bounds[:, concern] = np.where(allowed * alarms.days >= MIN_EXPECTED_ALERTS, limits, np.inf)
    return bounds


def thresholds(
    events_per_day: npt.NDArray[np.float64],
    budget: AlertBudget,
    exponent: float = 1.0,
    alarms: AlarmTail | None = None,
    stretch: tuple[float, float] = (LEAST_STRETCH, MAX_STRETCH),
    medium_share: float = MEDIUM_SHARE,
) -> npt.NDArray[np.float64]:
    """Evidence at which each level begins, so that normal events stay within the budget.

    Args:
        events_per_day: mean events of an active agent per day, shape (g,), one per peer group, the fleet first.
        exponent: in (0, 1], how far the evidence of one session's events falls short of independence; used where
            *alarms* have too little history to say more.
        stretch: least and most times what independent events would need; the least is once without a rehearsal.

    Returns:
        Natural logs, shape (g, 3): medium, high, critical. An agent of r events a day meets a threshold c at most
        r / exp(exponent * c) times a day if its p-values are uniform and its sessions independent. With usable *alarms*
        a threshold is what the accepted share of the history's agent-days reached, within
        *stretch*. Rehearsed ones are read at one in `RESERVE` of that share, higher for peer groups that are busier
        than the fleet, the least of *stretch* holds with enough days, and medium begins at *medium_share*.
    """
    rates = np.maximum(np.asarray(events_per_day, np.float64), 1.0)[:, None]
    allowed = np.array([budget.medium, budget.high, budget.critical]) / 1000.0
    if alarms is not None and alarms.usable:
        reserve = RESERVE if alarms.rehearsed else 1.0
        reached = np.array([alarms.level_for_share(share / reserve) for share in allowed.tolist()])
        busier = np.maximum(np.log(rates / rates[0]), 0.0) if alarms.rehearsed else 0.0
        independent = np.log(rates / allowed)
        least = _least_stretch(alarms, allowed, stretch[0]) * independent
        evidence = np.clip(reached + busier, least, stretch[1] * independent)
    else:
        evidence = np.log(rates / allowed) / exponent
    # Even a generous budget must ask for more than one odd event, and the levels must stay apart.
    evidence = np.maximum(evidence, np.array(_LEAST_EVIDENCE))
    steps = _MIN_LEVEL_DISTANCE * np.arange(3)
    evidence = np.maximum.accumulate(evidence - steps, axis=1) + steps
    if alarms is not None and alarms.usable and alarms.rehearsed:  # last, so that the other levels stay where they are
        evidence[:, 0] = np.maximum(medium_share * evidence[:, 0], _LEAST_EVIDENCE[0])
    return np.asarray(evidence)


def _least_stretch(
    alarms: AlarmTail, allowed: npt.NDArray[np.float64], with_enough_days: float
) -> npt.NDArray[np.float64]:
    """Least times (3,) what independent events would need, where the *allowed* share (3,) of agent-days may alert."""
    if not alarms.rehearsed:
        return np.ones(3)
    shown = np.minimum(allowed * alarms.days / MIN_EXPECTED_ALERTS, 1.0)
    return np.asarray(1.0 - (1.0 - with_enough_days) * shown)
