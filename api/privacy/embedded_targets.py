"""The stores in which a service keeps data of events: one walk erases, and the same one searches for remains."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import msgspec

from trustwatch.ingest.archive.archive_files import ArchiveFileKind, read_position
from trustwatch.ingest.log.event_log import EventLog, changed_records, closed_segments, count_erased
from trustwatch.ingest.log.group_commit import GroupCommit
from trustwatch.ingest.record_erasure import RecordEraser
from trustwatch.ingest.source import Record
from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.scoring.pipeline.ipc import PipelineStatus
from trustwatch.scoring.records.commits import ONLY_PARTITION
from trustwatch.scoring.records.erasures import Erasure
from trustwatch.scoring.store.sql_store import SqlStore
from trustwatch.scoring.store.subject_store import ErasureScope

from .local_archives import erase_archive, waiting_spool_files


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
        """The scope of the erasure in the store."""
        raise NotImplementedError

    async def _erase_elsewhere(self, erasure: Erasure, scope: ErasureScope) -> Mapping[str, int]:
        """Erase in places other than the database."""
        raise NotImplementedError

    def _count_elsewhere(self, erasure: Erasure, scope: ErasureScope) -> Mapping[str, int]:
        """Count what is left in those places; blocks."""
        raise NotImplementedError


@dataclass(eq=False, repr=False)
class EmbeddedErasureTargets(ErasureTargets):
    """Every place of one embedded service."""

    status: PipelineStatus
    archives: Mapping[ArchiveFileKind, Path]
    spool: Path

    def __post_init__(self) -> None:
        self._spool_files_by_erasure: dict[str, list[str]] = {}

    @property
    def directory(self) -> Path:
        """Directory of the log."""
        log = self.log.log
        assert isinstance(log, EventLog)
        return log.directory

    async def write_order(self, erasure: Erasure, record: Record) -> Erasure:
        """Log the order once."""
        return msgspec.structs.replace(erasure, at_offset=await self.log.commit([record]))

    async def waiting_for(self, erasure: Erasure, now_ms: int) -> str:  # noqa: ARG002 (no component has to report)
        """The pipeline, then each archive."""
        who = await self._waiting_component(erasure)
        return f"waits for {who} to come past offset {erasure.at_offset} of the log" if who else ""

    async def _waiting_component(self, erasure: Erasure) -> str:
        offset = erasure.at_offset
        committed = (await asyncio.to_thread(self.store.partitions.position, ONLY_PARTITION)).offset
        if committed <= offset or self.status.offset <= offset:
            return "the pipeline"
        # Files that waited when the pipeline had come past it.
        waiting = self._spool_files_by_erasure.setdefault(erasure.erasure_id, self.spool_files())
        if "events" in self.archives:
            archived = await asyncio.to_thread(read_position, self.archives["events"])
            if (archived or 0) <= offset:
                return "the archive"
        if set(waiting) & set(self.spool_files()):
            return "the archive of feature vectors"
        del self._spool_files_by_erasure[erasure.erasure_id]
        return ""

    async def summary(self, erasure: Erasure, now_ms: int) -> ErasureSummary:  # noqa: ARG002 (nothing of it ages here)
        """Facts for the proof: the log is rewritten up to the order."""
        return ErasureSummary(
            {"log_up_to_offset": erasure.at_offset, "log_up_to": format_rfc3339(erasure.at_ms)},
            remains=[_REMAINS_IN_LOG],
        )

    def spool_files(self) -> list[str]:
        """Numbers of the files that wait between the pipeline and the archive of vectors."""
        return waiting_spool_files(self.spool) if "vectors" in self.archives else []

    def _scope_of(self, erasure: Erasure) -> ErasureScope:
        return erasure_scope(erasure)

    async def _erase_elsewhere(self, erasure: Erasure, scope: ErasureScope) -> Mapping[str, int]:  # noqa: ARG002
        counts = Counter(await self._erase_log(scope))
        counts.update(await asyncio.to_thread(self._erase_archives, scope, dry=False))
        return counts

    def _count_elsewhere(self, erasure: Erasure, scope: ErasureScope) -> Mapping[str, int]:  # noqa: ARG002
        return self._count_log(scope) + self._erase_archives(scope, dry=True)

    async def _erase_log(self, scope: ErasureScope) -> dict[str, int]:
        end, change, counts = scope.at_offset + 1, RecordEraser(scope.subject), Counter[str]()
        await self.log.run_between_rounds(EventLog.roll)
        for base in closed_segments(self.directory, end):
            changes = await asyncio.to_thread(changed_records, self.directory, base, end, change)
            replace = partial(EventLog.replace_records, base=base, changes=changes)
            replaced = await self.log.run_between_rounds(replace) if changes else False
            if replaced:
                counts.update(_of_log(changes))
        await self.log.run_between_rounds(EventLog.clean)
        return dict(counts)

    def _count_log(self, scope: ErasureScope) -> Counter[str]:
        end, change, counts = scope.at_offset + 1, RecordEraser(scope.subject), Counter[str]()
        for base in closed_segments(self.directory, end):
            counts.update(_of_log(changed_records(self.directory, base, end, change)))
        return counts

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


def erasure_scope(erasure: Erasure, offsets: Mapping[int, int] | None = None) -> ErasureScope:
    """Scope of an erasure in the store."""
    return ErasureScope(erasure.erasure_id, erasure.erasure_subject, erasure.at_offset, erasure.at_ms, offsets)


def _of_log(changes: dict[int, Record]) -> dict[str, int]:
    removed, changed = count_erased(changes)
    return {"log.events": removed, "log.events.changed": changed}


def _of_database(counts: Mapping[str, int]) -> dict[str, int]:
    return {f"database.{name}": count for name, count in counts.items()}
