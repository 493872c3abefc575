"""Risk: p-values become evidence, evidence becomes a risk score and a level.

Evidence is a test by betting. Each event multiplies a wealth by `e(p)`, whose mean is at most 1 while p is uniform
(`trustwatch.models.betting`), so the running statistic `L = max(L, 0) + log e` is a CUSUM e-detector (Shin, Ramdas and
Rinaldo 2022): the mean number of normal events until it reaches a threshold `c` is at least `exp(c)`. Bets are damped
while odd events follow each other, since those of a session are not independent. Thresholds therefore follow from the
alert budget (`level_thresholds`). The statistic does not decay with time, and relaxes only with normal events, but for
an alert that time has cleared (`RESTART_SHARE`); the *displayed* risk score decays with a half-life. What an agent
shows day after day stops counting (`usual_oddness`).

Each concern (`trustwatch.models.concerns`) has a p-value, a statistic and thresholds of its own, and a share of the
budget: the shares add up to at most the whole, so that by the union bound all concerns together keep it, however they
depend on each other (a weighted Bonferroni correction). The score and level of an agent are those of its gravest
concern. Overreach lasts, so that its events tell the same thing again and again: it takes one bet an hour, the mean of
those of the hour's events, which is fair however they depend on each other.

States are struct-of-arrays by slot, moved by one compiled kernel, one event after the other.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...ingest.compilation import compiled
from ...ingest.timestamps import HOUR_MS
from ...models.betting import damped_bet, decayed_streak, extended_streak, log_bet
from ...models.concerns import CONCERNS
from ..records.agents import ALERTING_LEVELS, RiskLevel
from . import usual_oddness
from .settings import RiskEvaluationSettings
from .usual_oddness import (
    NEVER_USUAL,
    NEWCOMER_EVENTS,
    ODDNESS_LEVELS,
    USUAL,
    begin_period,
    count_event,
    end_newcomer,
    unusual_p_value,
    write_factors,
)

COMPROMISE, MALFUNCTION, OVERREACH = (CONCERNS.index(name) for name in ("compromise", "malfunction", "overreach"))

UNKNOWN, LOW, MEDIUM, HIGH, CRITICAL = (np.int8(level) for level in RiskLevel)

LEVEL_UP = (0.0, 0.0, 0.4, 0.7, 0.9)
"""Risk score at which a level begins."""

LEVEL_DOWN = (0.0, 0.0, 0.3, 0.55, 0.75)
"""Risk score below which a level may be left: hysteresis, so that a score on the edge does not flicker."""

_MAX_ABOVE_CRITICAL = 4.0
"""Most that the statistic may rise above the critical threshold: bounds the clean events that recovery takes."""

_CLEAN_EVENT_FACTOR = 0.98
"""Factor on the displayed risk for each event that brings no evidence."""

SCORE, GAIN, STATISTIC, CONCERN, CONFIDENCE, EVENTS, LEVEL_BEFORE = range(7)
OUTPUTS = 7
"""Columns of the output of `update`, per row: risk score, evidence of the event (natural log) in the gravest statistic,
that statistic, number of the concern that the risk is about, confidence and number of events, all after it; level just
before it, when time had passed."""

CONCERN_GAIN, CONCERN_STATISTIC, STATISTIC_BEFORE, STREAK_BEFORE, PEAK_BEFORE, SUSPICION, USUAL_ODDNESS = range(7)
CONCERN_OUTPUTS = USUAL_ODDNESS + len(ODDNESS_LEVELS)
"""Columns of the output by concern: evidence of the event and statistic after it; statistic, streak and its peak just
before it; suspicion after it; how usual each level of oddness is for the agent (`usual_oddness.write_factors`)."""

SAME_ODDNESS = 2.0
"""Factor between two p-values up to which an event is about as odd to both questions."""

RESTART_SHARE = 0.5
"""Part of the medium threshold that evidence may still be when time has cleared an alert: the head start of a CUSUM
that begins anew after an alarm (Lucas and Crosier 1982). With all of it the next odd event would alert again, day after
day, and nothing of the agent would ever be learned."""

DWELL_MS = 600_000.0
"""A level lasts at least this long before the next step down."""
OWN_EVENTS = 20.0
"""Events at which an agent's own history is half of what can be known."""
PEER_SHARE = 0.6
"""Most confidence that a well-known peer group alone can give."""


