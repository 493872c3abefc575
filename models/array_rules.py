"""Rules for the arrays of a model: type, sizes and range of each, and what compiled code assumes.

Compiled code checks no bounds: an index out of range is a crash, a table without a free slot is an endless search, and
a NaN is an event that cannot be scored. An attacker who can write a model's directory can recompute its digests, so
nothing is trusted unchecked: types and sizes from the manifest, before anything is allocated, and the contents when
they are loaded. Every message names the array and what is wrong with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trustwatch.ingest.errors import ModelError
from trustwatch.ingest.features import layout
from trustwatch.ingest.features.baseline import MAX_ITEMS
from trustwatch.ingest.features.habits_of_others import COMPARED_KINDS, MOST_BITS

from .calibration import FLEET_GROUP
from .concerns import CONCERNS, FeatureRoles
from .evidence_combination import SURPRISE_CAP
from .input_checks import Ids
from .trained_model import ODD_SHAPE

ADVICE: Final = "the model was damaged or made by hand: copy it again or train it again"
TRAINED_OTHERWISE: Final = "train the model again"


class ArrayRule(NamedTuple):
    """Rules that an array of a model must meet."""

    dtype: type[np.generic]  # exactly that type
    shape: tuple[int | str, ...]  # a number, or a letter whose size is the same wherever it occurs; "K1" is K + 1
    # low, high: range of the values, both included; None = any value of the type, but never NaN
    low: float | None = None
    high: float | None = None
    ends: bool = False  # +inf is a value, too


class ArrayForm(NamedTuple):
    """Type and shape of an array, as stated by a manifest or by the array itself."""

    dtype: str
    shape: tuple[int, ...]


def forms_of(arrays: Mapping[str, NDArray[Any]]) -> dict[str, ArrayForm]:
    """Return the forms of the arrays that exist."""
    return {name: ArrayForm(array.dtype.str, array.shape) for name, array in arrays.items()}


def check_forms(
    group: str, forms: Mapping[str, ArrayForm], rules: Mapping[str, ArrayRule], most: Mapping[str, int]
) -> dict[str, int]:
    """Compare names, types and shapes with *rules*.

    Raises:
        ModelError: names the first array that does not fit.
    """
    if forms.keys() != rules.keys():
        missing, unknown = sorted(rules.keys() - forms.keys()), sorted(forms.keys() - rules.keys())
        raise ModelError(f"{group}: arrays missing {missing}, unknown {unknown}; {TRAINED_OTHERWISE}")
    sizes: dict[str, int] = {}
    for name, rule in rules.items():
        form = forms[name]
        if form.dtype != np.dtype(rule.dtype).str or len(form.shape) != len(rule.shape):
            expected = f"expected {np.dtype(rule.dtype)} with {len(rule.shape)} dimensions"
            raise wrong_array(f"{group}/{name}", f"{expected}, found {np.dtype(form.dtype)} {form.shape}")
        for rule_size, size in zip(rule.shape, form.shape, strict=True):
            _check_size(f"{group}/{name}", rule_size, size, sizes, most)
    return sizes


def _check_size(where: str, rule_size: int | str, size: int, sizes: dict[str, int], most: Mapping[str, int]) -> None:
    if isinstance(rule_size, int):
        expected = rule_size
    else:
        more = int(len(rule_size) == 2)
        expected = sizes.setdefault(rule_size[0], size - more) + more
        bound = most[rule_size[0]]
        if not 0 <= sizes[rule_size[0]] <= bound:
            raise wrong_array(where, f"expected a size of at most {bound + more}, found {size}")
    if size != expected:
        raise wrong_array(where, f"expected a size of {expected}, found {size}")


def check_values(group: str, arrays: Mapping[str, NDArray[Any]], rules: Mapping[str, ArrayRule]) -> None:
    """Check all values against *rules*, after names, types and shapes. Raises ModelError."""
    for name, rule in rules.items():
        array = arrays[name]
        if not array.size:
            continue
        if array.dtype.kind == "f":
            check_that(not np.isnan(array).any(), f"{group}/{name}", "a value is NaN")
            allowed = np.isfinite(array) | (array == np.inf) if rule.ends else np.isfinite(array)
            check_that(allowed.all(), f"{group}/{name}", "a value is infinite")
        low, high = array.min(), array.max()
        if rule.low is not None and low < rule.low:
            raise wrong_array(f"{group}/{name}", f"expected values of at least {rule.low:g}, found {low}")
        if rule.high is not None and high > rule.high and not (rule.ends and high == np.inf):
            raise wrong_array(f"{group}/{name}", f"expected values of at most {rule.high:g}, found {high}")


def wrong_array(where: str, what: str) -> ModelError:
    """Return the error for one array; *where* is its path in the model without the suffix."""
    return ModelError(f"{where}.npy: {what}; {ADVICE}")


def check_that(fine: bool | np.bool_, where: str, what: Callable[[], str] | str) -> None:
    """Raise ModelError for the array at *where* unless *fine*."""
    if not fine:
        raise wrong_array(where, what if isinstance(what, str) else what())


def is_power_of_two(size: int) -> bool:
    return size >= 2 and size & (size - 1) == 0


def ascends(values: NDArray[Any]) -> bool:
    """Return whether each value is greater than the one before. Values are compared, since a difference could
    overflow."""
    return bool((values[1:] > values[:-1]).all())


def array_bytes(form: ArrayForm) -> int:
    """Return the size in bytes of an array of this form."""
    return np.dtype(form.dtype).itemsize * math.prod(form.shape)


GROUP: Final = "detector"
_LONGEST_PATH = 1e4
"""Path length that no tree reaches, including its leaf's share: twelve steps and the logarithm of 4,096 rows."""
_STEEPEST = 1e300
_DECADES = 1e6
_EXACT = 2.0**53

