"""Pages of agents from PostgreSQL, column by column: a worker that takes a partition over reads all of its agents.

Rows come by COPY in its binary format, what has the same size in every row first. Some hundred at a time are joined and
cut: their states by one call, so that Python sees values of their texts alone. Agents whose state has another format
than the one that is asked for come as rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection

from ...records.agent_pages import MOST_IN_COLUMNS, AgentColumns, AgentPage, StateFormat, split_rows
from .. import codec
from ..sql_schema import MARK, unescape_nul
from .postgresql_copy import fetch_agents, fetch_rows, sqlalchemy_errors

_GROUP = ("tenant", "issuer", "agent_type", "counterfactual", "announced_paths")
"""Columns of which a page has few different values: they stand side by side, and are looked up as one."""
_OWN = ("agent_id", "decision_id", "reasons", "indicators")
"""Columns of which each agent has values of its own."""
_COLUMN_LIST = ", ".join(f'"{name}"' for name in ("key", "state_version", "features", "risk", *_GROUP, *_OWN))
_COPY_PAGE = (
    f"COPY (SELECT {_COLUMN_LIST} FROM agents WHERE partition = %s AND key BETWEEN %s AND %s ORDER BY key LIMIT %s) "  # noqa: S608 (our names)
    "TO STDOUT (FORMAT BINARY)"
)
_FILE_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
"""Before the first row: signature, flags, length of what else stands there."""
_LENGTH_BYTES = 4
"""Bytes of the length before each value."""
_KEY_AT = 2 + _LENGTH_BYTES
"""Place of the key in a row, behind the number of columns."""
_CUT_AT_ONCE = 250
"""Rows that are joined and cut together, 0.9 MB: they stay in the processor's caches, and so does their memory."""

_SHORT = 16
"""Bytes of values that are worth a look whether others are equal."""

_Places = npt.NDArray[np.int64]


def fetch_page(
    connection: Connection, partition: int, keys: tuple[int, int], limit: int, state_format: StateFormat | None
) -> AgentPage:
    """Agents of a partition in the order of their keys as signed numbers. Raises DBAPIError.

    Args:
        keys: least and greatest key, as signed numbers.
        state_format: whose agents come as columns; None = all come as rows.
    """
    if state_format is None:
        return split_rows(fetch_rows(connection, partition, keys, limit), limit, None)
    cutter = _RowCutter(state_format)
    with sqlalchemy_errors(connection):
        rows = _copy_rows(connection, [partition, *keys, limit])
        while some := list(islice(rows, _CUT_AT_ONCE)):
            cutter.cut(some)
    others = sorted(fetch_agents(connection, cutter.others), key=lambda row: codec.to_signed(row.name.key))
    return AgentPage(cutter.columns(), others, cutter.last_key if cutter.count == limit else None)


def _copy_rows(connection: Connection, parameters: Sequence[int]) -> Iterator[Any]:
    """Rows as COPY sends them, each as bytes, without what stands before and behind all of them."""
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor, cursor.copy(_COPY_PAGE, parameters) as copy:
        rows = (row for row in copy if len(row) > _KEY_AT)  # the end of all is shorter
        for row in rows:
            yield from (first for first in [bytes(row).removeprefix(_FILE_HEADER)] if len(first) > _KEY_AT)
            break
        yield from rows


class _RowLayout:
    """Layout of rows of one state format, as far as it is the same in all of them.

    Args:
        state_format: of the rows.
    """

    def __init__(self, state_format: StateFormat) -> None:
        version = state_format.state_version.encode()
        parts: list[tuple[str, Any]] = [
            ("key", ">i8"),
            ("state_version", f"V{len(version)}"),
            ("features", (np.uint8, (state_format.features_bytes,))),
            ("risk", (np.uint8, (state_format.risk_bytes,))),
        ]
        lengths = [(f"{name}_length", ">i4") for name, _ in parts]
        self.row = np.dtype([("columns", ">i2"), *chain.from_iterable(zip(lengths, parts, strict=True))])
        self._places = dict(zip(self.row.names or (), self._offsets(), strict=True))
        self._sizes = {f"{name}_length": np.dtype(kind).itemsize for name, kind in parts}
        self._version = np.void(version)

    def _offsets(self) -> list[int]:
        return [offset for _, offset, *_ in (self.row.fields or {}).values()]

    def fits(self, data: bytes, starts: _Places) -> npt.NDArray[np.bool_]:
        """True for each of the rows of *data* that has this format; as many bytes as a row has follow the last one."""
        lengths, fits = _anywhere(data, ">i4"), np.ones(len(starts), np.bool_)
        for name, size in self._sizes.items():  # while those before it are right, each is where it should be
            fits &= lengths[starts + self._places[name]] == size
        versions = _anywhere(data, self._version.dtype)[starts + self._places["state_version"]]
        return np.asarray(fits & (versions == self._version))


