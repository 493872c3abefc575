"""Risk: p-values become evidence, evidence becomes a risk score and a level.

Evidence is a test by betting. Each event multiplies a wealth by `e(p)`, whose mean is at most 1 while p is uniform
(`trustwatch.models.betting`), so the running statistic `L = max(L, 0) + log e` is a CUSUM e-detector (Shin, Ramdas and
Rinaldo 2022): the mean number of normal events until it reaches a threshold `c` is at least `exp(c)`. Bets are damped
while anomalous events follow each other, since those of a session are not independent. Thresholds therefore follow from
the alert budget (`level_thresholds`). The statistic does not decay with time, and relaxes only with normal events, but
for an alert that time has cleared (`RESTART_SHARE`); the *displayed* risk score decays with a half-life. What an agent
shows day after day stops counting (`usual_anomalies`).

Each concern (`trustwatch.models.concerns`) has a separate p-value, statistic and thresholds, and a share of the budget:
the shares add up to at most the whole, so that by the union bound all concerns together keep it, however they depend on
each other (a weighted Bonferroni correction). The score and level of an agent are those of its gravest concern.
Overreach lasts, so that its events report the same fact again and again: it takes one bet an hour, the mean of those of
the hour's events, which is fair however they depend on each other.

One compiled kernel moves the states of agents, one event after the other. `risk_levels` has those states, the decay
with time (`risk_levels.decayed_score`) and changes made by people.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from trustwatch.ingest.compilation import allocation_free
from trustwatch.ingest.timestamps import HOUR_MS
from trustwatch.models.betting import damped_bet, extended_streak, log_bet
from trustwatch.models.concerns import CONCERNS

from .hard_signals import AS_SIGN, IN_FULL, OF_MEDIUM, TO_HIGH
from .risk_levels import (
    COMPROMISE,
    MALFUNCTION,
    MAX_ABOVE_CRITICAL,
    MEDIUM,
    OVERREACH,
    OWN_EVENTS,
    RiskParameters,
    bound_parts,
    counted_statistic,
    displayed_score,
    level_for_score,
    raise_level,
    relax,
    risk_of,
    signalled_concern,
)
from .usual_anomalies import (
    ANOMALY_LEVELS,
    NEVER_USUAL,
    NEWCOMER_EVENTS,
    USUAL,
    begin_period,
    count_event,
    end_newcomer,
    unusual_p_value,
    write_factors,
)

_CLEAN_EVENT_FACTOR = 0.98
"""Factor on the displayed risk for each event that brings no evidence."""

SCORE, GAIN, STATISTIC, CONCERN, CONFIDENCE, EVENTS, LEVEL_BEFORE = range(7)
OUTPUTS = 7
"""Columns of the output of `update`, per row: risk score, evidence of the event (natural log) in the gravest statistic,
that statistic, number of the concern that the risk is about, confidence and number of events, all after it; level just
before it, when time had passed."""

CONCERN_GAIN, CONCERN_STATISTIC, STATISTIC_BEFORE, STREAK_BEFORE, PEAK_BEFORE, SUSPICION, USUAL_FACTORS = range(7)
CONCERN_OUTPUTS = USUAL_FACTORS + len(ANOMALY_LEVELS)
"""Columns of the output by concern: evidence of the event and statistic after it; statistic, streak and its peak just
before it; suspicion after it; how usual each level of anomaly is for the agent (`usual_anomalies.write_factors`)."""

SAME_ANOMALY_FACTOR = 2.0
"""Factor between two p-values up to which an event is about equally anomalous for both."""

PEER_SHARE = 0.6
"""Most confidence that a well-known peer group alone can give."""


@allocation_free
def evidence_of(p_value: float, confidence: float, streak: float, peak: float) -> float:
    """Return the natural log of the bet on one p-value in (0, 1].

    Little knowledge and a streak of anomalous events bet little: `e**w` with w below 1 keeps the mean at most 1.

    Args:
        confidence: how well the agent is known, 0 to 1. streak, peak: anomalous events of the agent before and the
        largest bet on one, as far as they are not forgotten (see
            `trustwatch.models.betting`).
    """
    return damped_bet(log_bet(p_value), streak, peak) * (0.5 + 0.5 * confidence)


@allocation_free
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
        rows: int64 (m,), rows of the batch. slots, time_ms: per row of the batch. p_values: float64 (n, 3), by concern:
        what risk rests on. overall, scores: float64 per row, p-value and anomaly score of all evidence, which are kept
        with the agent. coverage: float64 per row, 0 to 1: how much is known of the agent's peer group. signals: float64
        (n, COUNTS), see `hard_signals`: evidence of hard signals, natural log, at least 0. They indicate compromise; if
        that has no share of the budget, they count for malfunction. bounds: float64 (g, 3, 3) from `model_thresholds`;
        bound_of: int64 per row, its group. asserted: per row, not 0 if the agent id is unauthenticated: such an event
        can raise risk, never lower it. skip: per row, not 0 if the event is not behavior (our own denial, or a signal
        event, whose weight counts). habits: int8 per row, `usual_anomalies.USUAL`, `NO_HABIT` or `NEVER_USUAL`.
        out_level: int8 (n, 2), level before and after. out: float64 (n, OUTPUTS), see there. by_concern: float64 (n, 3,
        CONCERN_OUTPUTS), see there.
    """
    for r in rows:
        row = state[slots[r]]
        limits = bounds[bound_of[r]]
        out_level[r, 0] = row.level
        relax(row, limits, max(time_ms[r], row.at_ms), settings)
        out[r, LEVEL_BEFORE], out[r, GAIN] = row.level, 0.0
        for concern in range(len(CONCERNS)):
            by_concern[r, concern, CONCERN_GAIN] = 0.0
            by_concern[r, concern, STATISTIC_BEFORE] = counted_statistic(row, concern, limits)
            by_concern[r, concern, STREAK_BEFORE] = row.streak[concern]
            by_concern[r, concern, PEAK_BEFORE] = row.peak[concern]
        if skip[r] == 0:
            begin_period(row)
        write_factors(row, by_concern[r], USUAL_FACTORS)
        if skip[r] == 0:
            row.anomaly, row.p_value = scores[r], overall[r]
            if asserted[r] == 0:
                _apply_authenticated_event(row, p_values[r], coverage[r], signals[r], limits, habits[r], by_concern[r])
            else:
                _apply_unauthenticated_event(row, p_values[r], signals[r], limits, habits[r], by_concern[r])
            raise_level(row, settings)
        elif signals[r, IN_FULL] + signals[r, AS_SIGN] > 0.0:
            _apply_signals(row, signals[r], limits, by_concern[r])
            raise_level(row, settings)
        out_level[r, 1] = row.level
        for concern in range(len(CONCERNS)):
            by_concern[r, concern, CONCERN_STATISTIC] = counted_statistic(row, concern, limits)
            by_concern[r, concern, SUSPICION] = row.suspicion[concern]
        gravest = risk_of(by_concern[r, :, CONCERN_STATISTIC], limits)[1]
        out[r, GAIN], out[r, STATISTIC] = (
            by_concern[r, gravest, CONCERN_GAIN],
            by_concern[r, gravest, CONCERN_STATISTIC],
        )
        is_graver = out[r, GAIN] > 0.0
        if is_graver or by_concern[r, COMPROMISE, CONCERN_GAIN] > 0.0:
            is_raised = row.level > out[r, LEVEL_BEFORE]
            row.concern = _concern_after(row, is_raised, gravest, is_graver, p_values[r], limits)
        out[r, CONCERN] = row.concern
        out[r, SCORE], out[r, CONFIDENCE], out[r, EVENTS] = row.score, row.confidence, row.events