class RiskParameters(NamedTuple):
    """`RiskEvaluationSettings` as the kernel takes them. Times in milliseconds."""

    half_life_ms: float
    hold_ms: float  # critical ends by release or after this
    confidence_minimum: float  # below it, and without evidence, the level is unknown


def kernel_parameters(settings: RiskEvaluationSettings) -> RiskParameters:
    """*settings* for the functions below."""
    return RiskParameters(settings.half_life_s * 1000.0, settings.hold_s * 1000.0, settings.confidence_minimum)


MAX_COUNTED_NAMES = 32
"""Names that are remembered as having counted; the one that counted first gives way."""

ROW = np.dtype(
    [
        ("statistic", np.float64, (len(CONCERNS),)),
        (
            "suspicion",
            np.float64,
            (len(CONCERNS),),
        ),  # statistic if nothing were usual and no alert were cleared by time
        ("streak", np.float64, (len(CONCERNS),)),  # odd events of late, as of `at_ms`
        ("peak", np.float64, (len(CONCERNS),)),  # largest bet of the streak, as of `at_ms`
        ("score", np.float64),  # displayed risk as of `at_ms`
        ("at_ms", np.int64),
        ("since_ms", np.int64),  # since when the level holds
        ("due_ms", np.int64),  # when time alone changes the level; 0 = never
        ("events", np.int64),
        ("anomaly", np.float64),  # of the last event
        ("p_value", np.float64),
        ("confidence", np.float64),
        ("told", np.float64),  # evidence of the event that the agent's stored reasons speak of
        ("told_ms", np.int64),  # and when it happened
        *usual_oddness.FIELDS,
        ("block_ms", np.int64),  # hour of overreach that is going on: when it began
        ("block_before", np.float64),  # the statistic before it
        ("block_sum", np.float64),  # sum of its bets, not of their logarithms
        ("block_events", np.int64),
        ("level", np.int8),
        ("concern", np.int8),  # that the risk is about, see `_concern_of`
        ("counted", np.uint32, (MAX_COUNTED_NAMES,)),  # names that have counted of late (see `evidence_dedup`)
        ("counted_min", np.int32, (MAX_COUNTED_NAMES,)),  # and when, in minutes of UTC
    ]
)
"""One agent's risk state, as kept in memory and as stored."""


def allocate(slots: int) -> npt.NDArray[Any]:
    """Risk state of *slots* agents that nobody has seen."""
    return np.zeros(slots, ROW)


@compiled
def displayed_score(statistic: float, bounds: Any) -> float:
    """Risk score in [0, 1] that a statistic stands for: piecewise linear between the levels' thresholds."""
    medium, high, critical = float(bounds[0]), float(bounds[1]), float(bounds[2])
    if statistic < medium:
        return LEVEL_UP[2] * max(statistic, 0.0) / medium
    if statistic < high:
        return LEVEL_UP[2] + (LEVEL_UP[3] - LEVEL_UP[2]) * (statistic - medium) / (high - medium)
    if statistic < critical:
        return LEVEL_UP[3] + (LEVEL_UP[4] - LEVEL_UP[3]) * (statistic - high) / (critical - high)
    return LEVEL_UP[4] + (1.0 - LEVEL_UP[4]) * (1.0 - math.exp(critical - statistic))


@compiled
def signalled_concern(limits: Any) -> int:
    """Concern that hard signals tell of, under its thresholds (3, 3)."""
    return 0 if limits[0, 0] < np.inf else 1


@compiled
def risk_of(statistics: Any, bounds: Any) -> tuple[float, int]:
    """Risk score of the gravest concern, and which it is, for statistics (3,) under thresholds (3, 3)."""
    highest, gravest = 0.0, signalled_concern(bounds)
    for concern in range(len(statistics)):
        score = displayed_score(statistics[concern], bounds[concern])
        if score > highest:
            highest, gravest = score, concern
    return highest, gravest


