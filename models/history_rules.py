"""Rules for the other arrays of a model: baseline, agents of the history, peer groups, the tail of their alarms."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trustwatch.ingest.errors import ModelError
from trustwatch.ingest.features import layout
from trustwatch.ingest.features.baseline import MAX_ITEMS
from trustwatch.ingest.features.habits_of_others import COMPARED_KINDS, MOST_BITS

from .array_rules import (
    TRAINED_OTHERWISE,
    ArrayForm,
    ArrayRule,
    ascends,
    check_forms,
    check_that,
    check_values,
    forms_of,
    is_power_of_two,
    longest_run,
)
from .concerns import CONCERNS
from .trained_model import ODD_SHAPE

LONGEST_RUN: Final = 4096
"""Taken places in a row of a baseline's table. Half full, as they are made, 2^25 places have about a hundred."""
_LATEST_MS: Final = 253_402_300_800_000
"""The year 10000."""
_MOST: Final = 1e30
_LEAST: Final = -1e-3
"""Rounding may leave a mean or variance so far below 0."""

_SIZES: Final[Mapping[str, int]] = {
    "C": 2 * MAX_ITEMS,  # places of items
    "D": 2 * MAX_ITEMS,  # places of scopes
    "B": MAX_ITEMS,  # scopes
    "A": 1 << 24,  # agents
    "P": 1 << 20,  # peer groups
}

_STATE_RANGES: Final[Mapping[str, tuple[float | None, float | None]]] = {
    "numbers": (_LEAST, _MOST),
    "session_numbers": (-len(COMPARED_KINDS) * MOST_BITS, _MOST),
    "session_last": (-_LATEST_MS, _LATEST_MS),
    "disorder": (0.0, 1.0),
    "use_ms": (-_LATEST_MS, _LATEST_MS),
    "use_new": (0, 2),
}


_USES_OF_TOKENS: Final = ("use_token", "use_network", "use_ms", "use_new")


def _state_rules() -> dict[str, ArrayRule]:
    """Rules of the columns of the agents' states, as the kernel's layout has them."""
    rules = {}
    for name in layout.STATE_ROW.names or ():
        column = layout.STATE_ROW[name]
        low, high = _STATE_RANGES.get(name, (None, None))
        rules[name] = ArrayRule(column.base.type, ("A", *column.shape), low, high)
    return rules


HISTORY_RULES: Final[Mapping[str, Mapping[str, ArrayRule]]] = {
    "baseline": {
        "keys": ArrayRule(np.uint64, ("C",)),
        "counts": ArrayRule(np.float32, ("C",), 0.0, _MOST),
        "scope_keys": ArrayRule(np.uint64, ("D",)),
        "scope_rows": ArrayRule(np.int32, ("D",), -1),
        "totals": ArrayRule(np.float32, ("B", layout.KINDS, 2), 0.0, _MOST),
        "means": ArrayRule(np.float32, ("B", layout.QUANTITIES), _LEAST, _MOST),
        "variances": ArrayRule(np.float32, ("B", layout.QUANTITIES), _LEAST, _MOST),
        "numbers": ArrayRule(np.float32, ("B", layout.QUANTITIES), 0.0, _MOST),
    },
    "seeds": {
        "keys": ArrayRule(np.uint64, ("A",)),
        "checks": ArrayRule(np.uint64, ("A",)),
        "events": ArrayRule(np.int64, ("A",), 0, 2.0**53),
        "odd": ArrayRule(np.float32, ("A", *ODD_SHAPE), 0.0, _MOST),
        "rehearsed": ArrayRule(np.float32, ("A",), 0.0, _MOST),
        **_state_rules(),
    },
    "groups": {
        "ids": ArrayRule(np.uint64, ("P",)),
        "rates": ArrayRule(np.float64, ("P",), 0.0, 1e12),
        "events": ArrayRule(np.int64, ("P",), 0, 2.0**53),
        "exponent": ArrayRule(np.float64, (len(CONCERNS),), 1e-6, 1.0),
    },
    "alarms": {
        "start": ArrayRule(np.float64, (len(CONCERNS),), -1e9, 1e9),
        "scale": ArrayRule(np.float64, (len(CONCERNS),), 0.0, 1e9),
        "share": ArrayRule(np.float64, (len(CONCERNS),), 1e-12, 1.0),
        "days": ArrayRule(np.float64, (len(CONCERNS),), 0.0, 2.0**53),
        "rehearsed": ArrayRule(np.float64, (len(CONCERNS),), 0.0, 1.0),
    },
}


