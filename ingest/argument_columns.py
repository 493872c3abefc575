"""Arguments of a batch of calls as columns: one entry per argument, in the order of the rows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from trustwatch_client.events import MAX_ARGUMENTS, Argument

from .events import NativeEvent

# An event states the origins of arguments in its own members or in its `attributes`. Attributes have no schema: one of
# another shape means something else, and is ignored instead of refused. A member wins over an attribute of its name.

ARGUMENTS_ATTRIBUTE, UNTRUSTED_RESULT_ATTRIBUTE = "arguments", "untrusted_result"
_FLAG_WORDS = {"true": True, "false": False}


def read_arguments(event: NativeEvent) -> Sequence[Argument] | None:
    """Return the arguments of the call; None if the sender reports nothing, unlike for a call without arguments.

    Of a list in the attributes, the first `MAX_ARGUMENTS` items are read, and those that are not arguments ignored.
    """
    if event.arguments is not None:
        return event.arguments
    listed = None if event.attributes is None else event.attributes.get(ARGUMENTS_ATTRIBUTE)
    if isinstance(listed, str):  # attributes of OpenTelemetry cannot hold a list of objects
        try:
            listed = msgspec.json.decode(listed)
        except (msgspec.DecodeError, RecursionError):
            return None
    if not isinstance(listed, list):
        return None
    arguments = []
    for item in listed[:MAX_ARGUMENTS]:
        with contextlib.suppress(msgspec.ValidationError):
            arguments.append(msgspec.convert(item, Argument))
    return arguments


def read_untrusted_result(event: NativeEvent) -> bool | None:
    """Return whether the answer may hold what others wrote; None if the sender does not state it."""
    if event.untrusted_result is not None or event.attributes is None:
        return event.untrusted_result
    value = event.attributes.get(UNTRUSTED_RESULT_ATTRIBUTE)
    if isinstance(value, str):
        return _FLAG_WORDS.get(value.lower())
    return value if isinstance(value, bool) else None


def may_tell_origins(payload: bytes) -> bool:
    """Return False if an event reports no origins; otherwise it must be decoded, since JSON may escape the names."""
    return b"arguments" in payload or b"untrusted_result" in payload or b"\\u" in payload


NO_CALL = -1
"""Source of an argument that did not come from an earlier call."""
UNTRUSTED_CALL = 2**31 - 1
"""Source of an argument from an answer that others may have written, as the sender states; not a number of a call."""
ERASED_HASH_PREFIX = "erased~"
VALUE_DIGITS = 16
"""Hexadecimal digits of a value's hash that distinguish it from others: 64 bits."""

HashMany = Callable[[Sequence[str]], npt.NDArray[np.uint64]]
"""Keyed hashes of names, 0 for empty ones."""


class ArgumentColumns(NamedTuple):
    """Arguments of n events, m in all. Those of row i are the entries from `start[i]` to `start[i + 1]`.

    Attributes:
        start: int64 (n + 1,).
        values: uint64 (m,), the sender's hash of each value, 0 if it reports none.
        sources: int32 (m,), index of the earlier call of the session whose answer held the value, or `NO_CALL`;
            `UNTRUSTED_CALL` if the sender reports that others may have written it.
        calls: int32 (m,), that index whatever the sender reports about it, or `NO_CALL`.
        routes: uint64 (m,), keyed hash of the action of that call and the argument's name; 0 if none is reported.
    """

    start: npt.NDArray[np.int64]
    values: npt.NDArray[np.uint64]
    sources: npt.NDArray[np.int32]
    calls: npt.NDArray[np.int32]
    routes: npt.NDArray[np.uint64]

    @property
    def entries(self) -> ArgumentEntries:
        """All arguments, without their rows."""
        return ArgumentEntries(*self[1:])

    def take(self, rows: npt.NDArray[Any]) -> ArgumentColumns | None:
        """Return the arguments of the given rows; None if there are none."""
        return _gather(self.start[rows], self.start[rows + 1] - self.start[rows], self.entries)


class ArgumentEntries(NamedTuple):
    """Arguments (m,) as in `ArgumentColumns`, without the rows."""

    values: npt.NDArray[np.uint64]
    sources: npt.NDArray[np.int32]
    calls: npt.NDArray[np.int32]
    routes: npt.NDArray[np.uint64]

    def joined(self, other: ArgumentEntries, own: int) -> ArgumentEntries:
        """Return the first *own* of these, followed by *other*."""
        return ArgumentEntries(
            np.concatenate([self.values[:own], other.values]),
            np.concatenate([self.sources[:own], other.sources]),
            np.concatenate([self.calls[:own], other.calls]),
            np.concatenate([self.routes[:own], other.routes]),
        )


