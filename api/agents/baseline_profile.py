"""The baseline of an agent, as far as its stored state holds it: how much it has learned, and what is usual.

State holds names only as hashes, so that it does not grow: how many actions are known, not which. Which ones it used
lately, the recent events say.
"""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

from trustwatch.ingest.described import member
from trustwatch.ingest.features import layout
from trustwatch.ingest.features.earlier_layout import read_state_rows
from trustwatch.ingest.features.feature_table import ITEMS, QUANTITIES
from trustwatch.ingest.features.frequency_tables import different_items_known
from trustwatch.ingest.features.missing_evidence import (
    is_latest_unvouched,
    unordered_sessions,
    used_sessions,
    was_never_vouched,
)
from trustwatch.scoring.records.agents import AgentRow

_FIRST = (layout.Q_PACE_15M, layout.Q_PACE_4H, layout.Q_GAP, layout.Q_SESSION)
"""Quantities that say most of what an agent is like; the others follow in their order."""

DISTINCT_COUNT_LABELS = {kind: item.profile for kind, item in sorted(ITEMS.items()) if item.profile}
QUANTITY_LABELS = {
    q: shown for q in (*_FIRST, *sorted(set(QUANTITIES) - set(_FIRST))) if (shown := QUANTITIES[q].profile) is not None
}

_ADVICE = "where only your own programs write that source, a mapping can say so (reference/sources.md)"
"""The way to have events that no token vouches for learned."""


class UsualRange(NamedTuple):
    """A quantity: its mean and the band of one standard deviation."""

    name: Annotated[str, member("the figure", "time between events")]
    unit: Annotated[str, member("its unit; empty if it has none", "s")]
    mean: Annotated[float, member("its mean", 20.0)]
    low: Annotated[float, member("one standard deviation below the mean", 12.0)]
    high: Annotated[float, member("one standard deviation above the mean", 33.0)]


class DistinctCount(NamedTuple):
    """Different names of a kind that an agent has learned; *complete* is false where there may be more."""

    name: Annotated[str, member("kind of name", "destinations")]
    number: Annotated[int, member("different ones that are known", 12)]
    complete: Annotated[bool, member("false: there may be more than are counted")]


class BaselineProfile(NamedTuple):
    """Usual behaviour of an agent, read from its state; *notes* say in sentences what is not judged or learned."""

    learned: Annotated[
        int,
        member(
            "events that were learned, with those of the model's history; null: nothing is stored yet, or another "
            "version of Trustwatch wrote it",
            4210,
        ),
    ]
    distinct_counts: Annotated[list[DistinctCount], member("kinds of names of which the agent has learned some")]
    usual: Annotated[list[UsualRange], member("figures that the agent has shown")]
    notes: Annotated[list[str], member("what is not judged or learned of it, and why", ["order is not judged"])]


def read_baseline_profile(row: AgentRow | None) -> BaselineProfile | None:
    """The profile in a stored row; None where there is none, or it is of another layout."""
    if row is None or not row.features:
        return None
    state = read_state_rows([row.features])
    if state is None:
        return None
    numbers = state[0]["numbers"]
    learned = int(numbers[layout.N_EVENTS])
    return BaselineProfile(learned, _distinct_counts(state[0]["known"]), _usual_ranges(numbers), _notes(state[0]))


def _notes(state: layout.Array) -> list[str]:
    notes = []
    row = state[None]
    if unordered := int(unordered_sessions(row["disorder"], row["session_last"], row["session_doubt"])[0]):
        notes.append(
            "more than a tenth of its recent work came out of order: order is not judged in "
            f"{unordered} of its {used_sessions(state)} latest sessions (docs/detection.md#late-events)"
        )
    if was_never_vouched(state):
        notes.append(f"no token vouches for any event of it: nothing is learned, and what it does stays new; {_ADVICE}")
    elif is_latest_unvouched(state):
        notes.append(f"no token vouches for its latest events: nothing is learned of them, they stay new; {_ADVICE}")
    return notes


def _distinct_counts(known: layout.Array) -> list[DistinctCount]:
    """Counts by kind of item, without the kinds of which the agent has learned none."""
    counts = ((name, different_items_known(known, kind)) for kind, name in DISTINCT_COUNT_LABELS.items())
    return [DistinctCount(name, *count) for name, count in counts if count is not None and count[0]]


def _usual_ranges(numbers: layout.Array) -> list[UsualRange]:
    ranges = []
    for quantity, (name, unit) in QUANTITY_LABELS.items():
        if not numbers[layout.N_COUNT + quantity]:
            continue
        mean = float(numbers[layout.N_MEAN + quantity])
        spread = math.sqrt(max(float(numbers[layout.N_VAR + quantity]), 0.0))
        low, high = max(0.0, math.expm1(mean - spread)), math.expm1(mean + spread)
        ranges.append(UsualRange(name, unit, max(0.0, math.expm1(mean)), low, high))
    return ranges