_ADDED_LATER: Final = {
    "seeds": frozenset({"known", "odd", "rehearsed", "disorder", "session_doubt", *_USES_OF_TOKENS}),
    "alarms": frozenset({"rehearsed"}),
}
"""Arrays by folder that models trained before have not; their reader knows what stands for them."""


def _rules_of(group: str, there: Collection[str]) -> dict[str, ArrayRule]:
    """Rules of a folder's arrays, without those that were added later and are not there."""
    later = _ADDED_LATER.get(group, frozenset())
    return {name: rule for name, rule in HISTORY_RULES[group].items() if name in there or name not in later}


def check_history_forms(groups: Mapping[str, Mapping[str, ArrayForm]]) -> None:
    """Check names, types and sizes of the arrays by group. Raises ModelError."""
    if groups.keys() != HISTORY_RULES.keys():
        missing, unknown = sorted(HISTORY_RULES.keys() - groups.keys()), sorted(groups.keys() - HISTORY_RULES.keys())
        raise ModelError(f"extras: folders missing {missing}, unknown {unknown}; {TRAINED_OTHERWISE}")
    for group in HISTORY_RULES:
        check_forms(f"extras/{group}", groups[group], _rules_of(group, groups[group]), _SIZES)


def check_history_arrays(groups: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
    """Check everything that the feature kernel and the engine take for granted. Raises ModelError."""
    check_history_forms({group: forms_of(arrays) for group, arrays in groups.items()})
    for group in HISTORY_RULES:
        check_values(f"extras/{group}", groups[group], _rules_of(group, groups[group]))
    _check_baseline(groups["baseline"])
    _check_seeds(groups["seeds"])
    ids = groups["groups"]["ids"]
    fine = len(ids) > 0 and int(ids[0]) == 0 and ascends(ids)
    check_that(fine, "extras/groups/ids", "expected ids that ascend from 0, the fleet")


def _check_baseline(arrays: Mapping[str, NDArray[Any]]) -> None:
    for name in ("keys", "scope_keys"):
        where, keys = f"extras/baseline/{name}", arrays[name]
        check_that(is_power_of_two(len(keys)), where, f"expected a power of two as size, found {len(keys)}")
        taken = int(np.count_nonzero(keys))
        check_that(taken <= len(keys) // 2, where, f"{taken} of {len(keys)} places are taken, more than half")
        run = longest_run(keys)
        check_that(run <= LONGEST_RUN, where, f"{run} taken places in a row; look-ups would take too long")
    rows, scopes = arrays["scope_rows"], len(arrays["totals"])
    named = rows[arrays["scope_keys"] != 0]
    fine = not len(named) or (named.min() >= 0 and named.max() < scopes)
    check_that(fine, "extras/baseline/scope_rows", f"a scope's row is none of the {scopes} there are")


def _check_seeds(arrays: Mapping[str, NDArray[Any]]) -> None:
    check_that(ascends(arrays["keys"]), "extras/seeds/keys", "keys of agents do not ascend")
    times = np.delete(arrays["times"], layout.T_VERSION, axis=1)  # that one is a hash
    fine = not times.size or (times.min() >= -_LATEST_MS and times.max() <= _LATEST_MS)
    check_that(fine, "extras/seeds/times", "a time is out of range")
