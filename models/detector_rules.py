"""Rules for the arrays of a detector: forest, tails, scales, calibrations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .array_rules import (
    ArrayForm,
    ArrayRule,
    ascends,
    check_forms,
    check_that,
    check_values,
    forms_of,
    is_power_of_two,
    wrong_array,
)
from .calibration import FLEET_GROUP
from .concerns import CONCERNS, FeatureRoles
from .feature_tails import SURPRISE_CAP

GROUP: Final = "detector"
_LONGEST_PATH = 1e4
"""Steps that no path of a tree has, its leaf's share included: twelve steps and the logarithm of 4,096 rows."""
_STEEPEST = 1e300
_DECADES = 1e6
_EXACT = 2.0**53

_SIZES: Final[Mapping[str, int]] = {
    "T": 10_000,  # trees
    "S": 4096,  # slots of a tree
    "K": 4096,  # knots of a tail
    **dict.fromkeys("GHIJLPUVWXY", 1 << 20),  # peer groups
    **dict.fromkeys("ABCMNOQR", 1 << 27),  # held-out scores that are kept
}


def _scale_rules(name: str, groups: str) -> dict[str, ArrayRule]:
    """Rules of the scales of peer groups; *groups* is the letter of their number."""
    return {
        f"{name}_groups": ArrayRule(np.uint64, (groups,)),
        f"{name}_location": ArrayRule(np.float64, (groups,), -_DECADES, _DECADES),
        f"{name}_scale": ArrayRule(np.float64, (groups,), 1e-9, _DECADES),
    }


def _calibration_rules(name: str, groups: str, values: str) -> dict[str, ArrayRule]:
    """Rules of a calibration; *groups* and *values* are the letters of its sizes."""
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
    """Check names, types and sizes of the arrays of a detector of so many features. Raises ModelError."""
    sizes = check_forms(GROUP, forms, DETECTOR_RULES, {**_SIZES, "F": features})
    if sizes["F"] != features:
        raise wrong_array(f"{GROUP}/tail_x", f"expected a size of {features}, found {sizes['F']}")
    check_that(sizes["T"] > 0, f"{GROUP}/forest_features", "expected at least one tree")
    for letter, name in (("S", "forest_features"), ("K", "tail_x")):
        check_that(is_power_of_two(sizes[letter]), f"{GROUP}/{name}", f"expected a power of two, found {sizes[letter]}")


def check_detector_arrays(arrays: Mapping[str, NDArray[Any]], features: int) -> None:
    """Check everything that scoring takes for granted. Raises ModelError."""
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


def _check_groups(groups: NDArray[np.uint64], name: str) -> None:
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
    inside = np.ones(max(len(values) - 1, 0), np.bool_)  # neighbours of one group
    inside[start[1:-1] - 1] = False
    check_that((values[1:] >= values[:-1])[inside].all(), f"{GROUP}/{name}_values", "scores of a group do not ascend")
    check_that((above[1:] <= above[:-1])[inside].all(), f"{GROUP}/{name}_above", "counts of a group do not fall")
    most = np.repeat(sizes, np.diff(start))
    check_that((above <= most).all(), f"{GROUP}/{name}_above", "more scores above one than the group has")
