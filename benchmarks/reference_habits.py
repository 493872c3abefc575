"""`habits_of_others` in plain Python: exact counts of a history by agent and by peer group."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

Item = tuple[Any, ...]

COMPARED_KINDS = ("action", "target")
LEAST_ITEMS = 100
MOST_BITS = 4.0
NEW_TO_PEERS = 1e-3
BEFORE_A_HABIT = 2
MEMORY = 16
PRIOR_EVENTS = 2


class CountedItems(Protocol):
    """What a history counts of an agent or of a peer group: each item, and by kind all and the different ones."""

    counts: dict[Item, int]
    seen: dict[str, float]
    distinct: dict[str, float]


class SessionHabits:
    """Mean of what a session's events say for the peers of its agent, in bits."""

    __slots__ = ("compared", "mean")

    def __init__(self) -> None:
        self.compared, self.mean = 0, 0.0

    def add(
        self,
        items: Mapping[str, Item],
        learned: Mapping[Item, int],
        own: CountedItems | None,
        part: CountedItems | None,
        group: CountedItems | None,
    ) -> float:
        """Add an event, given its items by kind and what its agent has learned; returns the value of the feature.

        The history counts what the agent did (*own*), the *part* of it in the peer group, and all of the *group*.
        """
        said = [_bits(kind, items[kind], learned, own, part, group) for kind in COMPARED_KINDS if kind in items]
        told = [bits for bits in said if bits is not None]
        if not told:
            return 0.0
        self.compared += 1
        self.mean += (sum(told) - self.mean) / min(self.compared, MEMORY)
        return 1.0 + max(self.mean * self.compared / (self.compared + PRIOR_EVENTS), 0.0)


def _bits(
    kind: str,
    item: Item,
    learned: Mapping[Item, int],
    own: CountedItems | None,
    part: CountedItems | None,
    group: CountedItems | None,
) -> float | None:
    """Bits by which the others of the group explain an item better than the agent; None where too little is known."""
    if own is None or group is None:
        return None
    total, in_group = own.seen.get(kind, 0), group.seen.get(kind, 0)
    others_total = in_group - (part.seen.get(kind, 0) if part else 0)
    if total < LEAST_ITEMS or others_total < LEAST_ITEMS:
        return None
    mine, distinct, all_distinct = own.counts.get(item, 0), own.distinct[kind], group.distinct[kind]
    others = group.counts.get(item, 0) - (part.counts.get(item, 0) if part else 0)
    others_distinct = all_distinct - (part.distinct.get(kind, 0) if part else 0)
    others_distinct = max(others_distinct, all_distinct * others_total / in_group)
    p_others = (others + (others_distinct + 1) * NEW_TO_PEERS) / (others_total + others_distinct + 1)
    known = min(max(mine, learned.get(item, 0) - BEFORE_A_HABIT), total)
    p_own = (known + (distinct + 1) * p_others) / (total + distinct + 1)
    return min(max(math.log2(p_others / p_own), -MOST_BITS), MOST_BITS)
