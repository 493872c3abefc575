"""The places in which a service keeps data of events: one walk erases, and the same one searches for remains.

Archives are on the machines that keep them: each is erased by its process, which records this in the database.
An archive has its own id (a file in its folder; for vectors, one for each spool that leads there) and a row in `meta`
that records where it is and when its process was last seen. An erasure waits for every archive whose process is
running; the others are named in its proof, and erased when they come back.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import msgspec
import structlog

from trustwatch.ingest.archive.archive_files import ArchiveFileKind, read_position, read_positions
from trustwatch.ingest.durable_files import create_file_once
from trustwatch.ingest.errors import ConfigError, CorruptLog
from trustwatch.ingest.log.event_log import EventLog, changed_records, closed_segments, count_erased
from trustwatch.ingest.log.group_commit import GroupCommit
from trustwatch.ingest.record_erasure import ErasureSubject, RecordEraser
from trustwatch.ingest.source import Record
from trustwatch.ingest.timestamps import HOUR_MS, MINUTE_MS, format_rfc3339
from trustwatch.scoring.pipeline.ipc import PipelineStatus
from trustwatch.scoring.records.commits import ONLY_PARTITION
from trustwatch.scoring.records.erasures import Erasure
from trustwatch.scoring.store.sql_store import SqlStore
from trustwatch.scoring.store.subject_store import ErasureScope

from .. import clock

ID_FILE = "_archive-id"
ARCHIVE_KEY_PREFIX, ACKNOWLEDGEMENT_KEY_PREFIX = "archive.", "erased."
REGISTER_EVERY_MS = MINUTE_MS
REGISTERED_WITHIN_MS = HOUR_MS  # An archive whose process was not seen for so long does not hold an erasure up
RETRY_S = 30.0  # Pause before an archive that could not be erased is tried again, s


class ArchiveRegistration(msgspec.Struct, frozen=True):
    """An archive as its process has registered it."""

    kind: str
    host: str
    path: str
    seen_ms: int

    @property
    def place(self) -> str:
        """What it holds, and where, as text."""
        return f"{self.kind} on {self.host} ({self.path})"


class ArchiveAcknowledgement(msgspec.Struct, frozen=True):
    """Report of an archive on an order given at `at_ms`; 0 = it failed, and `error` is the reason."""

    at_ms: int
    removed: int = 0
    changed: int = 0
    error: str = ""


class ArchiveErasureProgress(NamedTuple):
    """Archives and one erasure: by id, those that have erased; those that are awaited; those that are not there.

    `errors`: the reasons of those that are not done.
    """

    done: dict[str, tuple[ArchiveRegistration, ArchiveAcknowledgement]]
    awaited: dict[str, ArchiveRegistration]
    missing: dict[str, ArchiveRegistration]
    errors: dict[str, str]


_log = structlog.get_logger(__name__)
_acknowledgement_decoder = msgspec.json.Decoder(ArchiveAcknowledgement)


@dataclass(eq=False, repr=False)
class LocalArchives:
    """Archives of this process."""

    store: SqlStore
    folders: Mapping[ArchiveFileKind, Path]
    topic: str
    spool: Path
    host: str
    latest_report: Callable[[], object]
    kept_ms: int

    def __post_init__(self) -> None:
        self._ids: dict[ArchiveFileKind, str] = {}
        self._registered_ms = -REGISTER_EVERY_MS
        self._handovers: dict[tuple[str, int], _SpoolHandover] = {}
        self._retry_at: dict[str, float] = {}
        self._acknowledged_ms: dict[str, int] = {}

    def register(self, now_ms: int) -> None:
        """Register the archives as running; blocks. Raises OSError, Unavailable."""
        if now_ms - self._registered_ms < REGISTER_EVERY_MS:
            return
        for kind, folder in self.folders.items():
            if kind not in self._ids:
                archive_id = _read_archive_id(folder)
                if kind == "vectors":  # workers may share the folder, each with a separate spool
                    # As it was called when one answered for all spools.
                    self.store.metadata.delete_prefix(ARCHIVE_KEY_PREFIX + archive_id)
                    archive_id = f"{_read_archive_id(self.spool)}-{archive_id}"
                self._ids[kind] = archive_id
            registration = ArchiveRegistration(kind, self.host, str(folder.resolve()), now_ms)
            self.store.metadata.put(ARCHIVE_KEY_PREFIX + self._ids[kind], msgspec.json.encode(registration).decode())
        self._registered_ms = now_ms

    def _registrations(self) -> dict[str, ArchiveRegistration]:
        """All archives of the deployment, by id."""
        return {
            key.removeprefix(ARCHIVE_KEY_PREFIX): msgspec.json.decode(text, type=ArchiveRegistration)
            for key, text in self.store.metadata.find(ARCHIVE_KEY_PREFIX).items()
        }

    def erasure_progress(self, erasure: Erasure, now_ms: int) -> ArchiveErasureProgress:
        """Progress of an erasure in all archives of the deployment; blocks."""
        acks = {
            key.rpartition(".")[2]: _acknowledgement_decoder.decode(text)
            for key, text in self.store.metadata.find(_acknowledgement_prefix(erasure)).items()
        }
        progress = ArchiveErasureProgress({}, {}, {}, {})
        for archive_id, registration in self._registrations().items():
            ack = acks.get(archive_id)
            if ack is not None and ack.at_ms == erasure.at_ms:
                progress.done[archive_id] = registration, ack
                continue
            if ack is not None and ack.error:
                progress.errors[archive_id] = ack.error
            if now_ms - registration.seen_ms <= REGISTERED_WITHIN_MS:
                progress.awaited[archive_id] = registration
            elif now_ms - registration.seen_ms <= self.kept_ms:
                progress.missing[archive_id] = registration
        return progress

    async def erase(self, erasure: Erasure, up_to: Mapping[int, int]) -> bool:
        """Erase in those archives of this process that are past the order; return true once all are done.

        An archive that cannot be read delays only what waits for it; the reason is stored with its report.
        """
        over = [await self._erase(kind, archive_id, erasure, up_to) for kind, archive_id in self._ids.items()]
        return all(over)

    async def _erase(self, kind: ArchiveFileKind, archive_id: str, erasure: Erasure, up_to: Mapping[int, int]) -> bool:
        key = _acknowledgement_prefix(erasure) + archive_id
        if self._acknowledged_ms.get(key) == erasure.at_ms:
            return True
        encoded = await asyncio.to_thread(self.store.metadata.get, key)
        done = stored = ArchiveAcknowledgement(0) if encoded is None else _acknowledgement_decoder.decode(encoded)
        if stored.at_ms != erasure.at_ms:
            if clock.monotonic() < self._retry_at.get(key, 0.0):
                return False
            if not await asyncio.to_thread(self._is_past, kind, erasure, up_to):
                return False
            done = await asyncio.to_thread(self._try_erase, kind, erasure, up_to)
            if done != stored:
                await asyncio.to_thread(self.store.metadata.put, key, msgspec.json.encode(done).decode())
        if done.error:
            self._retry_at[key] = clock.monotonic() + RETRY_S
            return False
        self._retry_at.pop(key, None)
        self._handovers.pop((erasure.erasure_id, erasure.at_ms), None)
        self._acknowledged_ms[key] = erasure.at_ms
        return True

    def _try_erase(self, kind: ArchiveFileKind, erasure: Erasure, up_to: Mapping[int, int]) -> ArchiveAcknowledgement:
        try:
            removed, changed = erase_archive(self.folders[kind], kind, erasure.erasure_subject, up_to)
        except (ConfigError, OSError) as error:
            _log.warning("an archive could not be erased", kind=kind, erasure_id=erasure.erasure_id, error=str(error))
            return ArchiveAcknowledgement(0, error=str(error))
        return ArchiveAcknowledgement(erasure.at_ms, removed, changed)

    def remaining(self, erasure: Erasure, up_to: Mapping[int, int]) -> dict[str, int]:
        """Counts of what the archives of this process still hold; blocks."""
        subject, counts = erasure.erasure_subject, {}
        for kind, folder in self.folders.items():
            if count := sum(erase_archive(folder, kind, subject, up_to, dry=True)):
                counts[f"archive.{kind}"] = count
        return counts

    def other_archives(self, now_ms: int) -> list[ArchiveRegistration]:
        """Archives that `remaining` does not search: those of other processes, while they have our files; blocks."""
        ours = {archive_id.rpartition("-")[2] for archive_id in self._ids.values()}  # by folder
        return [
            registration
            for archive_id, registration in self._registrations().items()
            if archive_id.rpartition("-")[2] not in ours and now_ms - registration.seen_ms <= self.kept_ms
        ]

    def drop_acknowledgements(self, erasure: Erasure) -> None:
        """Remove the reports of archives on an erasure that is over; blocks."""
        self.store.metadata.delete_prefix(_acknowledgement_prefix(erasure))
        for archive_id in self._ids.values():
            self._acknowledged_ms.pop(_acknowledgement_prefix(erasure) + archive_id, None)

    def _is_past(self, kind: ArchiveFileKind, erasure: Erasure, up_to: Mapping[int, int]) -> bool:
        if kind == "vectors":
            handover = self._handovers.setdefault((erasure.erasure_id, erasure.at_ms), _SpoolHandover())
            return handover.is_complete(self.latest_report(), self.spool)
        try:
            positions = read_positions(self.folders[kind], self.topic) or {}
        except CorruptLog:
            return False  # the archiver reports what is wrong with it
        return all(positions.get(partition, 0) > offset for partition, offset in up_to.items())


class _SpoolHandover:
    """Passage of vectors that a worker computed before an order through the spool.

    A worker hands vectors on after their commit, and reports then. The first report that comes after the order was
    seen to be committed may have left before that; the second one has not.
    """

    def __init__(self) -> None:
        self._reports: list[object] = []
        self._files: set[str] | None = None

    def is_complete(self, report: object, spool: Path) -> bool:
        if not any(report is earlier for earlier in self._reports):
            self._reports.append(report)
        if len(self._reports) < 3:  # the one of before, and two since
            return False
        if self._files is None:
            self._files = set(waiting_spool_files(spool))
        return not self._files & set(waiting_spool_files(spool))


def erase_archive(
    folder: Path, kind: ArchiveFileKind, subject: ErasureSubject, up_to: Mapping[int, int], *, dry: bool = False
) -> tuple[int, int]:
    """Erase in an archive what was logged up to offsets by partition; counts of removed and changed records. Blocks."""
    from trustwatch.ingest.archive.file_merging import erase_files  # needs the extra `archive`

    ends = {partition: offset + 1 for partition, offset in up_to.items()}
    erased = erase_files(folder, kind, subject, ends, dry=dry)
    return erased.removed, erased.changed


def waiting_spool_files(folder: Path) -> list[str]:
    """Numbers of the files that wait between pipeline and archive of vectors."""
    waiting = set()
    for path in (*folder.glob("*.open"), *folder.glob("*.frames")):
        try:
            empty = path.stat().st_size == 0  # opened for later vectors
        except FileNotFoundError:  # done, or handed on under its other name: checked again
            empty = False
        if not empty:
            waiting.add(path.stem)
    return sorted(waiting)


def _acknowledgement_prefix(erasure: Erasure) -> str:
    return f"{ACKNOWLEDGEMENT_KEY_PREFIX}{erasure.erasure_id}."


def _read_archive_id(folder: Path) -> str:
    """The id of an archive, made on first use."""
    path = folder / ID_FILE
    create_file_once(path, secrets.token_hex(8).encode())
    return path.read_text()


class ErasureSummary(NamedTuple):
    """Facts about an erasure for its proof."""

    covers: dict[str, Any]  # the positions up to which records were searched
    counts: Mapping[str, int] = {}  # of archives that erased in their own processes
    topics: Sequence[dict[str, Any]] = ()  # what was done about each topic, and until when the rest lives
    remains: Sequence[tuple[str, str, str]] = ()  # what, why and until when, in addition to what always remains


@dataclass(eq=False, repr=False)
class ErasureTargets:
    """All places of a deployment, as the erasure service works with them."""

    store: SqlStore
    log: GroupCommit

    keeps_name: ClassVar = False  # the identifier is needed after the end: some records cannot be erased

    async def write_order(self, erasure: Erasure, record: Record) -> Erasure:
        """Log the order to forget; returns the erasure with its position. Raises LogFailed, Backpressure."""
        raise NotImplementedError

    async def waiting_for(self, erasure: Erasure, now_ms: int) -> str:
        """Components that are still behind the order, as text; "" = all are past it."""
        raise NotImplementedError

    async def acknowledged(self, erasure: Erasure) -> Erasure:
        """The erasure with what is known of its order once all processes have come past it."""
        return erasure

    async def erase(self, erasure: Erasure) -> dict[str, int]:
        """Erase everywhere; counts of records and rows by place. May be called again at any time."""
        scope = self._scope_of(erasure)
        counts = Counter(_of_database(await asyncio.to_thread(self.store.subjects.erase, scope)))
        counts.update(await self._erase_elsewhere(erasure, scope))
        return dict(counts)

    async def remaining(self, erasure: Erasure) -> dict[str, int]:
        """Counts of what is still there, by place; empty = nothing."""
        scope = self._scope_of(erasure)
        counts = Counter(_of_database(await asyncio.to_thread(self.store.subjects.erase, scope, dry=True)))
        counts.update(await asyncio.to_thread(self._count_elsewhere, erasure, scope))
        return {target: count for target, count in counts.items() if count}

    async def not_checked(self, now_ms: int) -> list[str]:  # noqa: ARG002 (one process reaches all)
        """Places that `remaining` does not reach from this process, as text."""
        return []

    async def summary(self, erasure: Erasure, now_ms: int) -> ErasureSummary:
        """Facts for the proof."""
        raise NotImplementedError

    async def assist(self, now_ms: int) -> list[Erasure]:  # noqa: ARG002 (one process has nothing to assist)
        """Do the part of every process of the service; return the erasures that all workers have come past."""
        return []

    async def release_names(self, now_ms: int) -> list[Erasure]:  # noqa: ARG002 (no name is kept)
        """Remove the identifier of finished erasures that no longer need it; returns those."""
        return []

    def _scope_of(self, erasure: Erasure) -> ErasureScope:
        at = erasure.at_offset, erasure.at_ms
        return ErasureScope(erasure.erasure_id, erasure.erasure_subject, *at, self._offsets_of(erasure))

    def _offsets_of(self, erasure: Erasure) -> Mapping[int, int] | None:  # noqa: ARG002 (one log has `at_offset`)
        """Offset of the order by partition of a topic."""
        return None

    async def _erase_elsewhere(self, erasure: Erasure, scope: ErasureScope) -> Mapping[str, int]:
        raise NotImplementedError

    def _count_elsewhere(self, erasure: Erasure, scope: ErasureScope) -> Mapping[str, int]:
        raise NotImplementedError


@dataclass(eq=False, repr=False)
class EmbeddedErasureTargets(ErasureTargets):
    """Every place of one embedded service."""

    status: PipelineStatus
    archives: Mapping[ArchiveFileKind, Path]
    spool: Path

    def __post_init__(self) -> None:
        assert isinstance(self.log.log, EventLog)
        self._directory = self.log.log.directory
        self._spool_files_by_erasure: dict[str, list[str]] = {}

    async def write_order(self, erasure: Erasure, record: Record) -> Erasure:
        return msgspec.structs.replace(erasure, at_offset=await self.log.commit([record]))

    async def waiting_for(self, erasure: Erasure, now_ms: int) -> str:  # noqa: ARG002 (no component has to report)
        offset, waits = erasure.at_offset, "waits for {} to come past offset {} of the log"
        committed = (await asyncio.to_thread(self.store.partitions.position, ONLY_PARTITION)).offset
        if committed <= offset or self.status.offset <= offset:
            return waits.format("the pipeline", offset)
        # Files that waited when the pipeline had come past it.
        waiting = self._spool_files_by_erasure.setdefault(erasure.erasure_id, self._spool_files())
        if "events" in self.archives:
            archived = await asyncio.to_thread(read_position, self.archives["events"])
            if (archived or 0) <= offset:
                return waits.format("the archive", offset)
        if set(waiting) & set(self._spool_files()):
            return waits.format("the archive of feature vectors", offset)
        del self._spool_files_by_erasure[erasure.erasure_id]
        return ""

    async def summary(self, erasure: Erasure, now_ms: int) -> ErasureSummary:  # noqa: ARG002 (nothing of it ages here)
        covers = {"log_up_to_offset": erasure.at_offset, "log_up_to": format_rfc3339(erasure.at_ms)}
        return ErasureSummary(covers, remains=[_REMAINS_IN_LOG])

    def _spool_files(self) -> list[str]:
        return waiting_spool_files(self.spool) if "vectors" in self.archives else []

    async def _erase_elsewhere(self, erasure: Erasure, scope: ErasureScope) -> Mapping[str, int]:  # noqa: ARG002
        counts = Counter[str]()
        await self.log.run_between_rounds(EventLog.roll)
        for base in closed_segments(self._directory, scope.at_offset + 1):
            changes = await asyncio.to_thread(self._changes_of, scope, base)
            replace = partial(EventLog.replace_records, base=base, changes=changes)
            replaced = await self.log.run_between_rounds(replace) if changes else False
            if replaced:
                counts.update(_of_log(changes))
        await self.log.run_between_rounds(EventLog.clean)
        counts.update(await asyncio.to_thread(self._erase_archives, scope, dry=False))
        return counts

    def _count_elsewhere(self, erasure: Erasure, scope: ErasureScope) -> Mapping[str, int]:  # noqa: ARG002
        counts = self._erase_archives(scope, dry=True)
        for base in closed_segments(self._directory, scope.at_offset + 1):
            counts.update(_of_log(self._changes_of(scope, base)))
        return counts

    def _changes_of(self, scope: ErasureScope, base: int) -> dict[int, Record]:
        return changed_records(self._directory, base, scope.at_offset + 1, RecordEraser(scope.subject))

    def _erase_archives(self, scope: ErasureScope, *, dry: bool) -> Counter[str]:
        counts = Counter[str]()
        for kind, folder in self.archives.items():
            removed, changed = erase_archive(folder, kind, scope.subject, {ONLY_PARTITION: scope.at_offset}, dry=dry)
            counts.update({f"archive.{kind}": removed, f"archive.{kind}.changed": changed})
        return counts


_REMAINS_IN_LOG = (
    "64-bit hash of tenant, source and event id of each erased event, with its arrival, in the log",
    "the same event, sent again, would count as a new one; it holds nothing of who the event was about",
    "the segments of the log are dropped",
)


def _of_log(changes: dict[int, Record]) -> dict[str, int]:
    removed, changed = count_erased(changes)
    return {"log.events": removed, "log.events.changed": changed}


def _of_database(counts: Mapping[str, int]) -> dict[str, int]:
    return {f"database.{name}": count for name, count in counts.items()}
