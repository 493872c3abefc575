"""Kernel of `habits_of_others`: whether a session is more like the agent's peers than like the agent itself.

No single event shows that a stolen identity is used for ordinary actions of others. So each action and target is
compared with how often the agent itself has it in the model's history, and how often its peers have it; the mean over a
session decides. What the agent has learned since counts as its own, too, including one in eight anomalous events.

An agent may have acted in several peer groups. Its own side is all of its history; its actions in a group are
subtracted from that group's counts.
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
"""Kinds of items that are compared: what is done, and to what. The caller, its origin and its pace differ between any
two agents."""
LEAST_ITEMS = 100.0
"""Number of items of a kind that the history must have of an agent, and of its peers, before they are compared."""
MOST_BITS = 4.0
"""Largest contribution of one item to either side: a single anomalous name is not a habit."""
NEW_TO_PEERS = 1e-3
"""Probability that peers have an item beyond all that they are known for."""
BEFORE_A_HABIT = 2.0
"""Number of uses, learned since the model's history, that are not a habit yet: those of a single job."""
MEMORY = 16.0
"""Number of events that a session's mean covers: a session that runs for days still shows when it changes hands."""
PRIOR_EVENTS = 2.0
"""Number of events without any difference with which a session begins."""
NOTHING_KNOWN, AS_USUAL = 0.0, 1.0
"""Values of the feature: nothing is compared; the agent's own habits explain the session as well as those of others, or
better. Above that, the bits by which others explain it better."""
_MOST_VALUE = 64.0


@inlined_and_callable
def own_scope(agent: np.uint64) -> np.uint64:
    """Return the key under which a shared baseline counts one agent's events."""
    return hash_pair(np.uint64(14), agent)


_EVENTS = np.uint64(15)
"""Salt of the keys under which a shared baseline counts the events of one agent, and those that it had in a peer
group."""


@inlined
def _scope_in_group(own: np.uint64, group: np.uint64) -> np.uint64:
    return hash_pair(own, group)


@inlined
def _part_in_group(baseline: Baseline, own: np.uint64, group: np.uint64) -> np.uint64:
    """Return the scope that counts an agent's part of a peer group: the agent's scope if it was in no other group.

    Models of 0.2 do not count agents by group: they take all of an agent's history for a part of any group.
    """
    scope = _scope_in_group(own, group)
    return own if shared_count(baseline, scope, _EVENTS) == shared_count(baseline, own, _EVENTS) else scope


@inlined
def share_in_group(baseline: Baseline, agent: np.uint64, group: np.uint64) -> float:
    """Return the share of an agent's history that it had in a peer group; 1 if the baseline does not count it."""
    own = own_scope(agent)
    total = shared_count(baseline, own, _EVENTS)
    return shared_count(baseline, _scope_in_group(own, group), _EVENTS) / total if total > 0.0 else 1.0


@inlined
def total_item(kind: int) -> np.uint64:
    """Return the key under which a shared baseline counts all items of a kind of one agent."""
    return item_hash(kind, np.uint64(0))


@inlined
def different_items(kind: int) -> np.uint64:
    """Return the key under which a shared baseline counts the different items among them."""
    return distinct_hash(kind, np.uint64(0))


@inlined_and_callable
def item_bits(
    own: float, own_total: float, own_distinct: float, peers: float, peers_total: float, peers_distinct: float
) -> float:
    """Return by how many bits peers explain an item better than the agent itself; negative if the agent explains it
    better.

    Each side: how often it has the item, all items of the kind, and the different ones among them. The agent's side
    takes what it has never had from its peers (Witten-Bell), so a name new to both shows how rare new names are.
    """
    p_peers = (peers + (peers_distinct + 1.0) * NEW_TO_PEERS) / (peers_total + peers_distinct + 1.0)
    p_own = (own + (own_distinct + 1.0) * p_peers) / (own_total + own_distinct + 1.0)
    return float(min(max(math.log2(p_peers / p_own), -MOST_BITS), MOST_BITS))


@inlined
def others_counts(
    group: float, group_total: float, group_distinct: float, part: float, part_total: float, part_distinct: float
) -> tuple[float, float, float]:
    """Return the counts of an item for the others of a group: those of the group without the agent's part.

    Others have at least their share of the different items. In models of 0.2 the part may exceed the group's count.
    """
    total = group_total - part_total
    return max(group - part, 0.0), total, max(group_distinct - part_distinct, group_distinct * total / group_total)


