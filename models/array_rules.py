"""Rules for the arrays of a model: type, sizes and range of each, and whatever compiled code takes for granted.

Compiled code checks no bounds: an index that leads outside is a crash, a table without a free place an endless search,
a NaN an event that can not be judged. Whoever can write a model's directory can make its digests anew, so nothing is
believed that was not looked at: types and sizes from the manifest, before anything is allocated, and the contents when
they are loaded. Every message names the array and what is wrong with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trustwatch.ingest.errors import ModelError

ADVICE: Final = "the model was damaged or made by hand: copy it again or train it again"
TRAINED_OTHERWISE: Final = "train the model again"


class ArrayRule(NamedTuple):
    """Rules that an array of a model has to meet.

    Attributes:
        dtype: exactly that type.
        shape: a number, or a letter whose size is the same wherever it occurs; "K1" is K + 1.
        low, high: range of the values, both included; None = any value of the type, but never NaN.
        ends: +inf is a value, too.
    """

    dtype: type[np.generic]
    shape: tuple[int | str, ...]
    low: float | None = None
    high: float | None = None
    ends: bool = False


class ArrayForm(NamedTuple):
    """Type and shape of an array, as a manifest or the array itself says."""

    dtype: str
    shape: tuple[int, ...]


def forms_of(arrays: Mapping[str, NDArray[Any]]) -> dict[str, ArrayForm]:
    """Forms of arrays that are there."""
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
    """Compare all values with *rules*; names, types and shapes are right already. Raises ModelError."""
    for name, rule in rules.items():
        array = arrays[name]
        if not array.size:
            continue
        if array.dtype.kind == "f":
            _check_numbers(f"{group}/{name}", array, rule)
        low, high = array.min(), array.max()
        if rule.low is not None and low < rule.low:
            raise wrong_array(f"{group}/{name}", f"expected values of at least {rule.low:g}, found {low}")
        if rule.high is not None and high > rule.high and not (rule.ends and high == np.inf):
            raise wrong_array(f"{group}/{name}", f"expected values of at most {rule.high:g}, found {high}")


def _check_numbers(where: str, array: NDArray[Any], rule: ArrayRule) -> None:
    if np.isnan(array).any():
        raise wrong_array(where, "a value is NaN")
    allowed = np.isfinite(array) | (array == np.inf) if rule.ends else np.isfinite(array)
    if not allowed.all():
        raise wrong_array(where, "a value is infinite")


def wrong_array(where: str, what: str) -> ModelError:
    """The error of one array; *where* is its path in the model without the suffix."""
    return ModelError(f"{where}.npy: {what}; {ADVICE}")


def check_that(fine: bool | np.bool_, where: str, what: Callable[[], str] | str) -> None:
    """Raise ModelError for the array at *where* unless it is *fine*."""
    if not fine:
        raise wrong_array(where, what if isinstance(what, str) else what())


def is_power_of_two(size: int) -> bool:
    """True for 2, 4, 8, …"""
    return size >= 2 and size & (size - 1) == 0


def ascends(values: NDArray[Any]) -> bool:
    """True if each value is greater than the one before; compared, since a difference could overflow."""
    return bool((values[1:] > values[:-1]).all())


def longest_run(keys: NDArray[np.uint64]) -> int:
    """Most taken places in a row of an open-addressing table, which a look-up may have to go through."""
    free = np.flatnonzero(keys == 0)
    if not len(free):
        return len(keys)
    around = np.append(free, free[0] + len(keys))
    return int(np.diff(around).max()) - 1


def array_bytes(form: ArrayForm) -> int:
    """Bytes that an array of this form takes."""
    return np.dtype(form.dtype).itemsize * math.prod(form.shape)
