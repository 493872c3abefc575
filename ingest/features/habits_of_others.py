"""Kernel of `habits_of_others`: whether a session is more like the agent's peers than like the agent itself.

Who uses a stolen identity for ordinary things of others shows in no single event. So each action and target is compared
with how often the agent itself has it in the model's history, and how often the others of its peer group have it; the
mean over a session tells. What the agent has learned since is its own, too, which of odd events is one in eight.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .. import columns as event_columns
from ..columns import EventColumns
from ..compilation import compiled, inlined, inlined_and_callable
from . import layout
from .frequency_tables import count_key, distinct_hash, hash_pair, item_hash, mix_pairs, own_count, shared_count
from .layout import Array, Baseline

COMPARED_KINDS = np.array([layout.K_ACTION, layout.K_TARGET])
"""Kinds of items that are compared: what is done, and to what. Who, whence and how often differ between any two."""
LEAST_ITEMS = 100.0
"""Items of a kind that the history must have of an agent, and of its peers, before they are compared."""
MOST_BITS = 4.0
"""Most that one item says for either side: a single odd name is no habit."""
NEW_TO_PEERS = 1e-3
"""Probability that peers have an item behind all that they are known for."""
BEFORE_A_HABIT = 2.0
"""Uses that the agent learned since the model's history and that are no habit yet: those of a single job."""
MEMORY = 16.0
"""Events that a session's mean remembers: one that runs for days still shows when it changes hands."""
PRIOR_EVENTS = 2.0
"""Events without any difference that a session begins with."""
NOTHING_KNOWN, AS_USUAL = 0.0, 1.0
"""Values of the feature: nothing is compared; the agent's own habits explain the session as well as those of others, or
better. Above that, the bits by which others explain it better."""
_MOST_VALUE = 64.0


@inlined_and_callable
def own_scope(agent: np.uint64) -> np.uint64:
    """Key under which a shared baseline counts what one agent did."""
    return hash_pair(np.uint64(14), agent)


@inlined
def total_item(kind: int) -> np.uint64:
    """Key under which a shared baseline counts all items of a kind that one agent had."""
    return item_hash(kind, np.uint64(0))


@inlined
def different_items(kind: int) -> np.uint64:
    """Key under which a shared baseline counts the different ones among them."""
    return distinct_hash(kind, np.uint64(0))


@inlined_and_callable
def item_bits(
    own: float, own_total: float, own_distinct: float, peers: float, peers_total: float, peers_distinct: float
) -> float:
    """Bits by which peers explain an item better than the agent itself; negative where the agent does.

    Each side: how often it has the item, all items of the kind, and the different ones among them. The agent's side
    takes what it has never had from its peers (Witten-Bell), so a name that is new to both says how rare new names are.
    """
    p_peers = (peers + (peers_distinct + 1.0) * NEW_TO_PEERS) / (peers_total + peers_distinct + 1.0)
    p_own = (own + (own_distinct + 1.0) * p_peers) / (own_total + own_distinct + 1.0)
    return float(min(max(math.log2(p_peers / p_own), -MOST_BITS), MOST_BITS))


@inlined
def others_distinct(all_distinct: float, all_total: float, own_distinct: float, own_total: float) -> float:
    """Different items that the others of a group have: at least their share of events has as many of them."""
    return max(all_distinct - own_distinct, all_distinct * (all_total - own_total) / all_total)


@inlined
def add_to_session(session: Array, bits: float) -> float:
    """Add an event's bits to its session's mean; returns the value of the feature."""
    compared = np.float64(session[layout.S_COMPARED]) + 1.0
    mean = np.float64(session[layout.S_LIKENESS])
    mean += (bits - mean) / min(compared, MEMORY)
    session[layout.S_COMPARED], session[layout.S_LIKENESS] = np.float32(compared), np.float32(mean)
    return float(min(AS_USUAL + max(mean * compared / (compared + PRIOR_EVENTS), 0.0), _MOST_VALUE))