_DETECTOR_SIZES: Final[Mapping[str, int]] = {
    "T": 10_000,  # trees
    "S": 4096,  # slots of a tree
    "K": 4096,  # knots of a tail
    **dict.fromkeys("GHIJLPUVWXY", 1 << 20),  # peer groups
    **dict.fromkeys("ABCMNOQR", 1 << 27),  # held-out scores that are kept
}


def _scale_rules(name: str, groups: str) -> dict[str, ArrayRule]:
    return {
        f"{name}_groups": ArrayRule(np.uint64, (groups,)),
        f"{name}_location": ArrayRule(np.float64, (groups,), -_DECADES, _DECADES),
        f"{name}_scale": ArrayRule(np.float64, (groups,), 1e-9, _DECADES),
    }


def _calibration_rules(name: str, groups: str, values: str) -> dict[str, ArrayRule]:
    return {
        f"{name}_groups": ArrayRule(np.uint64, (groups,)),
        f"{name}_start": ArrayRule(np.int64, (f"{groups}1",)),
        f"{name}_sizes": ArrayRule(np.int64, (groups,), 1, _EXACT),
        f"{name}_values": ArrayRule(np.float64, (values,), 0.0, 1.0),
        f"{name}_above": ArrayRule(np.int64, (values,), 0, _EXACT),
    }


DETECTOR_RULES: Final[Mapping[str, ArrayRule]] = {
    "forest_features": ArrayRule(np.uint16, ("T", "S")),
    "forest_thresholds": ArrayRule(np.float32, ("T", "S"), ends=True),
    "forest_leaves": ArrayRule(np.float64, ("T", "S"), 0.0, _LONGEST_PATH),
    "forest_expected": ArrayRule(np.float64, ("T", "S"), 0.0, _LONGEST_PATH),
    "forest_normaliser": ArrayRule(np.float64, (), 0.0, 1e9),
    "tail_x": ArrayRule(np.float64, ("F", "K"), -_STEEPEST, _STEEPEST, ends=True),
    "tail_u": ArrayRule(np.float64, ("F", "K1"), 0.0, SURPRISE_CAP),
    "tail_rate": ArrayRule(np.float64, ("F", "K"), 0.0, _STEEPEST),
    "score_tail_x": ArrayRule(np.float64, (1, "K"), -_STEEPEST, _STEEPEST, ends=True),
    "score_tail_u": ArrayRule(np.float64, (1, "K1"), 0.0, SURPRISE_CAP),
    "score_tail_rate": ArrayRule(np.float64, (1, "K"), 0.0, _STEEPEST),
    **_scale_rules("scale", "P"),
    **_calibration_rules("calibration", "G", "M"),
    **_calibration_rules("familiar", "H", "N"),
    **_calibration_rules("compromise", "I", "O"),
    **_calibration_rules("malfunction", "J", "Q"),
    **_calibration_rules("overreach", "L", "R"),
    **_calibration_rules("familiar_compromise", "W", "A"),
    **_calibration_rules("familiar_malfunction", "X", "B"),
    **_calibration_rules("familiar_overreach", "Y", "C"),
    **_scale_rules("asked_compromise", "U"),
    **_scale_rules("asked_overreach", "V"),
    "importance": ArrayRule(np.float64, ("F",), 0.0, 1.0),
    **{f"role_{name}": ArrayRule(np.uint8, ("F",), 0, 1) for name in FeatureRoles._fields},
    "usual_median": ArrayRule(np.float64, ("F",), 0.0, SURPRISE_CAP),
    "usual_upper": ArrayRule(np.float64, ("F",), 0.0, SURPRISE_CAP),
}