@allocation_free
def _concern_after(row: Any, is_raised: bool, gravest: int, is_graver: bool, p_values: Any, bounds: Any) -> int:
    """Return the concern that the level is about after an event: compromise if it alone reaches that level, or if it
    was the concern since the level last rose. An attacker can make noise that is more anomalous, and policy may be
    milder about noise.

    Args:
        is_raised: the event raised the level.
        gravest: concern of the highest statistic.
        is_graver: the event raised that statistic.
        p_values, bounds: of the event, (3,), and of the agent, (3, 3).
    """
    brought = row.concern == COMPROMISE and row.level >= MEDIUM and not is_raised
    reached = level_for_score(displayed_score(counted_statistic(row, COMPROMISE, bounds), bounds[COMPROMISE]))
    if brought or reached >= max(MEDIUM, row.level):
        return COMPROMISE
    if not is_graver:
        return int(row.concern)
    about = _concern_of(gravest, p_values)
    if about == COMPROMISE and gravest != COMPROMISE and reached < MEDIUM and bounds[COMPROMISE, 0] < np.inf:
        return MALFUNCTION  # one event about as anomalous: it would stay named while the level lasts
    return about


@allocation_free
def _concern_of(gravest: int, p_values: Any) -> int:
    """Return the concern that the risk is about after an event with these p-values (3,) that moved the *gravest*
    statistic.

    Malfunction considers all evidence. If the event is about as anomalous for a narrower concern, that one is meant.
    """
    if gravest != MALFUNCTION:
        return gravest
    narrower = COMPROMISE if p_values[COMPROMISE] <= p_values[OVERREACH] else OVERREACH
    return narrower if p_values[narrower] <= SAME_ANOMALY_FACTOR * p_values[MALFUNCTION] else MALFUNCTION