@inlined
def add_to_session(session: Array, bits: float) -> float:
    """Add an event's bits to its session's mean; return the value of the feature."""
    compared = np.float64(session[layout.S_COMPARED]) + 1.0
    mean = np.float64(session[layout.S_LIKENESS])
    mean += (bits - mean) / min(compared, MEMORY)
    session[layout.S_COMPARED], session[layout.S_LIKENESS] = np.float32(compared), np.float32(mean)
    return float(min(AS_USUAL + max(mean * compared / (compared + PRIOR_EVENTS), 0.0), _MOST_VALUE))


@inlined_and_callable
def _compared_counts(
    baseline: Baseline, rows: Array, scopes: Array, scope: np.uint64, kind: int, item: np.uint64
) -> tuple[float, float, float, float, float, float]:
    """Return the arguments of `item_bits` for an item; all 0 if the history has too little of either side."""
    group, peers = rows[layout.PEERS], scopes[layout.PEERS]
    if item == 0 or group < 0:
        return 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    in_group, total = np.float64(baseline.totals[group, kind, 0]), shared_count(baseline, scope, total_item(kind))
    part = _part_in_group(baseline, scope, peers)
    part_total = total if part == scope else shared_count(baseline, part, total_item(kind))
    if total < LEAST_ITEMS or in_group - part_total < LEAST_ITEMS:
        return 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    distinct, own = shared_count(baseline, scope, different_items(kind)), shared_count(baseline, scope, item)
    of_others, others_total, others_distinct = others_counts(
        shared_count(baseline, peers, item),
        in_group,
        np.float64(baseline.totals[group, kind, 1]),
        shared_count(baseline, part, item),
        part_total,
        shared_count(baseline, part, different_items(kind)),
    )
    return own, total, distinct, of_others, others_total, others_distinct


@inlined
def habits_of_others(
    baseline: Baseline, rows: Array, scopes: Array, agent: np.uint64, items: Array, table: Array, session: Array
) -> float:
    """Return the value of the feature for an event, and update its session."""
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
    """The item of an event that most supports its agent's peers, as the model's history has counted it.

    Attributes:
        kind: of the item.
        own, own_total: how often the agent has it, and all items of the kind.
        others: how often the others of its peer group have it.
        group, group_total: as `own` and `own_total` of its peer group, itself included if it was in that.
    """

    kind: int
    own: int
    own_total: int
    others: int
    group: int
    group_total: int


def telling_habit(
    baseline: Baseline, rows: Array, scopes: Array, agent: np.uint64, items: Array
) -> CountedHabit | None:
    """Return the item of an event that most supports the peers, or None if nothing is compared. Arguments are as for
    the feature."""
    scope, habits = np.uint64(own_scope(agent)), []  # called from Python, a kernel gives an int
    for kind in COMPARED_KINDS.tolist():
        counts = _compared_counts(baseline, rows, scopes, scope, kind, items[kind])
        if counts[1] > 0.0:
            group = shared_count(baseline, scopes[layout.PEERS], items[kind])
            in_group = float(baseline.totals[rows[layout.PEERS], kind, 0])
            counts_of_habit = (round(count) for count in (counts[0], counts[1], counts[3], group, in_group))
            habits.append((item_bits(*counts), CountedHabit(kind, *counts_of_habit)))
    return max(habits)[1] if habits else None


def count_own_items(
    baseline: Baseline, rows: Array, columns: EventColumns, groups: Array, items: Array, used: int, room: int
) -> int:
    """Count what each agent did, the newest of *rows* first, and in which peer group if it was in several.

    Args:
        groups: uint64 (n,), key of the scope of each row's peer group.
        items: uint64 (n, KINDS).
        used, room: places of the baseline that are taken, and those that there are.
    """
    agents = columns.names[:, event_columns.AGENT_DRAW]
    _, first = np.unique(mix_pairs(agents[rows], groups[rows]), return_index=True)
    acting, groups_of = np.unique(agents[rows][first], return_counts=True)
    moved = np.isin(agents, acting[groups_of > 1])
    return _count_own_items(baseline, rows, agents, groups, moved, items, used, room)


