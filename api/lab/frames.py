"""Makes frames of rows or arrays, with the columns and types that `columns` declares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from .columns import FRAMES, KINDS, LEVELS, Column


def frame(name: str, rows: Iterable[Sequence[Any]]) -> Any:
    """A frame of rows, each with a value for every column in order. Times are UTC milliseconds; None is missing."""
    columns = FRAMES[name]
    by_column = list(zip(*rows, strict=True)) or [()] * len(columns)
    return _built(columns, by_column)


def frame_of(name: str, values: Mapping[str, Any]) -> Any:
    """A frame of arrays by column name, all of one length."""
    columns = FRAMES[name]
    return _built(columns, [values[column.name] for column in columns])


def _built(columns: Sequence[Column], values: Sequence[Any]) -> Any:
    series = {column.name: _series(column, given) for column, given in zip(columns, values, strict=True)}
    return pd.DataFrame(series)


def _series(column: Column, values: Any) -> Any:
    kind = column.kind
    if kind == "time":
        return _times(values)
    if kind == "level":
        return pd.Series(pd.Categorical(_listed(values), categories=LEVELS, ordered=True), name=column.name)
    if kind == "name":
        return pd.Series(pd.Categorical(_listed(values)), name=column.name)
    if kind == "text":
        return pd.Series(["" if value is None else value for value in values], dtype="str", name=column.name)
    if kind == "number":
        return pd.Series([np.nan if value is None else value for value in values], dtype="float64", name=column.name)
    return pd.Series(_listed(values), dtype=KINDS[kind], name=column.name)


def _listed(values: Any) -> list[Any]:
    """Values as they are; "" of a name is missing."""
    return [None if value is None or (isinstance(value, str) and not value) else value for value in values]


def _times(values: Any) -> Any:
    """UTC milliseconds; None, 0 and less are missing: nothing of ours happened in 1970."""
    known = np.array([0 if value is None else value for value in values], np.int64)
    stamps = known.astype("datetime64[ms]")
    stamps[known <= 0] = np.datetime64("NaT")
    return pd.Series(stamps).dt.tz_localize("UTC")


def dtypes(name: str) -> dict[str, str]:
    """Column -> dtype of a frame."""
    return {column.name: KINDS[column.kind] for column in FRAMES[name]}