@allocation_free
def _bet_on_block(row: Any, bet: float) -> float:
    """Return the evidence of one event for overreach: the logarithm of its effect on the mean bet of its hour."""
    if row.at_ms - row.block_ms >= HOUR_MS:
        row.block_ms, row.block_before = row.at_ms, max(row.statistic[OVERREACH], 0.0)
        row.block_sum, row.block_events = 0.0, 0
    row.block_sum += math.exp(bet)
    row.block_events += 1
    gathered: float = row.block_before + math.log(row.block_sum / row.block_events)
    return gathered - float(row.statistic[OVERREACH])


@allocation_free
def _apply_authenticated_event(
    row: Any, p_values: Any, coverage: float, signals: Any, limits: Any, habit: int, by_concern: Any
) -> None:
    """Apply an attested event."""
    row.events += 1
    if row.events == NEWCOMER_EVENTS:
        end_newcomer(row)
    own = row.events / (row.events + OWN_EVENTS)
    row.confidence = 1.0 - (1.0 - own) * (1.0 - PEER_SHARE * coverage)
    quiet = True
    for concern in range(len(CONCERNS)):
        bounds, p_value = limits[concern], p_values[concern]
        if concern == OVERREACH:
            gain = _bet_on_block(row, evidence_of(p_value, row.confidence, 0.0, 0.0))
            by_concern[concern, CONCERN_GAIN] = gain
            row.statistic[concern] = min(row.statistic[concern] + gain, bounds[2] + MAX_ABOVE_CRITICAL)
            row.suspicion[concern] = row.statistic[concern]
            if gain > 0.0 and bounds[0] < np.inf:
                row.score = max(row.score, displayed_score(row.statistic[concern], bounds))
                quiet = False
            continue
        suspicious = evidence_of(p_value, row.confidence, row.streak[concern], row.peak[concern])
        if habit != NEVER_USUAL:
            p_value = unusual_p_value(p_value, by_concern[concern, USUAL_FACTORS:])
        gain = evidence_of(p_value, row.confidence, row.streak[concern], row.peak[concern])
        is_signalled = concern == signalled_concern(limits)
        gain = _with_signals(gain, signals, bounds, is_signalled)
        suspicious = _with_signals(suspicious, signals, bounds, is_signalled)
        undamped = log_bet(p_value)
        row.streak[concern] = extended_streak(row.streak[concern], undamped)
        row.peak[concern] = max(row.peak[concern], undamped)
        most = bounds[2] + MAX_ABOVE_CRITICAL
        row.statistic[concern] = min(max(row.statistic[concern], 0.0) + gain, most)
        row.suspicion[concern] = min(max(row.suspicion[concern], 0.0) + suspicious, most)
        if is_signalled:
            gain = _add_what_is_bounded(row, gain, signals, limits)
        by_concern[concern, CONCERN_GAIN] = gain
        if gain > 0.0 and bounds[0] < np.inf:
            row.score = max(row.score, displayed_score(counted_statistic(row, concern, limits), bounds))
            quiet = False
    if habit == USUAL:
        count_event(row, p_values)
    if quiet:
        row.score *= _CLEAN_EVENT_FACTOR


