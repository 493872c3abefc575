"""Frames of rows or arrays, with the columns and types that `frame_columns` declares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from .frame_columns import COLUMN_DTYPES, FRAME_COLUMNS, LEVEL_NAMES, FrameColumn


def build_frame(name: str, rows: Iterable[Sequence[Any]]) -> pd.DataFrame:
    """A frame of rows, each with a value for every column in order. Times are UTC milliseconds; None is missing."""
    columns = FRAME_COLUMNS[name]
    by_column = list(zip(*rows, strict=True)) or [()] * len(columns)
    return _build(columns, by_column)


def build_frame_from_columns(name: str, values: Mapping[str, Any]) -> pd.DataFrame:
    """A frame of arrays by column name, all of one length."""
    columns = FRAME_COLUMNS[name]
    return _build(columns, [values[column.name] for column in columns])


def _build(columns: Sequence[FrameColumn], values: Sequence[Any]) -> pd.DataFrame:
    series = {column.name: _build_series(column, given) for column, given in zip(columns, values, strict=True)}
    return pd.DataFrame(series)


def _build_series(column: FrameColumn, values: Any) -> pd.Series:
    kind = column.kind
    if kind == "time":
        return _build_times(values)
    if kind == "level":
        return pd.Series(
            pd.Categorical(_missing_if_empty(values), categories=LEVEL_NAMES, ordered=True), name=column.name
        )
    if kind == "name":
        return pd.Series(pd.Categorical(_missing_if_empty(values)), name=column.name)
    if kind == "text":
        return pd.Series(["" if value is None else value for value in values], dtype="str", name=column.name)
    if kind == "number":
        return pd.Series([np.nan if value is None else value for value in values], dtype="float64", name=column.name)
    return pd.Series(_missing_if_empty(values), dtype=COLUMN_DTYPES[kind], name=column.name)


def _missing_if_empty(values: Any) -> list[Any]:
    """Values as they are; "" of a name is missing."""
    return [None if value is None or (isinstance(value, str) and not value) else value for value in values]


def _build_times(values: Any) -> pd.Series:
    """UTC milliseconds; None, 0 and less are missing: nothing of ours happened in 1970."""
    times_ms = np.array([0 if value is None else value for value in values], np.int64)
    stamps = times_ms.astype("datetime64[ms]")
    stamps[times_ms <= 0] = np.datetime64("NaT")
    return pd.Series(stamps).dt.tz_localize("UTC")