def check_detector_forms(forms: Mapping[str, ArrayForm], features: int) -> None:
    """Check names, types and sizes of the arrays of a detector with this many features. Raises ModelError."""
    sizes = check_forms(GROUP, forms, DETECTOR_RULES, {**_DETECTOR_SIZES, "F": features})
    if sizes["F"] != features:
        raise wrong_array(f"{GROUP}/tail_x", f"expected a size of {features}, found {sizes['F']}")
    check_that(sizes["T"] > 0, f"{GROUP}/forest_features", "expected at least one tree")
    for letter, name in (("S", "forest_features"), ("K", "tail_x")):
        check_that(is_power_of_two(sizes[letter]), f"{GROUP}/{name}", f"expected a power of two, found {sizes[letter]}")


def check_detector_arrays(arrays: Mapping[str, NDArray[Any]], features: int) -> None:
    """Check everything that scoring assumes. Raises ModelError."""
    check_detector_forms(forms_of(arrays), features)
    check_values(GROUP, arrays, DETECTOR_RULES)
    used = int(arrays["forest_features"].max())
    check_that(used < features, f"{GROUP}/forest_features", f"feature {used} of a model with {features}")
    normaliser = float(arrays["forest_normaliser"])
    check_that(
        normaliser == 0.0 or normaliser >= 1e-3,
        f"{GROUP}/forest_normaliser",
        f"expected 0 or the sum of mean path lengths, found {normaliser}",
    )
    for tail in ("tail", "score_tail"):
        _check_tail(arrays, tail)
    _check_groups(arrays["scale_groups"], "scale_groups")
    for name in ("asked_compromise_groups", "asked_overreach_groups"):
        _check_groups(arrays[name], name)
    for name in ("calibration", *CONCERNS):
        _check_calibration(arrays, name)
    for name in ("familiar", *(f"familiar_{concern}" for concern in CONCERNS)):
        if len(arrays[f"{name}_groups"]):  # none: no history was long enough
            _check_calibration(arrays, name)
        else:
            _check_starts(arrays, name)


def _check_tail(arrays: Mapping[str, NDArray[Any]], tail: str) -> None:
    x, u = arrays[f"{tail}_x"], arrays[f"{tail}_u"]
    check_that(np.isfinite(x[:, 0]).all(), f"{GROUP}/{tail}_x", "the first knot of a feature is infinite")
    check_that((x[:, 1:] >= x[:, :-1]).all(), f"{GROUP}/{tail}_x", "knots of a feature do not ascend")
    check_that((u[:, 1:] >= u[:, :-1]).all(), f"{GROUP}/{tail}_u", "evidence of a feature falls from knot to knot")


def _check_groups(groups: Ids, name: str) -> None:
    fine = len(groups) > 0 and int(groups[0]) == FLEET_GROUP and ascends(groups)
    check_that(fine, f"{GROUP}/{name}", f"expected ids that ascend from {FLEET_GROUP}, the fleet")


def _check_starts(arrays: Mapping[str, NDArray[Any]], name: str) -> None:
    start, kept = arrays[f"{name}_start"], len(arrays[f"{name}_values"])
    fine = start[0] == 0 and start[-1] == kept and ascends(start)
    check_that(fine, f"{GROUP}/{name}_start", f"expected places that ascend from 0 to {kept}")