@compiled
def level_for_score(score: float) -> Any:
    """Level that a risk score begins."""
    if score >= LEVEL_UP[4]:
        return CRITICAL
    if score >= LEVEL_UP[3]:
        return HIGH
    return MEDIUM if score >= LEVEL_UP[2] else LOW


@compiled
def _due_ms(row: Any, settings: RiskParameters) -> Any:
    """Time at which the level of a silent agent next steps down; 0 = never."""
    if row.level < MEDIUM:
        return 0
    if row.level == CRITICAL:
        return row.since_ms + np.int64(settings.hold_ms)
    limit = LEVEL_DOWN[row.level]
    wait = settings.half_life_ms * math.log2(row.score / limit) if row.score > limit else 0.0
    return max(row.at_ms + np.int64(math.ceil(wait)) + 1, row.since_ms + np.int64(DWELL_MS))


@compiled
def _level_without_evidence(row: Any, settings: RiskParameters) -> Any:
    """Level of an agent without evidence: low if enough is known of it."""
    return UNKNOWN if row.confidence < settings.confidence_minimum else LOW


@compiled
def relax(row: Any, bounds: Any, now_ms: int, settings: RiskParameters) -> None:
    """Let time pass until *now_ms*: the displayed risk decays and every step down that has come due is taken."""
    while row.due_ms != 0 and row.due_ms <= now_ms:
        at_ms = row.due_ms
        _pass_time(row, at_ms, settings)
        if row.level == CRITICAL:
            # A contained agent emits no behaviour that could lower the statistic, so the hold's end does.
            for concern in range(len(CONCERNS)):
                halfway = 0.5 * (bounds[concern, 0] + bounds[concern, 1])
                row.statistic[concern] = min(row.statistic[concern], halfway)
                row.suspicion[concern] = min(row.suspicion[concern], halfway)
            row.block_ms = 0
            row.score = min(row.score, LEVEL_UP[4] - 0.01)
            row.level = HIGH
        elif row.level == HIGH:
            row.level = MEDIUM
        else:
            row.level = _level_without_evidence(row, settings)
            for concern in range(len(CONCERNS)):
                row.statistic[concern] = min(row.statistic[concern], RESTART_SHARE * bounds[concern, 0])
            row.block_ms = 0
        row.since_ms = at_ms
        row.due_ms = _due_ms(row, settings)
    _pass_time(row, now_ms, settings)


@compiled
def _pass_time(row: Any, now_ms: int, settings: RiskParameters) -> None:
    """Bring what decays forward to *now_ms*; never backwards."""
    elapsed = now_ms - row.at_ms
    if elapsed > 0:
        row.score *= 0.5 ** (elapsed / settings.half_life_ms)
        for concern in range(len(CONCERNS)):
            row.streak[concern] = decayed_streak(row.streak[concern], elapsed)
            row.peak[concern] = decayed_streak(row.peak[concern], elapsed)
        row.at_ms = now_ms


@compiled
def evidence_of(p_value: float, confidence: float, streak: float, peak: float) -> float:
    """Natural log of the bet on one p-value in (0, 1].

    Little knowledge and a streak of odd events bet little: `e**w` with w below 1 keeps the mean at most 1.

    Args:
        confidence: how well the agent is known, 0 to 1.
        streak, peak: odd events of the agent before and the largest bet on one, as far as they are not forgotten (see
            `trustwatch.models.betting`).
    """
    return damped_bet(log_bet(p_value), streak, peak) * (0.5 + 0.5 * confidence)


