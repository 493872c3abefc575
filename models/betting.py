"""The bet on a p-value: how conformal p-values become evidence.

`k p**(k - 1)` has mean 1 for a uniform p and each k in (0, 1), and so has the mean of all of these bets, `e(p) =
(1/p - 1 + ln p) / (ln p)**2`: wealth that is multiplied by it grows by luck alone no more often than a fair game allows
(Vovk and Wang 2021, calibrators of p-values into e-values). It grows nearly as fast as 1/p, so one impossible event is
worth about as much as it is rare.

An anomalous session is anomalous throughout, so its bets are not independent. Each bet on an anomalous event (p at most
0.05) therefore makes the following ones of the agent smaller: `DAMPING**streak`, where the streak counts such bets and
is forgotten with a half-life. What a bet has beyond the largest one of the streak counts in full: a few mildly
anomalous events must not dull the one that matters. Streak and peak are fixed before the event is seen and only make
bets smaller, so the game stays fair.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.columns import EventColumns
from trustwatch.ingest.compilation import allocation_free, inlined
from trustwatch.ingest.timestamps import DAY_MS

from .input_checks import Floats, Ids, Ints, WrongShape

DAMPING = 0.95
MIN_BET_WEIGHT = 0.2
"""Share of each bet that counts however long a streak is, so that an agent that is always busy can still be noticed."""

STREAK_P_VALUE = 0.05
"""p-value of the smallest bet by which a streak grows: a sixth of all normal events bring some evidence, and would
otherwise permanently damp a busy agent."""
STREAK_HALF_LIFE_MS = 1_800_000.0


@allocation_free
def log_bet(p_value: float) -> float:
    """Return the natural log of the bet on a p-value in (0, 1]; at least -0.69."""
    t = -math.log(p_value)
    if t < 1e-4:
        return math.log(0.5 + t / 6.0)  # if the difference below would lose its digits
    return math.log((math.expm1(t) - t) / (t * t))


@allocation_free
def damped_bet(bet: float, streak: float, peak: float) -> float:
    """Damp a bet by the current streak, whose largest bet was *peak*. Only positive evidence is damped."""
    if bet <= 0.0:
        return bet
    fresh = max(bet - peak, 0.0)
    return fresh + (bet - fresh) * max(math.pow(DAMPING, streak), MIN_BET_WEIGHT)


@allocation_free
def extended_streak(streak: float, bet: float) -> float:
    """Return the streak after an event with this bet, before damping."""
    return streak + 1.0 if bet >= log_bet(STREAK_P_VALUE) else streak


@allocation_free
def decayed_streak(streak: float, elapsed_ms: float) -> float:
    """Return a streak, or its peak, after some time."""
    return streak * math.pow(0.5, elapsed_ms / STREAK_HALF_LIFE_MS)


@allocation_free
def _write_damped_bets(
    p_values: Any, agents: Any, time_ms: Any, streaks: Any, peaks: Any, last_ms: Any, bets: Any
) -> None:
    """Write the damped bets of a history in order; *streaks*, *peaks* and *last_ms* are per agent."""
    for row in range(len(bets)):
        agent = agents[row]
        elapsed = max(time_ms[row] - last_ms[agent], 0)
        streak, peak = decayed_streak(streaks[agent], elapsed), decayed_streak(peaks[agent], elapsed)
        bet = log_bet(p_values[row])
        bets[row] = damped_bet(bet, streak, peak)
        streaks[agent] = extended_streak(streak, bet)
        peaks[agent] = max(peak, bet)
        last_ms[agent] += elapsed


def damped_bets(p_values: Floats, agents: Ids, time_ms: Ints) -> Floats:
    """Return the evidence of each event of a history, natural log, shape (n,), as the risk kernel would have counted
    it."""
    distinct_agents, at = np.unique(agents, return_inverse=True)
    first = np.full(len(distinct_agents), time_ms.min() if len(time_ms) else 0, np.int64)
    streaks, peaks, bets = np.zeros(len(first)), np.zeros(len(first)), np.empty(len(p_values))
    _write_damped_bets(p_values, at, time_ms, streaks, peaks, first, bets)
    return bets


# Thresholds are read from the tail of the evidence that normal agents reach. The held-out p-values of a history, as
# bets, run through the same sum as live (`L = max(L, 0) + bet`), one sum an agent. What matters to an operator is the
# highest that an agent reaches in a day. An exponential is fitted to the largest of these agent-day maxima (peaks over
# threshold), so that a budget far below one alert in the history has an answer, too. Nothing is assumed about how
# events depend on each other: whatever dependence a day of an agent has is in its maximum.


MIN_AGENT_DAYS = 100
"""Number of agent-days below which a tail would be guesswork; thresholds then rest on the events' rate and exponent
alone."""

TAIL_SHARE, MIN_TAIL_MAXIMA = 0.1, 10
"""Number of the largest maxima to which the tail is fitted."""

ONE_SIDED_95 = 1.645
"""Number of standard errors that are added to the mean excess, because future days differ from history."""

ESTABLISHED_EVENTS = 200
"""Number of events that an agent must have before its sum counts here. The first days of a newcomer are unusual by
nature and would set the thresholds of all agents; newcomers therefore alarm more often than the budget allows. If a
history has too few days of other agents (agents that live for one task), all count from their first event on."""


class AlarmTail(NamedTuple):
    """The tail of the agent-day maxima of normal evidence beyond a level."""

    start: float  # natural log; below it lie all but `share` of the agent-days
    # mean excess over `start`, natural log, at the upper end of its uncertainty. It is taken from the median, so that a
    # few wild days of the history do not set the thresholds of all.
    scale: float
    share: float  # in (0, 1], agent-days above `start`
    days: int  # agent-days of the history; fewer than MIN_AGENT_DAYS make the tail unusable
    # they followed what had been learned, as future days do. Days held out at random are among known ones and have
    # less evidence.
    rehearsed: bool = False

    @staticmethod
    def empty() -> AlarmTail:
        """Return the tail of no agent-days."""
        return AlarmTail(0.0, 0.0, 1.0, 0)

    @property
    def usable(self) -> bool:
        """True if there were enough agent-days."""
        return self.days >= MIN_AGENT_DAYS

    def level_for_share(self, allowed: float) -> float:
        """Return the evidence (natural log) that a share *allowed* of agent-days reaches."""
        return self.start + self.scale * max(math.log(self.share / allowed), 0.0)


def fit_alarm_tail(bets: Floats, agents: Ids, time_ms: Ints) -> AlarmTail:
    """Fit the tail of agent-day maxima.

    Args:
        bets: float64 (n,), damped log bets on held-out p-values, in order.
        agents, time_ms: of each event.
    """
    keys, slots = np.unique(agents, return_inverse=True)
    tail = AlarmTail.empty()
    for established in (ESTABLISHED_EVENTS, 0):
        maxima = np.empty(len(bets) + len(keys))
        days = _daily_maxima(
            bets,
            slots,
            time_ms // DAY_MS,
            established,
            np.zeros(len(keys)),
            np.zeros(len(keys), np.int64),
            np.zeros(len(keys), np.int64),
            np.full(len(keys), -1.0),
            maxima,
        )
        tail = fit_tail_of_maxima(maxima[:days])
        if tail.usable:
            break
    return tail


def fit_tail_of_maxima(maxima: Floats) -> AlarmTail:
    """Fit the tail of the highest evidence of each agent-day, shape (d,), at least 0."""
    reached = np.sort(maxima)
    largest = max(math.ceil(TAIL_SHARE * len(reached)), MIN_TAIL_MAXIMA)
    if len(reached) <= largest:
        return AlarmTail.empty()
    start = float(reached[-largest - 1])
    excess = float(np.median(reached[-largest:]) - start) / math.log(2.0) * (1.0 + ONE_SIDED_95 / math.sqrt(largest))
    return AlarmTail(start, excess, largest / len(reached), len(reached))


@allocation_free
def _daily_maxima(
    bets: Any, slots: Any, days: Any, established: int, sums: Any, seen: Any, day: Any, highest: Any, maxima: Any
) -> int:
    """Write the highest sum of each agent on each day on which it was known into *maxima*; return their number.

    *sums*, *seen*, *day* and *highest* are per agent: its sum, its events, its present day and the highest sum of that
    day, below 0 if there is none.
    """
    count = 0
    for row in range(len(bets)):
        slot = slots[row]
        seen[slot] += 1
        if seen[slot] <= established:
            continue
        if days[row] > day[slot]:
            if highest[slot] >= 0.0:
                maxima[count] = highest[slot]
                count += 1
            day[slot], highest[slot] = days[row], 0.0
        sums[slot] = max(sums[slot], 0.0) + bets[row]
        highest[slot] = max(highest[slot], sums[slot], 0.0)
    for slot in range(len(highest)):
        if highest[slot] >= 0.0:
            maxima[count] = highest[slot]
            count += 1
    return count


# An anomalous event is learned one time in so many. Always would make an attacker's target known after its first use,
# and never would leave honest change anomalous forever. Training calibrates under the same rule, so that p-values hold
# for what is live.

ANOMALOUS_P_VALUE = 0.05
"""p-value up to which an event is anomalous."""

LEARNED_ONE_IN = np.uint64(8)
"""Number of anomalous events of which one is learned."""

MIN_LEARNED_EVENTS = 3
"""Number of events that an agent must have taught before its anomalous events are drawn: the first events of a new
agent are unusual by nature (its key, its targets), and if only one in eight were learned, the agent would be critical
before its habits are known."""

LEARN_NOTHING, LEARN_ALL, LEARN_CREDENTIAL = 0, 1, 2
"""Parts of an event to learn (see `ingest.features.feature_kernel.learn`)."""


def learnable_parts(
    columns: EventColumns,
    rows: Ints,
    p_values: Floats,
    taught: npt.NDArray[np.float32] | Ints,
    drawn_for: Ids | None = None,
) -> npt.NDArray[np.uint8]:
    """Return the parts of each of *rows* that may be learned, given its anomalies.

    The key that an authorization server announces for a client is not a habit to be doubted; other items of an
    anomalous announcement are doubted as in any event. The draw follows from agent and time: a replay makes the same.

    Args:
        rows: (m,), rows of the batch.
        p_values: (n,), in (0, 1], per row of the batch.
        taught: (m,), events that each row's agent has taught before.
        drawn_for: (m,), what the draw takes for the agent of each row, a hash of its name by default. Training gives
            numbers in the order of appearance: what agents are called then changes nothing.

    Returns:
        uint8 (m,): NOTHING, ALL or CREDENTIAL.

    Raises:
        WrongShape: *taught* or *drawn_for* is not (m,).
    """
    agents = columns.names[rows, event_columns.AGENT_DRAW] if drawn_for is None else drawn_for
    if taught.shape != rows.shape or agents.shape != rows.shape:  # the kernel reads them unasked
        raise WrongShape(f"{rows.shape} rows, but taught of shape {taught.shape}, agents of shape {agents.shape}")
    types, parts = columns.codes[rows, event_columns.TYPE], np.empty(len(rows), np.uint8)
    _write_parts(agents, columns.time_ms[rows], types, taught, p_values[rows], parts)
    return parts


@inlined
def announced_part(event_type: int) -> int:
    """Return the part that is learned of an event type that is always learned: LEARN_CREDENTIAL or LEARN_NOTHING.

    That a key was announced is a fact, not behavior. An agent under suspicion, of which nothing else is learned, would
    otherwise be reported to use a key that "was never registered", in each of its events.
    """
    if event_type == event_columns.CLIENT_CHANGE or event_type == event_columns.CLIENT_REGISTER:
        return LEARN_CREDENTIAL
    return LEARN_NOTHING


@inlined
def learnable_part(agent: np.uint64, at_ms: int, event_type: int, taught: float, p_value: float) -> int:
    """Return the part of one event that may be learned. Arguments are as for `learnable_parts`."""
    if taught < MIN_LEARNED_EVENTS or p_value > ANOMALOUS_P_VALUE or is_drawn(agent, at_ms):
        return LEARN_ALL
    return announced_part(event_type)


@inlined
def is_drawn(agent: np.uint64, at_ms: int) -> bool:
    """Draw one in so many of an agent's events by their times in UTC milliseconds, practically at random.

    Splitmix64: a product alone would draw every fifth event of an agent with a steady rhythm, or none of 150.
    """
    mixed = agent * np.uint64(0x9E3779B97F4A7C15) + np.uint64(at_ms)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bool((mixed ^ (mixed >> np.uint64(31))) % LEARNED_ONE_IN == 0)


@allocation_free
def _write_parts(
    agents: Ids,
    time_ms: Ints,
    types: npt.NDArray[np.int8],
    taught: npt.NDArray[np.float32] | Ints,
    p_values: Floats,
    parts: npt.NDArray[np.uint8],
) -> None:
    for row in range(len(parts)):
        parts[row] = learnable_part(agents[row], time_ms[row], types[row], taught[row], p_values[row])
