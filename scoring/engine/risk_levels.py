"""Levels: the state that an agent's risk is kept in, its score and level, and what time and people change of them.

What events change is in `risk`. A level rises at once, and falls step by step as time passes, with hysteresis; a person
releases an agent, or takes evidence back.

States are struct-of-arrays by slot.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trustwatch.ingest.compilation import allocation_free, inlined
from trustwatch.models.betting import AlarmTail, decayed_streak
from trustwatch.models.concerns import CONCERNS
from trustwatch.models.trained_model import TrainedModel

from ..records.agents import ALERTING_LEVELS, RiskLevel
from . import usual_anomalies
from .settings import AlertBudget, RiskEvaluationSettings

COMPROMISE, MALFUNCTION, OVERREACH = (CONCERNS.index(name) for name in ("compromise", "malfunction", "overreach"))

UNKNOWN, LOW, MEDIUM, HIGH, CRITICAL = (np.int8(level) for level in RiskLevel)

LEVEL_UP = (0.0, 0.0, 0.4, 0.7, 0.9)
"""Risk score at which a level begins."""

LEVEL_DOWN = (0.0, 0.0, 0.3, 0.55, 0.75)
"""Risk score below which a level may be left: hysteresis, so that a score on the edge does not flicker."""

RESTART_SHARE = 0.5
"""Part of the medium threshold that evidence may still be when time has cleared an alert: the head start of a CUSUM
that restarts after an alarm (Lucas and Crosier 1982). With all of it the next anomalous event would alert again, day
after day, and nothing of the agent would ever be learned."""

DWELL_MS = 600_000.0
"""A level lasts at least this long before the next step down."""
CONFIDENCE_MINIMUM = 0.3
"""Below this confidence the level is `unknown`."""
OWN_EVENTS = 20.0
"""Events at which an agent's own history is half of what can be known."""


class RiskParameters(NamedTuple):
    """`RiskEvaluationSettings` in the form that the kernel takes. Times in milliseconds."""

    half_life_ms: float
    hold_ms: float  # critical ends by release or after this
    confidence_minimum: float  # below it, and without evidence, the level is unknown


def kernel_parameters(settings: RiskEvaluationSettings) -> RiskParameters:
    """Convert *settings* for the kernels below."""
    return RiskParameters(settings.half_life_s * 1000.0, settings.hold_s * 1000.0, CONFIDENCE_MINIMUM)


MAX_ABOVE_CRITICAL = 4.0
"""Most that the statistic may rise above the critical threshold: bounds the clean events that recovery takes."""

MAX_COUNTED_NAMES = 32
"""Names that are remembered as having counted; the one that counted first gives way."""

ROW = np.dtype(
    [
        ("statistic", np.float64, (len(CONCERNS),)),
        ("suspicion", np.float64, (len(CONCERNS),)),  # the statistic if nothing were usual, and time cleared no alert
        ("streak", np.float64, (len(CONCERNS),)),  # recent anomalous events, as of `at_ms`
        ("peak", np.float64, (len(CONCERNS),)),  # largest bet of the streak, as of `at_ms`
        ("score", np.float64),  # displayed risk as of `at_ms`
        ("at_ms", np.int64),
        ("since_ms", np.int64),  # since when the level holds
        ("due_ms", np.int64),  # when time alone changes the level; 0 = never
        ("events", np.int64),
        ("anomaly", np.float64),  # of the last event
        ("p_value", np.float64),
        ("confidence", np.float64),
        ("told", np.float64),  # evidence of the event that the agent's stored reasons describe
        ("told_ms", np.int64),  # and when it happened
        *usual_anomalies.FIELDS,
        ("block_ms", np.int64),  # current hour of overreach: when it began
        ("block_before", np.float64),  # the statistic before it
        ("block_sum", np.float64),  # sum of its bets, not of their logarithms
        ("block_events", np.int64),
        ("level", np.int8),
        ("concern", np.int8),  # that the risk is about, see `_concern_of`
        ("counted", np.uint32, (MAX_COUNTED_NAMES,)),  # names that have counted recently (see `evidence_dedup`)
        ("counted_min", np.int32, (MAX_COUNTED_NAMES,)),  # and when, in minutes of UTC
        ("signs", np.float64),  # evidence of signs (see `hard_signals`), which is not in the statistic
        ("claimed", np.float64),  # part of the statistic from unauthenticated hard signals
    ]
)
"""One agent's risk state, as kept in memory and as stored. `state_version` is made of these names, too: under another
one no stored agent could be resumed."""