class _RowCutter:
    """Cuts the rows of a page into columns.

    Args:
        state_format: whose rows become columns.
    """

    def __init__(self, state_format: StateFormat) -> None:
        self._layout = _RowLayout(state_format)
        self._groups: dict[bytes, tuple[Any, ...]] = {}
        """Values of `_GROUP` by the bytes in which they come."""
        self._finished: list[AgentColumns] = []
        self._begin_columns()
        self.count = 0
        """Rows so far."""
        self.last_key: int | None = None
        """Key (unsigned) of the last of them."""
        self.others: list[int] = []
        """Keys of agents whose state has another format."""

    def _begin_columns(self) -> None:
        self._states = np.empty(MOST_IN_COLUMNS, self._layout.row)
        self._filled = 0
        self._found: list[tuple[Any, ...]] = []
        self._own: tuple[list[bytes], ...] = tuple([] for _ in _OWN)

    def cut(self, rows: Sequence[Any]) -> None:
        """Add rows, at most `MOST_IN_COLUMNS`."""
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        data = b"".join((*rows, bytes(self._layout.row.itemsize)))
        starts = np.cumsum(lengths) - lengths
        keys = _unsigned(_anywhere(data, ">i8")[starts + _KEY_AT])
        self.count, self.last_key = self.count + len(rows), int(keys[-1])
        fits = self._layout.fits(data, starts)
        if not fits.all():
            self.others += keys[~fits].tolist()
            starts = starts[fits]
        if self._filled + len(starts) > MOST_IN_COLUMNS:
            self._finish_columns()
        self._add(data, starts)

    def _add(self, data: bytes, starts: _Places) -> None:
        """Add the rows of the format that begin at *starts*."""
        row, end = f"V{self._layout.row.itemsize}", self._filled + len(starts)
        self._states.view(row)[self._filled : end] = _anywhere(data, row)[starts]
        self._filled = end
        lengths, ends = _anywhere(data, ">i4"), [starts + self._layout.row.itemsize]
        for _ in (*_GROUP, *_OWN):
            ends.append(ends[-1] + _LENGTH_BYTES + lengths[ends[-1]])
        group_start, group_end = ends[0].tolist(), ends[len(_GROUP)].tolist()
        groups = [data[start:end] for start, end in zip(group_start, group_end, strict=True)]
        known = self._groups
        self._found += [known.get(raw) or self._read_group(raw) for raw in groups]
        for values, before, end in zip(self._own, ends[len(_GROUP) :], ends[len(_GROUP) + 1 :], strict=False):
            places = zip((before + _LENGTH_BYTES).tolist(), end.tolist(), strict=True)
            values += [data[start:stop] for start, stop in places]

    def _read_group(self, raw: bytes) -> tuple[Any, ...]:
        values, end = [], 0
        for _ in _GROUP:
            start = end + _LENGTH_BYTES
            end = start + int.from_bytes(raw[end:start])
            values.append(raw[start:end])
        *texts, paths = values
        group = self._groups[raw] = (*(unescape_nul(text.decode()) for text in texts), paths)
        return group

    def columns(self) -> list[AgentColumns]:
        """Columns of all rows of the format."""
        self._finish_columns()
        return self._finished

    def _finish_columns(self) -> None:
        if not self._filled:
            return
        states = self._states[: self._filled]
        tenants, issuers, agent_types, counterfactuals, paths = (list(values) for values in zip(*self._found, strict=True))
        agent_ids, decision_ids, reasons, indicators = self._own
        self._finished.append(
            AgentColumns(
                _unsigned(states["key"]),
                tenants,
                issuers,
                _to_texts(agent_ids),
                agent_types,
                _to_texts(decision_ids),
                _shared_if_short(reasons),
                counterfactuals,
                _shared_if_short(indicators),
                paths,
                states["features"],
                states["risk"],
            )
        )
        self._begin_columns()


def _anywhere(data: bytes, kind: Any) -> npt.NDArray[Any]:
    """Values as they begin at each byte of *data*."""
    return np.ndarray((len(data) - np.dtype(kind).itemsize + 1,), kind, data, strides=(1,))


def _unsigned(keys: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    return keys.astype(np.int64).view(np.uint64)


def _to_texts(values: list[bytes]) -> list[str]:
    """Texts without the escapes of the database, which hardly any has."""
    texts = [value.decode() for value in values]
    return list(map(unescape_nul, texts)) if MARK in "".join(texts) else texts


def _shared_if_short(values: list[bytes]) -> list[bytes]:
    """The same values; equal ones are one object, where they are short: long ones are hardly ever equal."""
    if sum(map(len, values)) > _SHORT * len(values):
        return values
    first: dict[bytes, bytes] = {}
    return list(map(first.setdefault, values, values))