@inlined_and_callable
def _compared_counts(
    baseline: Baseline, rows: Array, scopes: Array, scope: np.uint64, kind: int, item: np.uint64
) -> tuple[float, float, float, float, float, float]:
    """Arguments of `item_bits` for an item; all 0 where the history has too little of either side."""
    group = rows[layout.PEERS]
    if item == 0 or group < 0:
        return 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    in_group, total = np.float64(baseline.totals[group, kind, 0]), shared_count(baseline, scope, total_item(kind))
    if total < LEAST_ITEMS or in_group - total < LEAST_ITEMS:
        return 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    distinct, own = shared_count(baseline, scope, different_items(kind)), shared_count(baseline, scope, item)
    peers = max(shared_count(baseline, scopes[layout.PEERS], item) - own, 0.0)
    others = others_distinct(np.float64(baseline.totals[group, kind, 1]), in_group, distinct, total)
    return own, total, distinct, peers, in_group - total, others


@inlined
def habits_of_others(
    baseline: Baseline, rows: Array, scopes: Array, agent: np.uint64, items: Array, table: Array, session: Array
) -> float:
    """Value of the feature of an event, whose session moves on.

    Args:
        rows, scopes: rows and keys of the event's scopes in the baseline.
        agent: whose event it is, `columns.AGENT_DRAW`.
        items: of the event, by kind.
        table: of the agent.
        session: numbers of the session.
    """
    scope, bits, compared = own_scope(agent), 0.0, False
    for kind in COMPARED_KINDS:
        own, total, distinct, peers, peers_total, others = _compared_counts(
            baseline, rows, scopes, scope, kind, items[kind]
        )
        if total > 0.0:
            own = min(max(own, own_count(table, kind, items[kind]) - BEFORE_A_HABIT), total)
            bits += item_bits(own, total, distinct, peers, peers_total, others)
            compared = True
    return add_to_session(session, bits) if compared else NOTHING_KNOWN


class CountedHabit(NamedTuple):
    """Item of an event that tells most for the peers of its agent, as the model's history has counted it.

    Attributes:
        kind: of the item.
        own, own_total: how often the agent has it, and all items of the kind.
        group, group_total: the same of its peer group, itself included where it was in that.
    """

    kind: int
    own: int
    own_total: int
    group: int
    group_total: int


def telling_habit(
    baseline: Baseline, rows: Array, scopes: Array, agent: np.uint64, items: Array
) -> CountedHabit | None:
    """Item of an event that tells most for the peers; None where nothing is compared. Arguments as for the feature."""
    scope, habits = np.uint64(own_scope(agent)), []  # called from Python, a kernel gives an int
    for kind in COMPARED_KINDS.tolist():
        counts = _compared_counts(baseline, rows, scopes, scope, kind, items[kind])
        if counts[1] > 0.0:
            group = shared_count(baseline, scopes[layout.PEERS], items[kind])
            in_group = float(baseline.totals[rows[layout.PEERS], kind, 0])
            counts_of_habit = (round(count) for count in (counts[0], counts[1], group, in_group))
            habits.append((item_bits(*counts), CountedHabit(kind, *counts_of_habit)))
    return max(habits)[1] if habits else None


@compiled
def count_own_items(baseline: Baseline, rows: Array, agents: Array, items: Array, used: int, room: int) -> int:
    """Count what each agent did, the newest of *rows* first; returns how many rows were counted before the *room* ended
    beside *used* places."""
    for counted in range(len(rows)):
        row = rows[len(rows) - 1 - counted]
        if used > room - 3 * len(COMPARED_KINDS):
            return counted
        scope = own_scope(agents[row])
        for kind in COMPARED_KINDS:
            if items[row, kind] == 0:
                continue
            used += int(count_key(baseline.keys, baseline.counts, hash_pair(scope, total_item(kind))))
            if count_key(baseline.keys, baseline.counts, hash_pair(scope, items[row, kind])):
                used += 1 + int(count_key(baseline.keys, baseline.counts, hash_pair(scope, different_items(kind))))
    return len(rows)