@allocation_free
def _apply_unauthenticated_event(
    row: Any, p_values: Any, signals: Any, limits: Any, habit: int, by_concern: Any
) -> None:
    """Apply an event that any sender could have sent. Risk can only rise, to *high* at most, and history stays: failed
    sign-ins with an agent's name must not revoke its tokens.

    The streak stays as it is, too: forged events must not damp the evidence of real ones.
    """
    for concern in range(OVERREACH):
        bounds, before = limits[concern], row.statistic[concern]
        p_value = p_values[concern]
        if habit != NEVER_USUAL:
            p_value = unusual_p_value(p_value, by_concern[concern, USUAL_FACTORS:])
        bet = evidence_of(p_value, row.confidence, row.streak[concern], row.peak[concern])
        gain = max(bet + (signals[IN_FULL] if concern == signalled_concern(limits) else 0.0), 0.0)
        if gain > 0.0:
            row.statistic[concern] = max(before, min(max(before, 0.0) + gain, bounds[1]))
            row.suspicion[concern] = max(row.suspicion[concern], row.statistic[concern])
        if concern == signalled_concern(limits):
            row.claimed += max(row.statistic[concern], 0.0) - max(before, 0.0)
            gain += _add_signs(row, signals, bounds)
        by_concern[concern, CONCERN_GAIN] = gain
        if gain > 0.0:
            row.score = max(row.score, displayed_score(counted_statistic(row, concern, limits), bounds))


@allocation_free
def _add_signs(row: Any, signals: Any, bounds: Any) -> float:
    """Add the signs among an event's signals; return their weight. All signs together reach *medium* at most."""
    row.signs = min(max(row.signs, 0.0) + signals[AS_SIGN], bounds[0])
    return float(signals[AS_SIGN])


@allocation_free
def _with_signals(evidence: float, signals: Any, bounds: Any, is_signalled: bool) -> float:
    """Return the evidence of an event with hard signals that count in full and the minimum that a new network brings,
    if they indicate this concern."""
    if not is_signalled:
        return evidence
    if signals[OF_MEDIUM] > 0.0:
        evidence = max(evidence, signals[OF_MEDIUM] * bounds[0])
    return float(evidence + signals[IN_FULL])


@allocation_free
def _add_what_is_bounded(row: Any, gain: float, signals: Any, limits: Any) -> float:
    """Add signs, and evidence that reaches *high* at most, after the event's own *gain*; return the total gain.

    A gain below 0 clears signs as it clears the statistic.
    """
    concern = signalled_concern(limits)
    bounds = limits[concern]
    row.signs += min(gain, 0.0)
    bound_parts(row, limits, np.inf)
    added = _add_signs(row, signals, bounds)
    before = max(float(row.statistic[concern]), 0.0)
    raised = max(before, min(before + signals[TO_HIGH], float(bounds[1])))
    if raised > before:
        row.statistic[concern] = raised
        row.suspicion[concern] = max(float(row.suspicion[concern]), raised)
        added += raised - before
    return max(gain, 0.0) + added if added > 0.0 else gain


@allocation_free
def _apply_signals(row: Any, signals: Any, limits: Any, by_concern: Any) -> None:
    """Apply what others report about an agent. Reports are not behavior: risk can only rise, by the signals' weight."""
    concern = signalled_concern(limits)
    bounds, before = limits[concern], row.statistic[concern]
    if signals[IN_FULL] > 0.0:
        row.statistic[concern] = max(before, min(max(before, 0.0) + signals[IN_FULL], bounds[2] + MAX_ABOVE_CRITICAL))
        row.suspicion[concern] = max(row.suspicion[concern], row.statistic[concern])
    by_concern[concern, CONCERN_GAIN] = signals[IN_FULL] + _add_signs(row, signals, bounds)
    row.score = max(row.score, displayed_score(counted_statistic(row, concern, limits), bounds))
