"""Columns of an archived feature vector, and conversion of the pipeline's spool to files of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from .archive_files import TEMPORARY_SUFFIX, event_folder, file_name, rewrite_lock, write_archive_file
from .vector_spool import VectorFrame, closed_spool_files, read_frames

_TEXT = pa.string()
VECTOR_SCHEMA_HEAD = pa.schema(
    [
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("time", pa.timestamp("ms", tz="UTC")),
        ("id", _TEXT),
        ("tenant_name", _TEXT),
        ("issuer", _TEXT),
        ("agent_id", _TEXT),
        ("agent_type", _TEXT),
        ("anomaly_score", pa.float64()),
        ("p_value", pa.float64()),
        ("risk_score", pa.float64()),
        ("risk_level", _TEXT),
        ("model_version", _TEXT),
    ]
)
"""Columns before those of the features, which are float32 and named as in docs/features.md."""

_VectorFileKey = tuple[int, str, tuple[str, ...]]  # partition, folder, features


class _VectorAgent(msgspec.Struct, gc=False):
    id: str
    issuer: str | None = None
    type: str | None = None


class _VectorEvent(msgspec.Struct, gc=False):
    """Members of an event that are archived beside its vector."""

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
        """Remove what a crash left half done, in the embedded form: there no other process writes ranges here.

        Of a topic, others write the same folder, under other names. While a process reads or erases, it is left to the
        next start: who erases has a file half done himself.
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
            target = self.directory / folder / name
            write_archive_file(target, lambda file, table=table: _write_table(table, file))  # type: ignore[misc]
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
            pa.array(times, pa.int64()).cast(VECTOR_SCHEMA_HEAD.field("time").type),
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


def _write_table(table: pa.Table, file: BinaryIO) -> None:
    pq.write_table(table, file, compression="zstd")