@compiled
def _count_own_items(
    baseline: Baseline, rows: Array, agents: Array, groups: Array, moved: Array, items: Array, used: int, room: int
) -> int:
    for counted in range(len(rows)):
        row = rows[len(rows) - 1 - counted]
        if used > room - 2 * (1 + 3 * len(COMPARED_KINDS)):
            return counted
        own = own_scope(agents[row])
        in_group = _scope_in_group(own, groups[row])
        used += int(count_key(baseline.keys, baseline.counts, hash_pair(own, _EVENTS)))
        used += int(count_key(baseline.keys, baseline.counts, hash_pair(in_group, _EVENTS)))
        used += _count_compared(baseline, own, items[row])
        if moved[row]:
            used += _count_compared(baseline, in_group, items[row])
    return len(rows)


@inlined
def _count_compared(baseline: Baseline, scope: np.uint64, items: Array) -> int:
    used = 0
    for kind in COMPARED_KINDS:
        if items[kind] == 0:
            continue
        used += int(count_key(baseline.keys, baseline.counts, hash_pair(scope, total_item(kind))))
        if count_key(baseline.keys, baseline.counts, hash_pair(scope, items[kind])):
            used += 1 + int(count_key(baseline.keys, baseline.counts, hash_pair(scope, different_items(kind))))
    return used


def habits_in_history(columns: EventColumns, items: Array, sessions: Array) -> Array:
    """Return the values of the feature (n,) for the events of a history, as if each session had been live.

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
    """Add the bits of one kind's items to those of their *rows*; all arguments but *bits* and *compared* are of these
    rows."""
    new = (_occurrences_before(mix_pairs(agents, items)) == 0).astype(np.int64)
    own = _occurrences_before(mix_pairs(agents, items)) - _occurrences_before(mix_pairs(sessions, items))
    total = _occurrences_before(agents) - _occurrences_before(sessions)
    distinct = _sums_before(agents, new) - _sums_before(sessions, new)
    group = _counts_elsewhere(groups, items, sessions)
    part = _counts_elsewhere(mix_pairs(groups, agents), items, sessions)
    fit = (total >= LEAST_ITEMS) & (group[:, 1] - part[:, 1] >= LEAST_ITEMS)
    own_side = np.stack([own, total, distinct], axis=1)
    _write_bits(bits, rows[fit], own_side[fit], group[fit], part[fit])
    compared[rows[fit]] = True


@compiled
def _write_bits(bits: Array, rows: Array, own: Array, group: Array, part: Array) -> None:
    for at in range(len(rows)):
        others, others_total, others_distinct = others_counts(
            group[at, 0], group[at, 1], group[at, 2], part[at, 0], part[at, 1], part[at, 2]
        )
        bits[rows[at]] += item_bits(own[at, 0], own[at, 1], own[at, 2], others, others_total, others_distinct)


@compiled
def _walk_sessions(values: Array, bits: Array, compared: Array, number: Array, sessions: Array) -> None:
    for row in range(len(values)):
        if compared[row]:
            values[row] = add_to_session(sessions[number[row]], bits[row])


def _counts_elsewhere(ids: Array, items: Array, sessions: Array) -> Array:
    """Return counts (n, 3) without each event's session: of its item under its id, of all items there, of different
    ones."""
    pairs, in_session = mix_pairs(ids, items), mix_pairs(sessions, ids)
    pairs_in_session = mix_pairs(sessions, pairs)
    count, here = _counts(pairs), _counts(pairs_in_session)
    new_here = (_occurrences_before(pairs_in_session) == 0) & (count == here)
    distinct = _sums(ids, _occurrences_before(pairs) == 0) - _sums(in_session, new_here)
    return np.stack([count - here, _counts(ids) - _counts(in_session), distinct], axis=1)


def _counts(ids: Array) -> Array:
    _, inverse, counts = np.unique(ids, return_inverse=True, return_counts=True)
    return np.asarray(counts[inverse])


def _sums(ids: Array, values: Array) -> Array:
    inverse = np.unique(ids, return_inverse=True)[1]
    return np.asarray(np.bincount(inverse, weights=values)[inverse])


def _sums_before(ids: Array, values: Array) -> Array:
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    before = np.cumsum(values[order]) - values[order]
    first = np.r_[True, ordered[1:] != ordered[:-1]]
    sums = np.empty(len(ids), before.dtype)
    sums[order] = before - np.maximum.accumulate(np.where(first, before, 0))
    return sums


def _occurrences_before(ids: Array) -> Array:
    return _sums_before(ids, np.ones(len(ids), np.int64))