def allocate_entries(arguments: int) -> ArgumentEntries:
    """Allocate columns of *arguments* entries, filled with zeros."""
    return ArgumentEntries(
        np.zeros(arguments, np.uint64),
        np.zeros(arguments, np.int32),
        np.zeros(arguments, np.int32),
        np.zeros(arguments, np.uint64),
    )


def no_arguments(rows: int) -> ArgumentColumns:
    """The columns of *n* events without arguments."""
    return ArgumentColumns(np.zeros(rows + 1, np.int64), *allocate_entries(0))


def collect_arguments(
    rows: int, of_rows: Mapping[int, Sequence[Argument]], hash_many: HashMany
) -> ArgumentColumns | None:
    """Build the columns of *rows* events from the arguments of those that report any; None if none does."""
    of_rows = {row: kept for row, given in of_rows.items() if (kept := arguments_with_values(given))}
    if not of_rows:
        return None
    counts = np.zeros(rows, np.int64)
    ordered = sorted(of_rows)
    counts[ordered] = [len(of_rows[row]) for row in ordered]
    arguments = list(chain.from_iterable(of_rows[row] for row in ordered))
    return ArgumentColumns(
        _starts(counts),
        np.array([_value_of(argument) for argument in arguments], np.uint64),
        np.array([_source_of(argument) for argument in arguments], np.int32),
        np.array([_call_of(argument) for argument in arguments], np.int32),
        hash_many([route_name(argument) for argument in arguments]),
    )


def scanned_arguments(
    counts: npt.NDArray[np.int64],
    entries: ArgumentEntries,
    of_rows: Mapping[int, Sequence[Argument]],
    hash_many: HashMany,
) -> ArgumentColumns | None:
    """Build the columns of n events; None if none has any.

    `counts` has the arguments of each row, which are consecutive in `entries`; `of_rows` replaces those of some rows.
    """
    if not of_rows and not counts.any():
        return None
    first = _starts(counts)[:-1]
    given_by_row = {row: given for row, given in of_rows.items() if given}
    other = collect_arguments(len(counts), given_by_row, hash_many)
    if of_rows:
        counts = counts.copy()
        counts[list(of_rows)] = 0
    if other is None:
        return _gather(first, counts, entries)
    scanned = int(counts.sum() and (first + counts)[counts > 0].max())
    given = np.diff(other.start)
    return _gather(
        np.where(given > 0, scanned + other.start[:-1], first),
        np.where(given > 0, given, counts),
        entries.joined(other.entries, scanned),
    )


def arguments_with_values(given: Sequence[Argument]) -> list[Argument]:
    """Leave out arguments whose value was erased because it was a person's name."""
    return [argument for argument in given if argument.hash is None or not argument.hash.startswith(ERASED_HASH_PREFIX)]


def join_arguments(parts: Sequence[tuple[int, ArgumentColumns | None]]) -> ArgumentColumns | None:
    """Join the columns of several batches, given as the number of rows and the arguments of each."""
    given = [no_arguments(rows) if arguments is None else arguments for rows, arguments in parts]
    if not any(len(arguments.values) for arguments in given):
        return None
    counts = np.concatenate([np.diff(arguments.start) for arguments in given])
    return ArgumentColumns(
        _starts(counts), *map(np.concatenate, zip(*(columns.entries for columns in given), strict=True))
    )


def _gather(
    first: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], entries: ArgumentEntries
) -> ArgumentColumns | None:
    """Build the columns of rows whose *counts* entries begin at *first*; None if there are none."""
    start = _starts(counts)
    if not start[-1]:
        return None
    at = np.repeat(first - start[:-1], counts) + np.arange(start[-1])
    return ArgumentColumns(start, *(column[at] for column in entries))


def _starts(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])


def _source_of(argument: Argument) -> int:
    if argument.origin != "tool":
        return NO_CALL
    if argument.untrusted is not None:
        return UNTRUSTED_CALL if argument.untrusted else NO_CALL
    return NO_CALL if argument.from_call is None else argument.from_call


def _value_of(argument: Argument) -> int:
    """Return the hash as a number; only a missing hash is 0."""
    return 0 if argument.hash is None else max(int(argument.hash[:VALUE_DIGITS], 16), 1)


def _call_of(argument: Argument) -> int:
    return NO_CALL if argument.origin != "tool" or argument.from_call is None else argument.from_call


def route_name(argument: Argument) -> str:
    """Join the action that gave the value and the argument's name; empty if the action is not reported."""
    names_action = argument.origin == "tool" and argument.from_action is not None
    return f"{argument.from_action}\x1f{argument.name}" if names_action else ""
