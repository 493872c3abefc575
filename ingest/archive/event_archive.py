"""The archive of events: its columns and its writer. `raw` holds the record as it was logged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import structlog

from ..events import NativeEvent
from .archive_files import (
    TEMPORARY_SUFFIX,
    data_files,
    drop_days_before,
    event_folder,
    file_name,
    read_lock,
    read_positions,
    rewrite_lock,
    superseded_files,
    write_archive_file,
    write_positions,
    writer_lock,
)
from .vector_spool import VectorFrame, closed_spool_files, read_frames

_TIME_TYPE, _TEXT_TYPE, _NAMES_TYPE = pa.timestamp("ms", tz="UTC"), pa.string(), pa.list_(pa.string())
_MAX_INT64 = 2**63 - 1


EVENT_COLUMNS: dict[str, tuple[Any, Callable[[NativeEvent], Any]]] = {
    "id": (_TEXT_TYPE, lambda e: e.id),
    "source": (_TEXT_TYPE, lambda e: e.source),
    "type": (_TEXT_TYPE, lambda e: e.type),
    "tenant_name": (_TEXT_TYPE, lambda e: e.tenant or ""),
    "issuer": (_TEXT_TYPE, lambda e: e.agent.issuer),
    "agent_id": (_TEXT_TYPE, lambda e: e.agent.id),
    "agent_type": (_TEXT_TYPE, lambda e: e.agent.type),
    "self_asserted": (pa.bool_(), lambda e: e.agent.self_asserted),
    "principal_id": (_TEXT_TYPE, lambda e: e.principal and e.principal.id),
    "delegation": (_NAMES_TYPE, lambda e: e.delegation),
    "task": (_TEXT_TYPE, lambda e: e.task),
    "action": (_TEXT_TYPE, lambda e: e.action),
    "effect": (_TEXT_TYPE, lambda e: e.effect),
    "resource_type": (_TEXT_TYPE, lambda e: e.resource and e.resource.type),
    "resource_id": (_TEXT_TYPE, lambda e: e.resource and e.resource.id),
    "resource_target": (_TEXT_TYPE, lambda e: e.resource and e.resource.target),
    "audience": (_TEXT_TYPE, lambda e: e.resource and e.resource.audience),
    "peer": (_TEXT_TYPE, lambda e: e.peer),
    "scopes_requested": (_NAMES_TYPE, lambda e: e.scopes and e.scopes.requested),
    "scopes_granted": (_NAMES_TYPE, lambda e: e.scopes and e.scopes.granted),
    "outcome": (_TEXT_TYPE, lambda e: e.outcome),
    "status": (pa.int64(), lambda e: None if abs(e.status or 0) > _MAX_INT64 else e.status),
    "error": (_TEXT_TYPE, lambda e: e.error),
    "bytes_in": (pa.float64(), lambda e: e.bytes_in),
    "bytes_out": (pa.float64(), lambda e: e.bytes_out),
    "duration_ms": (pa.float64(), lambda e: e.duration_ms),
    "count": (pa.float64(), lambda e: e.count),
    "client_ip": (_TEXT_TYPE, lambda e: e.client and e.client.ip),
    "credential_method": (_TEXT_TYPE, lambda e: e.credential and e.credential.method),
    "token_lifetime_s": (pa.float64(), lambda e: e.credential and e.credential.token_lifetime_s),
    "session": (_TEXT_TYPE, lambda e: e.session),
    "trace_id": (_TEXT_TYPE, lambda e: e.trace_id),
}
"""Column -> its Arrow type, and how an event fills it; null if the event does not state it."""

EVENT_SCHEMA = pa.schema(
    [
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("received", _TIME_TYPE),
        ("time", _TIME_TYPE),
        *((name, kind) for name, (kind, _) in EVENT_COLUMNS.items()),
        ("raw", pa.binary()),
    ]
)


class EventToArchive(NamedTuple):
    """One event. Times are UTC milliseconds."""

    offset: int
    received_ms: int
    event: NativeEvent
    raw: bytes

    @property
    def time_ms(self) -> int:
        """Event time."""
        return int(self.event.time.timestamp() * 1000)


def event_table(events: Sequence[EventToArchive], partition: int = 0) -> pa.Table:
    """Events of a partition as a table."""
    columns = [
        pa.repeat(pa.scalar(partition, pa.int32()), len(events)),
        pa.array([one.offset for one in events], pa.int64()),
        pa.array([one.received_ms for one in events], pa.int64()).cast(_TIME_TYPE),
        pa.array([one.time_ms for one in events], pa.int64()).cast(_TIME_TYPE),
        *(pa.array([fill(one.event) for one in events], kind) for kind, fill in EVENT_COLUMNS.values()),
        pa.array([one.raw for one in events], pa.binary()),
    ]
    return pa.table(columns, schema=EVENT_SCHEMA)


def rows_of_agent(table: pa.Table, tenant: str, issuer: str, agent_id: str) -> Any:
    """Mask of the rows of one agent, in a table of events or of vectors."""
    named = pc.and_(pc.equal(table["agent_id"], agent_id), pc.equal(table["tenant_name"], tenant))
    return pc.and_(pc.fill_null(named, False), pc.equal(pc.fill_null(table["issuer"], ""), issuer))


def write_table(path: Path, table: pa.Table) -> None:
    """Write a file of the archive; a reader sees all of it or none."""
    write_archive_file(path, lambda file: pq.write_table(table, file, compression="zstd"))


# Each range of a log is archived once, whenever the process is killed: the files of a range are written (to a temporary
# name, fsync, rename), then one atomic rename of `_position.json` makes them count. Files behind that position are
# removed at the next start, and their range is written again.


class EventArchive:
    """Writer of one archive; exactly one process may write it."""

    def __init__(self, directory: Path, topic: str = "") -> None:
        self.directory = directory
        self.topic = topic
        self._lock: BinaryIO | None = None
        self._offsets: dict[int, int] = {}

    def start(self) -> dict[int, int] | None:
        """Remove what a crash left half done, and return the positions by partition; None before the first range.

        Raises ConfigError or CorruptLog.
        """
        if self._lock is None:
            self._lock = writer_lock(self.directory)
        # No reader uses what is removed here: it has no position, or is within a merged file. So this does not wait for
        # readers, which may take hours, but for merging and erasing.
        with read_lock(self.directory, make=True):
            stored = read_positions(self.directory, self.topic)
            self._offsets = dict(stored or {})
            for path in self.directory.rglob(f"*{TEMPORARY_SUFFIX}"):
                path.unlink()
            for file in data_files(self.directory):
                if file.first >= self._offsets.get(file.partition, 0):
                    file.path.unlink()
            for path in superseded_files(self.directory, "events"):
                path.unlink()
        return stored

    def write(self, base: int, end: int, events: Sequence[EventToArchive], partition: int = 0) -> int:
        """Write the range [base, end) of a partition with its *events*, and move the position behind it.

        Returns the number of files.
        """
        parts: dict[str, list[EventToArchive]] = {}
        for archived in events:
            parts.setdefault(event_folder(archived.time_ms, archived.event.tenant or ""), []).append(archived)
        name = file_name("events", partition if self.topic else None, base, end)
        for folder, rows in sorted(parts.items()):
            write_table(self.directory / folder / name, event_table(rows, partition))
        moved = {**self._offsets, partition: end}
        write_positions(self.directory, self.topic, moved)
        self._offsets = moved
        return len(parts)

    def drop_before(self, oldest_ms: int) -> int:
        """Remove the dates that end before a time, UTC milliseconds; returns how many files went."""
        with rewrite_lock(self.directory):
            return drop_days_before(self.directory, oldest_ms)

    def close(self) -> None:
        """Release the archive for another process to write."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