def habits_in_history(columns: EventColumns, items: Array, sessions: Array) -> Array:
    """Values of the feature (n,) of the events of a history, as they would have been had each session been live.

    An agent's own side is what it did before, in other sessions; the others' is the whole of their history.

    Args:
        items: uint64 (n, KINDS).
        sessions: uint64 (n,), number of each event's session.
    """
    agents, groups = columns.names[:, event_columns.AGENT], columns.names[:, event_columns.GROUP]
    bits, compared = np.zeros(len(columns)), np.zeros(len(columns), np.bool_)
    for kind in COMPARED_KINDS.tolist():
        rows = np.flatnonzero(items[:, kind])
        if len(rows):
            _add_item_bits(bits, compared, rows, items[rows, kind], agents[rows], groups[rows], sessions[rows])
    compared &= columns.codes[:, event_columns.SELF_ASSERTED] == 0
    number = np.unique(sessions, return_inverse=True)[1]
    values = np.zeros(len(columns))
    _walk_sessions(values, bits, compared, number, np.zeros((int(number.max(initial=0)) + 1, layout.SESSION_NUMBERS)))
    return values


def _add_item_bits(
    bits: Array, compared: Array, rows: Array, items: Array, agents: Array, groups: Array, sessions: Array
) -> None:
    """Add the bits of one kind's items to those of their *rows*; all but *bits* and *compared* are of these rows."""
    agent_items, group_items = mix_pairs(agents, items), mix_pairs(groups, items)
    new = (_occurrences_before(agent_items) == 0).astype(np.int64)
    own = _occurrences_before(agent_items) - _occurrences_before(mix_pairs(sessions, items))
    total = _occurrences_before(agents) - _occurrences_before(sessions)
    distinct = _sums_before(agents, new) - _sums_before(sessions, new)
    in_group, in_agent = _counts(groups), _counts(agents)
    in_group_distinct, in_agent_distinct = _sums(groups, _occurrences_before(group_items) == 0), _sums(agents, new)
    peers = _counts(group_items) - _counts(agent_items)
    fit = (total >= LEAST_ITEMS) & (in_group - in_agent >= LEAST_ITEMS)
    _write_bits(
        bits,
        rows[fit],
        own[fit],
        total[fit],
        distinct[fit],
        peers[fit],
        in_group[fit],
        in_agent[fit],
        in_group_distinct[fit],
        in_agent_distinct[fit],
    )
    compared[rows[fit]] = True


@compiled
def _write_bits(
    bits: Array,
    rows: Array,
    own: Array,
    total: Array,
    distinct: Array,
    peers: Array,
    in_group: Array,
    in_agent: Array,
    in_group_distinct: Array,
    in_agent_distinct: Array,
) -> None:
    for at in range(len(rows)):
        others = others_distinct(in_group_distinct[at], in_group[at], in_agent_distinct[at], in_agent[at])
        of_others = in_group[at] - in_agent[at]
        bits[rows[at]] += item_bits(own[at], total[at], distinct[at], peers[at], of_others, others)


@compiled
def _walk_sessions(values: Array, bits: Array, compared: Array, number: Array, sessions: Array) -> None:
    for row in range(len(values)):
        if compared[row]:
            values[row] = add_to_session(sessions[number[row]], bits[row])


def _counts(ids: Array) -> Array:
    """Number of times that each id (n,) occurs."""
    _, inverse, counts = np.unique(ids, return_inverse=True, return_counts=True)
    return np.asarray(counts[inverse])


def _sums(ids: Array, values: Array) -> Array:
    """Sum of the values (n,) of each id."""
    inverse = np.unique(ids, return_inverse=True)[1]
    return np.asarray(np.bincount(inverse, weights=values)[inverse])


def _sums_before(ids: Array, values: Array) -> Array:
    """Sum of the values (n,) that the same id has before each place."""
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    before = np.cumsum(values[order]) - values[order]
    first = np.r_[True, ordered[1:] != ordered[:-1]]
    sums = np.empty(len(ids), before.dtype)
    sums[order] = before - np.maximum.accumulate(np.where(first, before, 0))
    return sums


def _occurrences_before(ids: Array) -> Array:
    """Number of times that the same id occurs before each position (n,)."""
    return _sums_before(ids, np.ones(len(ids), np.int64))