@compiled
def update(
    rows: Any,
    slots: Any,
    state: Any,
    time_ms: Any,
    p_values: Any,
    overall: Any,
    scores: Any,
    coverage: Any,
    signals: Any,
    bounds: Any,
    bound_of: Any,
    asserted: Any,
    skip: Any,
    habits: Any,
    settings: RiskParameters,
    out_level: Any,
    out: Any,
    by_concern: Any,
) -> None:
    """Apply events to their agents' risk, in order.

    Args:
        rows: int64 (m,), rows of the batch.
        slots, time_ms: per row of the batch.
        p_values: float64 (n, 3), by concern: what risk rests on.
        overall, scores: float64 per row, p-value and anomaly score of all evidence, which are kept with the agent.
        coverage: float64 per row, 0 to 1: how much is known of the agent's peer group.
        signals: float64 per row: evidence of hard signals, natural log, at least 0. They tell of compromise; where
            that has no share of the budget, they count for malfunction.
        bounds: float64 (g, 3, 3) from `model_thresholds`; bound_of: int64 per row, its group.
        asserted: per row, not 0 where no token vouches for the agent id: such an event can raise risk, never lower it.
        skip: per row, not 0 where the event is no behaviour (our own denial, or a signal event, whose weight counts).
        habits: int8 per row, `usual_oddness.USUAL`, `NO_HABIT` or `NEVER_USUAL`.
        out_level: int8 (n, 2), level before and after.
        out: float64 (n, OUTPUTS), see there.
        by_concern: float64 (n, 3, CONCERN_OUTPUTS), see there.
    """
    for r in rows:
        row = state[slots[r]]
        limits = bounds[bound_of[r]]
        out_level[r, 0] = row.level
        relax(row, limits, max(time_ms[r], row.at_ms), settings)
        out[r, LEVEL_BEFORE], out[r, GAIN] = row.level, 0.0
        for concern in range(len(CONCERNS)):
            by_concern[r, concern, CONCERN_GAIN] = 0.0
            by_concern[r, concern, STATISTIC_BEFORE] = row.statistic[concern]
            by_concern[r, concern, STREAK_BEFORE] = row.streak[concern]
            by_concern[r, concern, PEAK_BEFORE] = row.peak[concern]
        if skip[r] == 0:
            begin_period(row)
        write_factors(row, by_concern[r], USUAL_ODDNESS)
        if skip[r] == 0:
            row.anomaly, row.p_value = scores[r], overall[r]
            if asserted[r] == 0:
                _apply_vouched_event(row, p_values[r], coverage[r], signals[r], limits, habits[r], by_concern[r])
            else:
                _apply_unvouched_event(row, p_values[r], signals[r], limits, habits[r], by_concern[r])
            _raise_level(row, settings)
            row.due_ms = _due_ms(row, settings)
        elif signals[r] > 0.0:
            _apply_signals(row, signals[r], limits, by_concern[r])
            _raise_level(row, settings)
            row.due_ms = _due_ms(row, settings)
        out_level[r, 1] = row.level
        gravest = risk_of(row.statistic, limits)[1]
        for concern in range(len(CONCERNS)):
            by_concern[r, concern, CONCERN_STATISTIC] = row.statistic[concern]
            by_concern[r, concern, SUSPICION] = row.suspicion[concern]
        out[r, GAIN], out[r, STATISTIC] = by_concern[r, gravest, CONCERN_GAIN], row.statistic[gravest]
        is_graver = out[r, GAIN] > 0.0
        if is_graver or by_concern[r, COMPROMISE, CONCERN_GAIN] > 0.0:
            is_raised = row.level > out[r, LEVEL_BEFORE]
            row.concern = _concern_after(row, is_raised, gravest, is_graver, p_values[r], limits)
        out[r, CONCERN] = row.concern
        out[r, SCORE], out[r, CONFIDENCE], out[r, EVENTS] = row.score, row.confidence, row.events


@compiled
def _concern_after(row: Any, is_raised: bool, gravest: int, is_graver: bool, p_values: Any, bounds: Any) -> int:
    """Concern that the level is about after an event: compromise, where it reaches that level by itself, or where it
    was named since the level last rose.

    Whoever acts for an agent can make noise that is odder still, and policy may be milder about noise.

    Args:
        is_raised: the event raised the level.
        gravest: concern of the highest statistic.
        is_graver: the event raised that statistic.
        p_values, bounds: of the event, (3,), and of the agent, (3, 3).
    """
    brought = row.concern == COMPROMISE and row.level >= MEDIUM and not is_raised
    reached = level_for_score(displayed_score(row.statistic[COMPROMISE], bounds[COMPROMISE]))
    if brought or reached >= max(MEDIUM, row.level):
        return COMPROMISE
    if not is_graver:
        return int(row.concern)
    about = _concern_of(gravest, p_values)
    if about == COMPROMISE and gravest != COMPROMISE and reached < MEDIUM and bounds[COMPROMISE, 0] < np.inf:
        return MALFUNCTION  # one event that was about as odd so: it would stay named while the level lasts
    return about