# Columns of an archived feature vector, and conversion of the pipeline's spool to files of them.

VECTOR_SCHEMA_HEAD = pa.schema(
    [
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("time", _TIME_TYPE),
        ("id", _TEXT_TYPE),
        ("tenant_name", _TEXT_TYPE),
        ("issuer", _TEXT_TYPE),
        ("agent_id", _TEXT_TYPE),
        ("agent_type", _TEXT_TYPE),
        ("anomaly_score", pa.float64()),
        ("p_value", pa.float64()),
        ("risk_score", pa.float64()),
        ("risk_level", _TEXT_TYPE),
        ("model_version", _TEXT_TYPE),
    ]
)
"""Columns before those of the features, which are float32 and named as in docs/features.md."""

_VectorFileKey = tuple[int, str, tuple[str, ...]]  # partition, folder, features


class _VectorAgent(msgspec.Struct, gc=False):
    id: str
    issuer: str | None = None
    type: str | None = None


class _VectorEvent(msgspec.Struct, gc=False):
    """Members of an event that are archived with its vector."""

    time: Annotated[datetime, msgspec.Meta(tz=True)]
    agent: _VectorAgent
    id: str | None = None
    tenant: str | None = None


_decode_vector_event = msgspec.json.Decoder(_VectorEvent).decode
_log = structlog.get_logger(__name__)