EARLIER_ROWS = (np.dtype([(name, ROW[name]) for name in ROW.names or () if name not in ("signs", "claimed")]),)
"""Of earlier versions, whose members all mean what they do now; signs were in the statistic."""


def converted(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Convert rows of an earlier layout to dtype `ROW`; fields that it lacked are 0."""
    if rows.dtype == ROW:
        return rows
    converted_rows = np.zeros(len(rows), ROW)
    for name in rows.dtype.names or ():
        converted_rows[name] = rows[name]
    return converted_rows


def allocate(slots: int) -> npt.NDArray[Any]:
    """Allocate the risk state of *slots* unknown agents."""
    return np.zeros(slots, ROW)


@allocation_free
def displayed_score(statistic: float, bounds: Any) -> float:
    """Return the risk score in [0, 1] of a statistic: piecewise linear between the levels' thresholds."""
    medium, high, critical = float(bounds[0]), float(bounds[1]), float(bounds[2])
    if statistic < medium:
        return LEVEL_UP[2] * max(statistic, 0.0) / medium
    if statistic < high:
        return LEVEL_UP[2] + (LEVEL_UP[3] - LEVEL_UP[2]) * (statistic - medium) / (high - medium)
    if statistic < critical:
        return LEVEL_UP[3] + (LEVEL_UP[4] - LEVEL_UP[3]) * (statistic - high) / (critical - high)
    return LEVEL_UP[4] + (1.0 - LEVEL_UP[4]) * (1.0 - math.exp(critical - statistic))


@allocation_free
def signalled_concern(limits: Any) -> int:
    """Return the concern that hard signals indicate, under these thresholds (3, 3)."""
    return 0 if limits[0, 0] < np.inf else 1


@allocation_free
def risk_of(statistics: Any, bounds: Any) -> tuple[float, int]:
    """Return the risk score of the gravest concern, and that concern, for statistics (3,) under thresholds (3, 3)."""
    highest, gravest = 0.0, signalled_concern(bounds)
    for concern in range(len(statistics)):
        score = displayed_score(statistics[concern], bounds[concern])
        if score > highest:
            highest, gravest = score, concern
    return highest, gravest


@allocation_free
def counted_statistic(row: Any, concern: int, bounds: Any) -> float:
    """Return the statistic of a concern that decides its level, with signs as far as they count. Thresholds are (3, 3).

    They count in full if authenticated behavior alone has reached *medium*. Otherwise they raise the statistic to
    *medium* at most: a holder of an agent's token or proof can present it again and again.
    """
    own = float(row.statistic[concern])
    if row.signs <= 0.0 or concern != signalled_concern(bounds):
        return own
    medium, critical = float(bounds[concern, 0]), float(bounds[concern, 2])
    both = max(own, 0.0) + float(row.signs)
    if own - row.claimed >= medium:
        return max(own, min(both, critical + MAX_ABOVE_CRITICAL))
    return max(own, min(both, medium))


@allocation_free
def write_counted(state: Any, slot: int, bounds: Any, out: Any) -> None:
    """Write the statistics of an agent that decide its level, (3,), into *out*."""
    for concern in range(len(CONCERNS)):
        out[concern] = counted_statistic(state[slot], concern, bounds)


@allocation_free
def bound_parts(row: Any, bounds: Any, most: float) -> None:
    """Limit the self-asserted part to the statistic it belongs to, and signs to what *most* leaves."""
    own = max(float(row.statistic[signalled_concern(bounds)]), 0.0)
    row.claimed = min(row.claimed, own)
    row.signs = min(row.signs, max(most - own, 0.0))


@allocation_free
def level_for_score(score: float) -> Any:
    """Return the level of a risk score."""
    if score >= LEVEL_UP[4]:
        return CRITICAL
    if score >= LEVEL_UP[3]:
        return HIGH
    return MEDIUM if score >= LEVEL_UP[2] else LOW


def decayed_score(score: float, elapsed_ms: float, half_life_ms: float) -> float:
    """Return the displayed risk after some time without events. It halves with every half-life."""
    left: float = score * 0.5 ** (elapsed_ms / half_life_ms)
    return left


_decayed_score = inlined(decayed_score)


@allocation_free
def _due_ms(row: Any, settings: RiskParameters) -> Any:
    """Return when the level of a silent agent next steps down; 0 if never."""
    if row.level < MEDIUM:
        return 0
    if row.level == CRITICAL:
        return row.since_ms + np.int64(settings.hold_ms)
    limit = LEVEL_DOWN[row.level]
    wait = settings.half_life_ms * math.log2(row.score / limit) if row.score > limit else 0.0  # see `decayed_score`
    return max(row.at_ms + np.int64(math.ceil(wait)) + 1, row.since_ms + np.int64(DWELL_MS))


@allocation_free
def _level_without_evidence(row: Any, settings: RiskParameters) -> Any:
    """Return the level of an agent without evidence: low if enough is known of it."""
    return UNKNOWN if row.confidence < settings.confidence_minimum else LOW


@allocation_free
def relax(row: Any, bounds: Any, now_ms: int, settings: RiskParameters) -> None:
    """Advance time to *now_ms*: decay the displayed risk and take every step down that is due."""
    while row.due_ms != 0 and row.due_ms <= now_ms:
        at_ms = row.due_ms
        _pass_time(row, at_ms, settings)
        if row.level == CRITICAL:
            # A contained agent emits no behaviour that could lower the statistic, so the hold's end does.
            for concern in range(len(CONCERNS)):
                halfway = 0.5 * (bounds[concern, 0] + bounds[concern, 1])
                row.statistic[concern] = min(row.statistic[concern], halfway)
                row.suspicion[concern] = min(row.suspicion[concern], halfway)
            signalled = signalled_concern(bounds)
            bound_parts(row, bounds, 0.5 * (bounds[signalled, 0] + bounds[signalled, 1]))
            row.block_ms = 0
            row.score = min(row.score, LEVEL_UP[4] - 0.01)
            row.level = HIGH
        elif row.level == HIGH:
            row.level = MEDIUM
        else:
            row.level = _level_without_evidence(row, settings)
            for concern in range(len(CONCERNS)):
                row.statistic[concern] = min(row.statistic[concern], RESTART_SHARE * bounds[concern, 0])
            bound_parts(row, bounds, RESTART_SHARE * bounds[signalled_concern(bounds), 0])
            row.block_ms = 0
        row.since_ms = at_ms
        row.due_ms = _due_ms(row, settings)
    _pass_time(row, now_ms, settings)


@allocation_free
def _pass_time(row: Any, now_ms: int, settings: RiskParameters) -> None:
    """Advance decaying values to *now_ms*, never backwards."""
    elapsed = now_ms - row.at_ms
    if elapsed > 0:
        row.score = _decayed_score(row.score, elapsed, settings.half_life_ms)
        for concern in range(len(CONCERNS)):
            row.streak[concern] = decayed_streak(row.streak[concern], elapsed)
            row.peak[concern] = decayed_streak(row.peak[concern], elapsed)
        row.at_ms = now_ms


@allocation_free
def raise_level(row: Any, settings: RiskParameters) -> None:
    """Raise the level at once. Between low and unknown the confidence decides. Sets when time changes it next."""
    reached = level_for_score(row.score)
    if reached > row.level and reached >= MEDIUM:
        row.level = reached
        row.since_ms = row.at_ms
    elif row.level < MEDIUM:
        quiet = _level_without_evidence(row, settings)
        if quiet != row.level:
            row.level = quiet
            row.since_ms = row.at_ms
    row.due_ms = _due_ms(row, settings)


@allocation_free
def advance(
    slots: Any, state: Any, bounds: Any, bound_of_slot: Any, now_ms: int, settings: RiskParameters, out_level: Any
) -> None:
    """Advance time for these slots. *out_level*, int8 (m, 2), receives the levels before and after."""
    for position in range(len(slots)):
        row = state[slots[position]]
        out_level[position, 0] = row.level
        relax(row, bounds[bound_of_slot[slots[position]]], max(now_ms, row.at_ms), settings)
        out_level[position, 1] = row.level


def seed(
    state: npt.NDArray[Any], slots: npt.NDArray[Any], events: npt.NDArray[np.int64], settings: RiskParameters
) -> None:
    """Initialize agents from the model's history: those that it knows well are not unknown."""
    own = events / (events + OWN_EVENTS)
    state["events"][slots] = events
    state["confidence"][slots] = own
    state["level"][slots] = np.where(own < settings.confidence_minimum, UNKNOWN, LOW)


def release(row: Any, now_ms: int, settings: RiskParameters) -> None:
    """Drop all evidence, since a person confirmed the agent. The level becomes the one without evidence."""
    row["statistic"] = row["suspicion"] = row["streak"] = row["peak"] = 0.0
    row["score"] = row["signs"] = row["claimed"] = 0.0
    row["block_ms"] = 0
    row["at_ms"] = max(int(row["at_ms"]), now_ms)
    row["since_ms"] = row["at_ms"]
    row["due_ms"] = 0
    row["told"] = 0.0
    row["odd_before"], row["odd_now"] = 0.0, 0  # after a person has judged the agent, anomalies count in full
    row["counted"] = row["counted_min"] = 0  # later anomalies count again
    row["level"] = UNKNOWN if row["confidence"] < settings.confidence_minimum else LOW


@allocation_free
def withdraw(state: Any, slot: int, amount: float, bounds: Any, settings: RiskParameters) -> None:
    """Subtract the part of an agent's evidence that a person has rejected, and lower the level accordingly.

    Unlike after `release`, evidence that came later, or that no feedback takes back, still counts. Time has passed
    (`advance`) up to the moment when it is said.

    Args:
        amount: natural log; what brought a decision about. An event that is none for one concern is none for the
            others, so each gives back as much, as far as it has it.
        bounds: float64 (3, 3), thresholds of the agent's peer group.
    """
    row = state[slot]
    for concern in range(len(CONCERNS)):
        row.statistic[concern] = max(row.statistic[concern] - amount, min(row.statistic[concern], 0.0))
        row.suspicion[concern] = max(row.suspicion[concern] - amount, min(row.suspicion[concern], 0.0))
        row.streak[concern] = row.peak[concern] = 0.0
    row.told, row.block_ms = 0.0, 0
    row.counted[:], row.counted_min[:] = 0, 0
    bound_parts(row, bounds, np.inf)
    score = 0.0
    for concern in range(len(CONCERNS)):
        score = max(score, displayed_score(counted_statistic(row, concern, bounds), bounds[concern]))
    row.score = min(row.score, score)
    level = level_for_score(row.score)
    if level < MEDIUM:
        level = _level_without_evidence(row, settings)
    if level < row.level:
        row.level = level
        row.since_ms = row.at_ms
    row.due_ms = _due_ms(row, settings)


def count_rises(before: npt.NDArray[Any], after: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Count the rises to each alerting level from below it, int64 (3,).

    Args:
        before, after: levels (n,) of each event.
    """
    return np.array([np.count_nonzero((before < level) & (after >= level)) for level in ALERTING_LEVELS], np.int64)


RESERVE = 3.0
"""Thresholds are read at one in so many of the accepted share of the history's agent-days. Days to come are odder: on
the fleets that chose it, two to three times as often beyond a level (decision 0038)."""

LEAST_STRETCH, MAX_STRETCH = 0.7, 1.5
"""Thresholds are between these times what independent events would need. A history without an anomalous day must not
make a level of the first; the less of a budget its days could show, the nearer the least is to once (`_least_stretch`).
One full of anomalous days must not put levels out of reach: `scoring.learning.budget_check` then reports that the
budget is not kept."""

MEDIUM_SHARE = 0.8
"""Part of its threshold at which *medium* begins, if a walk-forward validation shows what the fleet's days reach.
Honest fleets used a fifth of the budget of that level, and attacks of a few calls end between .8 and once (decision
0038). Levels that cost an agent its tokens keep all of theirs."""

OVERREACH_STRETCH = (1.0, np.inf)
"""Overreach builds up over days, and continues beyond the few days of a validation: in a fleet of a thousand, .7 times
let five times its share through. Slow changes may need much."""

HOURS_A_DAY = 24.0
"""Bets of overreach on a day: it takes one an hour."""

MIN_EXPECTED_ALERTS = 3.0
"""Alerts that a budget must allow over a history before their number says anything about it (rule of three)."""

_LEAST_EVIDENCE = (3.0, 5.0, 7.0)
_MIN_LEVEL_DISTANCE = 1.0
"""Least distance of two levels' thresholds, natural log."""


def model_thresholds(model: TrainedModel, budget: AlertBudget) -> npt.NDArray[np.float64]:
    """Return the evidence (natural log) at which each level begins, by peer group and concern, shape (g, 3, 3).

    A concern that has no share of the budget moves no level: its thresholds are infinite. So are those of overreach
    that its history is too short to check: anomalous days come in rows, and a promise about them would be a guess.
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
    """Return the evidence at which each level begins, so that normal events stay within the budget.

    Args:
        events_per_day: mean events of an active agent per day, shape (g,), one per peer group, the fleet first.
        exponent: in (0, 1], how far the evidence of one session's events falls short of independence; used if *alarms*
        have too little history for more. stretch: least and most times what independent events would need; the least is
        once without a validation.

    Returns:
        Natural logs, shape (g, 3): medium, high, critical. An agent of r events a day meets a threshold c at most
        r / exp(exponent * c) times a day if its p-values are uniform and its sessions independent. With usable *alarms*
        a threshold is what the accepted share of the history's agent-days reached, within
        *stretch*. Validated ones are read at one in `RESERVE` of that share, higher for peer groups that are busier
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
    # Even a generous budget must require more than one anomalous event, and the levels must stay apart.
    evidence = np.maximum(evidence, np.array(_LEAST_EVIDENCE))
    steps = _MIN_LEVEL_DISTANCE * np.arange(3)
    evidence = np.maximum.accumulate(evidence - steps, axis=1) + steps
    if alarms is not None and alarms.usable and alarms.rehearsed:  # last, so that the other levels stay unchanged
        evidence[:, 0] = np.maximum(medium_share * evidence[:, 0], _LEAST_EVIDENCE[0])
    return np.asarray(evidence)


def _least_stretch(
    alarms: AlarmTail, allowed: npt.NDArray[np.float64], with_enough_days: float
) -> npt.NDArray[np.float64]:
    """Return the least factors (3,) on the thresholds of independent events, if the *allowed* share (3,) of agent-days
    may alert."""
    if not alarms.rehearsed:
        return np.ones(3)
    shown = np.minimum(allowed * alarms.days / MIN_EXPECTED_ALERTS, 1.0)
    return np.asarray(1.0 - (1.0 - with_enough_days) * shown)