@compiled
def _concern_of(gravest: int, p_values: Any) -> int:
    """Concern that the risk is about after an event with these p-values (3,) that moved the *gravest* statistic.

    Malfunction looks at all there is. Where the event is about as odd to a narrower question, that one is meant.
    """
    if gravest != MALFUNCTION:
        return gravest
    narrower = COMPROMISE if p_values[COMPROMISE] <= p_values[OVERREACH] else OVERREACH
    return narrower if p_values[narrower] <= SAME_ODDNESS * p_values[MALFUNCTION] else MALFUNCTION


@compiled
def _bet_on_block(row: Any, bet: float) -> float:
    """Evidence of one event for overreach: by how much it moves the mean bet of its hour, as a logarithm."""
    if row.at_ms - row.block_ms >= HOUR_MS:
        row.block_ms, row.block_before = row.at_ms, max(row.statistic[OVERREACH], 0.0)
        row.block_sum, row.block_events = 0.0, 0
    row.block_sum += math.exp(bet)
    row.block_events += 1
    gathered: float = row.block_before + math.log(row.block_sum / row.block_events)
    return gathered - float(row.statistic[OVERREACH])


@compiled
def _apply_vouched_event(
    row: Any, p_values: Any, coverage: float, signals: float, limits: Any, habit: int, by_concern: Any
) -> None:
    """Apply one event that a token vouches for."""
    row.events += 1
    if row.events == NEWCOMER_EVENTS:
        end_newcomer(row)
    own = row.events / (row.events + OWN_EVENTS)
    row.confidence = 1.0 - (1.0 - own) * (1.0 - PEER_SHARE * coverage)
    calm = True
    for concern in range(len(CONCERNS)):
        bounds, p_value = limits[concern], p_values[concern]
        if concern == OVERREACH:
            gain = _bet_on_block(row, evidence_of(p_value, row.confidence, 0.0, 0.0))
            by_concern[concern, CONCERN_GAIN] = gain
            row.statistic[concern] = min(row.statistic[concern] + gain, bounds[2] + _MAX_ABOVE_CRITICAL)
            row.suspicion[concern] = row.statistic[concern]
            if gain > 0.0 and bounds[0] < np.inf:
                row.score = max(row.score, displayed_score(row.statistic[concern], bounds))
                calm = False
            continue
        suspicious = evidence_of(p_value, row.confidence, row.streak[concern], row.peak[concern])
        if habit != NEVER_USUAL:
            p_value = unusual_p_value(p_value, by_concern[concern, USUAL_ODDNESS:])
        gain = evidence_of(p_value, row.confidence, row.streak[concern], row.peak[concern])
        if concern == signalled_concern(limits):
            gain += signals
            suspicious += signals
        undamped = log_bet(p_value)
        row.streak[concern] = extended_streak(row.streak[concern], undamped)
        row.peak[concern] = max(row.peak[concern], undamped)
        most = bounds[2] + _MAX_ABOVE_CRITICAL
        row.statistic[concern] = min(max(row.statistic[concern], 0.0) + gain, most)
        row.suspicion[concern] = min(max(row.suspicion[concern], 0.0) + suspicious, most)
        by_concern[concern, CONCERN_GAIN] = gain
        if gain > 0.0 and bounds[0] < np.inf:
            row.score = max(row.score, displayed_score(row.statistic[concern], bounds))
            calm = False
    if habit == USUAL:
        count_event(row, p_values)
    if calm:
        row.score *= _CLEAN_EVENT_FACTOR


@compiled
def _apply_unvouched_event(row: Any, p_values: Any, signals: float, limits: Any, habit: int, by_concern: Any) -> None:
    """Apply one event that anybody could have sent: history and calm of the agent stay, risk can only rise.

    The streak stays as it is, too: forged events must not damp the evidence of real ones.
    """
    for concern in range(OVERREACH):
        bounds, before = limits[concern], row.statistic[concern]
        p_value = p_values[concern]
        if habit != NEVER_USUAL:
            p_value = unusual_p_value(p_value, by_concern[concern, USUAL_ODDNESS:])
        bet = evidence_of(p_value, row.confidence, row.streak[concern], row.peak[concern])
        gain = max(bet + (signals if concern == signalled_concern(limits) else 0.0), 0.0)
        by_concern[concern, CONCERN_GAIN] = gain
        if gain > 0.0:
            row.statistic[concern] = max(before, min(max(before, 0.0) + gain, bounds[2] + _MAX_ABOVE_CRITICAL))
            row.suspicion[concern] = max(row.suspicion[concern], row.statistic[concern])
            row.score = max(row.score, displayed_score(row.statistic[concern], bounds))