class _FrameRows(NamedTuple):
    """Some rows of a frame."""

    frame: VectorFrame
    at: npt.NDArray[np.int64]
    who: list[_VectorEvent]
    time_ms: list[int]


class VectorArchive:
    """Turns closed files of a spool into Parquet. Repeated work gives the same files."""

    def __init__(self, directory: Path, spool: Path, levels: Sequence[str], *, named: bool = False) -> None:
        self.directory = directory
        self.spool = spool
        self.rows_written = 0
        self._levels = np.array(levels, np.object_)
        self._named = named

    def start(self) -> None:
        """Remove what a crash left half done, unless the archive is of a topic, whose folder other workers write, too.

        If a process reads or erases, this is left to the next start: an erasure has partial files.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        if self._named:
            return
        with rewrite_lock(self.directory, wait=False) as ours:
            for path in self.directory.rglob(f"*{TEMPORARY_SUFFIX}") if ours else ():
                path.unlink()

    def archive_next_file(self) -> bool:
        """Turn the oldest file of the spool into Parquet and remove it; returns whether there was one."""
        waiting = closed_spool_files(self.spool)
        if not waiting:
            return False
        self._write(waiting[0])
        waiting[0].unlink()
        return True

    def _write(self, path: Path) -> None:
        parts: dict[_VectorFileKey, list[_FrameRows]] = {}
        ranges: dict[int, tuple[int, int]] = {}
        for frame in read_frames(path):
            if len(frame.offsets):
                first, _ = ranges.get(frame.partition, (int(frame.offsets[0]), 0))
                ranges[frame.partition] = first, int(frame.offsets[-1]) + 1
                _sort_into_files(frame, parts)
        for (partition, folder, features), frame_rows in sorted(parts.items()):
            name = file_name("vectors", partition if self._named else None, *ranges[partition])
            table = self._table(frame_rows, features)
            write_table(self.directory / folder / name, table)
            self.rows_written += table.num_rows

    def _table(self, frame_rows: Sequence[_FrameRows], features: Sequence[str]) -> pa.Table:
        events = [event for rows in frame_rows for event in rows.who]

        def joined(pick: Any) -> npt.NDArray[Any]:
            return np.concatenate([pick(rows.frame)[rows.at] for rows in frame_rows])

        times = [at for rows in frame_rows for at in rows.time_ms]
        levels = self._levels[joined(lambda frame: frame.levels)]
        vectors = joined(lambda frame: frame.vectors)
        columns: list[Any] = [
            np.repeat([rows.frame.partition for rows in frame_rows], [len(rows.at) for rows in frame_rows]),
            joined(lambda frame: frame.offsets),
            pa.array(times, pa.int64()).cast(_TIME_TYPE),
            [event.id for event in events],
            [event.tenant or "" for event in events],
            [event.agent.issuer for event in events],
            [event.agent.id for event in events],
            [event.agent.type for event in events],
            joined(lambda frame: frame.anomaly),
            joined(lambda frame: frame.p_values),
            joined(lambda frame: frame.risk),
            levels,
            np.repeat([rows.frame.model_version for rows in frame_rows], [len(rows.at) for rows in frame_rows]),
        ]
        schema = VECTOR_SCHEMA_HEAD
        for at, name in enumerate(features):
            schema = schema.append(pa.field(name, pa.float32()))
            columns.append(np.ascontiguousarray(vectors[:, at]))
        return pa.table(
            [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
        )


def _sort_into_files(frame: VectorFrame, parts: dict[_VectorFileKey, list[_FrameRows]]) -> None:
    """Rows of a frame by partition, folder and features."""
    folders: dict[str, tuple[list[int], list[_VectorEvent], list[int]]] = {}
    for row, payload in enumerate(frame.payloads):
        try:
            event = _decode_vector_event(payload)
            at_ms = int(event.time.timestamp() * 1000)
            folder = event_folder(at_ms, event.tenant or "")
        except (msgspec.DecodeError, ValueError, OverflowError) as error:  # one record must not hold up all others
            _log.error("no vector is kept of an event", offset=int(frame.offsets[row]), error=str(error))
            continue
        rows, names, times = folders.setdefault(folder, ([], [], []))
        rows.append(row)
        names.append(event)
        times.append(at_ms)
    for folder, (rows, names, times) in folders.items():
        key = frame.partition, folder, tuple(frame.features)
        parts.setdefault(key, []).append(_FrameRows(frame, np.array(rows, np.int64), names, times))