def _check_calibration(arrays: Mapping[str, NDArray[Any]], name: str) -> None:
    _check_groups(arrays[f"{name}_groups"], f"{name}_groups")
    _check_starts(arrays, name)
    values, above = arrays[f"{name}_values"], arrays[f"{name}_above"]
    start, sizes = arrays[f"{name}_start"], arrays[f"{name}_sizes"]
    inside = np.ones(max(len(values) - 1, 0), np.bool_)  # neighbors of one group
    inside[start[1:-1] - 1] = False
    check_that((values[1:] >= values[:-1])[inside].all(), f"{GROUP}/{name}_values", "scores of a group do not ascend")
    check_that((above[1:] <= above[:-1])[inside].all(), f"{GROUP}/{name}_above", "counts of a group do not fall")
    most = np.repeat(sizes, np.diff(start))
    check_that((above <= most).all(), f"{GROUP}/{name}_above", "more scores above one than the group has")


LONGEST_RUN: Final = 4096
"""Maximum run of occupied slots in a baseline's table. A table is half full when it is made; 2^25 slots then have a
longest run of about a hundred."""
_LATEST_MS: Final = 253_402_300_800_000
"""The year 10000."""
_MOST: Final = 1e30
_LEAST: Final = -1e-3
"""Minimum of a mean or variance: rounding may leave it slightly below 0."""

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
        **{
            name: ArrayRule(column.base.type, ("A", *column.shape), *_STATE_RANGES.get(name, (None, None)))
            for name, column in ((name, layout.STATE_ROW[name]) for name in layout.STATE_ROW.names or ())
        },
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
    "seeds": frozenset(
        {"known", "odd", "rehearsed", "disorder", "session_doubt", "use_token", "use_network", "use_ms", "use_new"}
    ),
    "alarms": frozenset({"rehearsed"}),
}
"""Arrays by folder that models trained before may lack; their reader supplies defaults."""


def _rules_of(group: str, there: Collection[str]) -> dict[str, ArrayRule]:
    """Return the rules for a folder's arrays, without missing arrays that were added in a later version."""
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
    """Check everything that the feature kernel and the engine assume. Raises ModelError."""
    check_history_forms({group: forms_of(arrays) for group, arrays in groups.items()})
    for group in HISTORY_RULES:
        check_values(f"extras/{group}", groups[group], _rules_of(group, groups[group]))
    _check_baseline(groups["baseline"])
    seeds = groups["seeds"]
    check_that(ascends(seeds["keys"]), "extras/seeds/keys", "keys of agents do not ascend")
    times = np.delete(seeds["times"], layout.T_VERSION, axis=1)  # that one is a hash
    fine = not times.size or (times.min() >= -_LATEST_MS and times.max() <= _LATEST_MS)
    check_that(fine, "extras/seeds/times", "a time is out of range")
    ids = groups["groups"]["ids"]
    fine = len(ids) > 0 and int(ids[0]) == 0 and ascends(ids)
    check_that(fine, "extras/groups/ids", "expected ids that ascend from 0, the fleet")


def _check_baseline(arrays: Mapping[str, NDArray[Any]]) -> None:
    for name in ("keys", "scope_keys"):
        where, keys = f"extras/baseline/{name}", arrays[name]
        check_that(is_power_of_two(len(keys)), where, f"expected a power of two as size, found {len(keys)}")
        taken = int(np.count_nonzero(keys))
        check_that(taken <= len(keys) // 2, where, f"{taken} of {len(keys)} places are taken, more than half")
        free = np.flatnonzero(keys == 0)  # a look-up may have to walk the longest run of occupied places
        run = int(np.diff(np.append(free, free[0] + len(keys))).max()) - 1
        check_that(run <= LONGEST_RUN, where, f"{run} taken places in a row; look-ups would take too long")
    rows, scopes = arrays["scope_rows"], len(arrays["totals"])
    named = rows[arrays["scope_keys"] != 0]
    fine = not len(named) or (named.min() >= 0 and named.max() < scopes)
    check_that(fine, "extras/baseline/scope_rows", f"a scope's row is none of the {scopes} there are")
