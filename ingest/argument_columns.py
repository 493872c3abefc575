"""Arguments of a batch of calls as columns: one entry per argument, in the order of the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .events import Argument

NO_CALL = -1
"""Source of an argument that came out of no earlier call."""
UNTRUSTED_CALL = 2**31 - 1
"""Source of an argument out of an answer that the sender says others may have written; no call has such a number."""
ERASED_HASH_PREFIX = "erased~"
VALUE_DIGITS = 16
"""Hexadecimal digits of a value's hash that tell it from others: 64 bits."""


class ArgumentColumns(NamedTuple):
    """Arguments of n events, m in all. Those of row i are the entries from `start[i]` to `start[i + 1]`.

    Attributes:
        start: int64 (n + 1,).
        values: uint64 (m,), the sender's hash of each value.
        sources: int32 (m,), index of the earlier call of the session whose answer held the value, or `NO_CALL`;
            `UNTRUSTED_CALL` where the sender says that others may have written it.
    """

    start: npt.NDArray[np.int64]
    values: npt.NDArray[np.uint64]
    sources: npt.NDArray[np.int32]

    def take(self, rows: npt.NDArray[Any]) -> ArgumentColumns | None:
        """Those of the given rows; None where there are none."""
        return _gather(self.start[rows], self.start[rows + 1] - self.start[rows], self.values, self.sources)


def no_arguments(rows: int) -> ArgumentColumns:
    """The columns of so many events that tell no argument."""
    return ArgumentColumns(np.zeros(rows + 1, np.int64), np.zeros(0, np.uint64), np.zeros(0, np.int32))


def collect_arguments(rows: int, of_rows: Mapping[int, Sequence[Argument]]) -> ArgumentColumns | None:
    """Columns of so many events from the arguments of those rows that tell any; None where none does."""
    of_rows = {row: kept for row, given in of_rows.items() if (kept := arguments_with_values(given))}
    if not of_rows:
        return None
    counts = np.zeros(rows, np.int64)
    ordered = sorted(of_rows)
    counts[ordered] = [len(of_rows[row]) for row in ordered]
    arguments = list(chain.from_iterable(of_rows[row] for row in ordered))
    values = np.array([int(one.hash[:VALUE_DIGITS], 16) for one in arguments], np.uint64)
    sources = np.array([_source_of(one) for one in arguments], np.int32)
    return ArgumentColumns(_starts(counts), values, sources)


def scanned_arguments(
    counts: npt.NDArray[np.int64],
    values: npt.NDArray[np.uint64],
    sources: npt.NDArray[np.int32],
    of_rows: Mapping[int, Sequence[Argument]],
) -> ArgumentColumns | None:
    """Columns of n events; None where none tells any.

    Args:
        counts: int64 (n,), arguments of each row, which stand one behind the other in *values* and *sources*.
        of_rows: those of some rows that hold instead.
    """
    if not of_rows and not counts.any():
        return None
    first = _starts(counts)[:-1]
    other = collect_arguments(len(counts), {row: given for row, given in of_rows.items() if given})
    if of_rows:
        counts = counts.copy()
        counts[list(of_rows)] = 0
    if other is None:
        return _gather(first, counts, values, sources)
    scanned = int(counts.sum() and (first + counts)[counts > 0].max())
    given = np.diff(other.start)
    return _gather(
        np.where(given > 0, scanned + other.start[:-1], first),
        np.where(given > 0, given, counts),
        np.concatenate([values[:scanned], other.values]),
        np.concatenate([sources[:scanned], other.sources]),
    )


def arguments_with_values(given: Sequence[Argument]) -> list[Argument]:
    """Arguments that have a value; one in place of which a person's name stood that was erased has none."""
    return [one for one in given if not one.hash.startswith(ERASED_HASH_PREFIX)]


def join_arguments(parts: Sequence[tuple[int, ArgumentColumns | None]]) -> ArgumentColumns | None:
    """Columns of several batches, one after the other, from the number of rows of each and its arguments."""
    given = [no_arguments(rows) if arguments is None else arguments for rows, arguments in parts]
    if not any(len(arguments.values) for arguments in given):
        return None
    return ArgumentColumns(
        _starts(np.concatenate([np.diff(arguments.start) for arguments in given])),
        np.concatenate([arguments.values for arguments in given]),
        np.concatenate([arguments.sources for arguments in given]),
    )


def _gather(
    first: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int64],
    values: npt.NDArray[np.uint64],
    sources: npt.NDArray[np.int32],
) -> ArgumentColumns | None:
    """Columns of rows whose *counts* entries begin at *first*; None where there are none."""
    start = _starts(counts)
    if not start[-1]:
        return None
    entries = np.repeat(first - start[:-1], counts) + np.arange(start[-1])
    return ArgumentColumns(start, values[entries], sources[entries])


def _starts(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])


def _source_of(argument: Argument) -> int:
    if argument.origin != "tool":
        return NO_CALL
    if argument.untrusted is not None:
        return UNTRUSTED_CALL if argument.untrusted else NO_CALL
    return NO_CALL if argument.from_call is None else argument.from_call
