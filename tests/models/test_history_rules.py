"""Arrays beside the detector are checked before compiled code, which checks no bounds, gets them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trustwatch.ingest.errors import ModelError
from trustwatch.models.array_rules import HISTORY_RULES, LONGEST_RUN, check_history_arrays
from trustwatch.models.model_persistence import save_trained_model
from trustwatch.models.model_training import train_model

from ..support.model_history import SALT, SETTINGS, history

Arrays = dict[str, dict[str, NDArray[Any]]]
Change = Callable[[NDArray[Any]], NDArray[Any]]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("history") / "model"
    save_trained_model(path, train_model(history(500), SALT, "p-1", SETTINGS), SETTINGS, 50, 1_764_000_000_000)
    return path / "extras"


def arrays_of(extras: Path) -> Arrays:
    return {
        group: {name: np.load(extras / group / f"{name}.npy") for name in rules}
        for group, rules in HISTORY_RULES.items()
    }


def put(place: Any, value: Any) -> Change:
    def change(array: NDArray[Any]) -> NDArray[Any]:
        array[place] = value
        return array

    return change


def a_long_run(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """As full as it may be, and all of it around the end of the table."""
    keys[:] = 0
    keys[: LONGEST_RUN // 2] = 1
    keys[-LONGEST_RUN // 2 - 1 :] = 1
    return keys


DAMAGES: dict[str, tuple[str, str, Change, str]] = {
    "no free place": ("baseline", "keys", lambda keys: np.full_like(keys, 7), "places are taken, more than half"),
    "no free place for a scope": ("baseline", "scope_keys", lambda keys: np.full_like(keys, 7), "more than half"),
    "a long search": ("baseline", "keys", a_long_run, "taken places in a row"),
    "row outside": (
        "baseline",
        "scope_rows",
        lambda rows: np.where(rows >= 0, 2**30, rows).astype(np.int32),
        "none of the",
    ),
    "row below": ("baseline", "scope_rows", lambda rows: np.full_like(rows, -1), "none of the"),
    "no power of two": ("baseline", "counts", lambda counts: counts[:-1].copy(), "expected a size of"),
    "NaN": ("baseline", "means", put((0, 0), np.nan), "is NaN"),
    "infinite": ("seeds", "numbers", put((0, 0), np.inf), "is infinite"),
    "negative": ("seeds", "events", put(0, -1), "at least 0, found -1"),
    "unsorted": ("seeds", "keys", lambda keys: keys[::-1].copy(), "do not ascend"),
    "beyond all time": ("seeds", "times", put((0, 0), 2**62), "out of range"),
    "other type": (
        "seeds",
        "table",
        lambda table: table.astype(np.int64),
        "expected uint32 with 2 dimensions, found int64",
    ),
    "other layout": ("seeds", "table", lambda table: table[:, :-1].copy(), "expected a size of 320, found 319"),
    "no fleet": ("groups", "ids", put(0, 1), "ascend from 0"),
    "no exponent": ("groups", "exponent", put(0, 0.0), "at least"),
    "share of nothing": ("alarms", "share", put(0, 0.0), "at least"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_arrays_that_would_crash_or_mislead_are_refused_by_name(saved: Path, case: str) -> None:
    """The message names the array, what is wrong, and what to do."""
    group, name, change, message = DAMAGES[case]
    arrays = arrays_of(saved)
    arrays[group][name] = change(arrays[group][name])
    with pytest.raises(ModelError, match=rf"^extras/{group}/{name}\.npy: .*{message}.*(copy it again|train)"):
        check_history_arrays(arrays)


def test_a_model_from_before_something_was_counted_is_accepted(saved: Path) -> None:
    """Known names, usual oddness and rehearsed tails came later; nobody has to train again for them."""
    arrays = arrays_of(saved)
    for name in ("known", "odd", "rehearsed"):
        del arrays["seeds"][name]
    del arrays["alarms"]["rehearsed"]
    check_history_arrays(arrays)
