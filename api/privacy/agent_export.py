"""Everything that is known about one agent, as a ZIP that is created while it is sent."""

from __future__ import annotations

import hashlib
import tempfile
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from trustwatch.ingest.archive.archive_files import read_positions
from trustwatch.ingest.log.log_reader import LogReader
from trustwatch.ingest.log.segment_import import first_offset
from trustwatch.ingest.record_erasure import ErasureSubject, RecordEraser
from trustwatch.ingest.source import RecordKind
from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.scoring.records.agents import AgentRow
from trustwatch.scoring.store.decision_chain import chain_heads_document
from trustwatch.scoring.store.sql_store import SqlStore

BUFFER_BYTES = 1 << 16
POLL_RECORDS = 1_000


class ExportSources(NamedTuple):
    """Sources of an export."""

    store: SqlStore
    log: Path | None  # directory of the embedded log; None = events are on a topic, and not exported
    archive: Path | None  # archive of events; None if there is none
    profile: Callable[[AgentRow], Any]  # describes an agent's state as text; None = nothing is known


def export_agent(
    sources: ExportSources, subject: ErasureSubject, dead_letters_of: Collection[str] | None, now_ms: int, by: str
) -> Iterator[bytes]:
    """The ZIP, piece by piece. Blocks; memory is bounded by a page of rows or a file of the archive.

    Raises CorruptLog.
    """
    sink = _ZipBuffer()
    entries: dict[str, dict[str, Any]] = {}
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        row = sources.store.agents.get(subject.tenant, subject.issuer, subject.name)
        profile = None if row is None else sources.profile(row)
        who = {"agent_id": subject.name, "tenant": subject.tenant, "issuer": subject.issuer}
        described = None if profile is None else msgspec.to_builtins(profile, enc_hook=str)
        document = {**who, "known": row is not None, "profile": described}  # `agents.jsonl` has the row
        yield from _write_entry(archive, sink, entries, "agent.json", [document])
        rows = sources.store.subjects.export(subject, dead_letters_of)
        for table, table_rows in groupby(rows, lambda row: row[0]):
            yield from _write_entry(archive, sink, entries, f"{table}.jsonl", (row for _, row in table_rows))
        yield from _write_entry(archive, sink, entries, "events.jsonl", _agent_events(sources, subject))
        manifest: dict[str, Any] = {**who, "made_at": format_rfc3339(now_ms), "by": by, "files": entries}
        if dead_letters_of is None:
            manifest["software"] = version("trustwatch")
            manifest["chain"] = chain_heads_document(sources.store.decisions.chain_heads())
        yield from _write_entry(archive, sink, {}, "manifest.json", [manifest])
    yield sink.take()


def _write_entry(
    archive: zipfile.ZipFile, sink: _ZipBuffer, entries: dict[str, dict[str, Any]], name: str, items: Iterable[Any]
) -> Iterator[bytes]:
    """Write one file of the ZIP, one JSON document a line; record its number of lines and digest in *entries*."""
    digest, count = hashlib.sha256(), 0
    with archive.open(name, "w", force_zip64=True) as file:
        for item in items:
            line = (item if isinstance(item, bytes) else msgspec.json.encode(item)) + b"\n"
            digest.update(line)
            file.write(line)
            count += 1
            if sink.size >= BUFFER_BYTES:
                yield sink.take()
    entries[name] = {"lines": count, "sha256": digest.hexdigest()}


class _ZipBuffer:
    """A file that can only be written, and is emptied from time to time."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.size = 0

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        """Nothing to flush: all written bytes are in the buffer."""

    def close(self) -> None:
        """Nothing to release."""

    def take(self) -> bytes:
        """Bytes written since the last call."""
        parts, self._parts, self.size = self._parts, [], 0
        return b"".join(parts)


def _agent_events(sources: ExportSources, subject: ErasureSubject) -> Iterator[bytes]:
    """Events of the agent as they were logged, oldest first: from the archive, then from the log."""
    archived: dict[int, int] = {}
    if sources.archive is not None and sources.archive.is_dir():
        yield from _archived_events(sources.archive, subject, archived)
        while sources.log is not None and first_offset(sources.log) > archived.get(0, 0):
            # The log has let go meanwhile of what the archive has taken over: read on in the archive.
            before = archived.get(0, 0)
            yield from _archived_events(sources.archive, subject, archived)
            if archived.get(0, 0) == before:
                break  # neither has it: the archive began later than the log lets go
    if sources.log is None:
        return
    eraser = RecordEraser(subject)  # the events of an agent are just what an erasure would remove
    with closing(LogReader(sources.log)) as reader:
        reader.seek(0, max(archived.get(0, 0), first_offset(sources.log)))
        while (batch := reader.poll(POLL_RECORDS, 0.0)) is not None:
            for record in batch.records:
                if record.kind == RecordKind.EVENT and eraser(record).kind == RecordKind.ERASED:
                    yield record.payload.replace(b"\n", b" ").replace(b"\r", b" ")


def _archived_events(directory: Path, subject: ErasureSubject, archived: dict[int, int]) -> Iterator[bytes]:
    """Events archived since *archived* (offsets by partition), which is advanced to the end of the archive.

    By way of a temporary file: a slow receiver must not keep the archive from being rewritten.
    """
    from trustwatch.ingest.archive.archive_reader import agent_lines  # needs the extra `archive`

    positions = read_positions(directory) or {}  # once: the archive grows while it is read
    with tempfile.TemporaryFile() as file:
        for line in agent_lines(directory, subject, positions, dict(archived)):
            file.write(line + b"\n")
        archived.update(positions)
        file.seek(0)
        for line in file:
            yield line.rstrip(b"\n")