@compiled
def _apply_signals(row: Any, signals: float, limits: Any, by_concern: Any) -> None:
    """Apply what others say of an agent: it is no behaviour, so risk can only rise, by the weight of the signals."""
    concern = signalled_concern(limits)
    bounds, before = limits[concern], row.statistic[concern]
    by_concern[concern, CONCERN_GAIN] = signals
    row.statistic[concern] = max(before, min(max(before, 0.0) + signals, bounds[2] + _MAX_ABOVE_CRITICAL))
    row.suspicion[concern] = max(row.suspicion[concern], row.statistic[concern])
    row.score = max(row.score, displayed_score(row.statistic[concern], bounds))


@compiled
def _raise_level(row: Any, settings: RiskParameters) -> None:
    """Raise the level at once; between low and unknown the confidence decides."""
    reached = level_for_score(row.score)
    if reached > row.level and reached >= MEDIUM:
        row.level = reached
        row.since_ms = row.at_ms
    elif row.level < MEDIUM:
        calm = _level_without_evidence(row, settings)
        if calm != row.level:
            row.level = calm
            row.since_ms = row.at_ms


@compiled
def advance(
    slots: Any, state: Any, bounds: Any, bound_of_slot: Any, now_ms: int, settings: RiskParameters, out_level: Any
) -> None:
    """Let time pass for the given slots; *out_level* int8 (m, 2) receives the levels before and after."""
    for position in range(len(slots)):
        row = state[slots[position]]
        out_level[position, 0] = row.level
        relax(row, bounds[bound_of_slot[slots[position]]], max(now_ms, row.at_ms), settings)
        out_level[position, 1] = row.level


def seed(
    state: npt.NDArray[Any], slots: npt.NDArray[Any], events: npt.NDArray[np.int64], settings: RiskParameters
) -> None:
    """Let agents begin with what the model's history showed of them: those that it knows well are not unknown."""
    own = events / (events + OWN_EVENTS)
    state["events"][slots] = events
    state["confidence"][slots] = own
    state["level"][slots] = np.where(own < settings.confidence_minimum, UNKNOWN, LOW)


def release(row: Any, now_ms: int, settings: RiskParameters) -> None:
    """Drop the evidence so far, since a person vouches for the agent; the level is what is known without it."""
    row["statistic"] = row["suspicion"] = row["streak"] = row["peak"] = 0.0
    row["score"] = 0.0
    row["block_ms"] = 0
    row["at_ms"] = max(int(row["at_ms"]), now_ms)
    row["since_ms"] = row["at_ms"]
    row["due_ms"] = 0
    row["told"] = 0.0
    usual_oddness.forget_habits(row)
    row["counted"] = row["counted_min"] = 0  # what is odd after this counts anew
    row["level"] = UNKNOWN if row["confidence"] < settings.confidence_minimum else LOW


@compiled
def withdraw(state: Any, slot: int, amount: float, bounds: Any, settings: RiskParameters) -> None:
    """A person says that so much of an agent's evidence was none: what else there is stays, and the level follows.

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
    row.score = min(row.score, risk_of(row.statistic, bounds)[0])
    level = level_for_score(row.score)
    if level < MEDIUM:
        level = _level_without_evidence(row, settings)
    if level < row.level:
        row.level = level
        row.since_ms = row.at_ms
    row.due_ms = _due_ms(row, settings)


def count_rises(before: npt.NDArray[Any], after: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Number of rises from below each alerting level to it or above, int64 (3,).

    Args:
        before, after: levels (n,) of each event.
    """
    return np.array([np.count_nonzero((before < level) & (after >= level)) for level in ALERTING_LEVELS], np.int64)
