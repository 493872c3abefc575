"""Places where a service keeps what events said: one walk for erasing, the same one for looking for remains."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from trustwatch.ingest.archive.archive_files import read_position
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.log.group_commit import GroupCommit
from trustwatch.ingest.log.log_segments import closed_segments, count_changes, write_rewritten_segment
from trustwatch.ingest.record_erasure import RecordEraser
from trustwatch.ingest.source import Record
from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.scoring.records.commits import ONLY_PARTITION
from trustwatch.scoring.records.erasures import Erasure
from trustwatch.scoring.store.sql_store import SqlStore
from trustwatch.scoring.store.subject_store import ErasureScope

from .local_archives import waiting_spool_files


class ErasureSummary(NamedTuple):
    """Facts about an erasure for its proof.

    Attributes:
        covers: up to where records were looked at.
        counts: of archives that erased by themselves.
        topics: what was done about each topic, and until when the rest lives.
        remains: what, why and until when, beside what always does.
    """

    covers: dict[str, Any]
    counts: Mapping[str, int] = {}
    topics: Sequence[dict[str, Any]] = ()
    remains: Sequence[tuple[str, str, str]] = ()


class ErasureTargets(Protocol):
    """All places of a deployment, as the erasure service works with them."""

    @property
    def store(self) -> SqlStore:
        """The deployment's database."""

    @property
    def keeps_name(self) -> bool:
        """True if the identifier is needed after the end, to keep records from being read that can not be erased."""

    async def write_order(self, erasure: Erasure, record: Record) -> Erasure:
        """Log the order to forget; returns the erasure with where it lies. Raises LogFailed, Backpressure."""

    async def waiting_for(self, erasure: Erasure, now_ms: int) -> str:
        """Components that are waited for, in words; "" = all have come past the order."""

    async def acknowledged(self, erasure: Erasure) -> Erasure:
        """The erasure with what is known of its order once all processes have come past it."""

    async def erase(self, erasure: Erasure) -> dict[str, int]:
        """Erase everywhere; counts of records and rows by place. May be called again at any time."""

    async def remaining(self, erasure: Erasure) -> dict[str, int]:
        """Counts of what is still there, by place; empty = nothing."""

    async def not_checked(self, now_ms: int) -> list[str]:
        """Places that `remaining` does not reach from this process, in words."""

    async def summary(self, erasure: Erasure, now_ms: int) -> ErasureSummary:
        """Facts for the proof."""

    async def assist(self, now_ms: int) -> list[Erasure]:
        """Do the part of every process of the service; return the erasures that all workers have come past."""

    async def release_names(self, now_ms: int) -> list[Erasure]:
        """Remove the identifier of finished erasures where it is needed no longer; returns those."""


class PipelineProgress(Protocol):
    """The part of the pipeline's state that is waited for."""

    @property
    def offset(self) -> int:
        """Next record that it will apply, and all before is in the view."""


class EmbeddedErasureTargets:
    """Every place of one embedded service.

    Args:
        store: database.
        log: the embedded event log.
        status: how far the pipeline is.
        events: archive of events, None = there is none.
        vectors: archive of feature vectors, None = there is none.
        spool: folder between the pipeline and the archive of vectors.
    """

    def __init__(
        self,
        store: SqlStore,
        log: GroupCommit,
        status: PipelineProgress,
        events: Path | None,
        vectors: Path | None,
        spool: Path,
    ) -> None:
        self.store = store
        self.log = log
        self._status = status
        self._archives: dict[str, Path] = {}
        if events is not None:
            self._archives["events"] = events
        if vectors is not None:
            self._archives["vectors"] = vectors
        self._spool = spool
        self._spool_files_by_erasure: dict[str, list[str]] = {}
        self.keeps_name = False

    @property
    def directory(self) -> Path:
        """Directory of the log."""
        log = self.log.log
        assert isinstance(log, EventLog)
        return log.directory

    async def write_order(self, erasure: Erasure, record: Record) -> Erasure:
        """See `ErasureTargets.write_order`."""
        return msgspec.structs.replace(erasure, at_offset=await self.log.commit([record]))

    async def waiting_for(self, erasure: Erasure, now_ms: int) -> str:  # noqa: ARG002 (nobody is expected to report)
        """See `ErasureTargets.waiting_for`."""
        who = await self._waiting_component(erasure)
        return f"waits for {who} to come past offset {erasure.at_offset} of the log" if who else ""

    async def _waiting_component(self, erasure: Erasure) -> str:
        offset = erasure.at_offset
        position = await asyncio.to_thread(self.committed_offset)
        if position <= offset or self._status.offset <= offset:
            return "the pipeline"
        waiting = self._spool_files_by_erasure.setdefault(
            erasure.erasure_id, self.spool_files()
        )  # when the pipeline had come past it
        if "events" in self._archives:
            archived = await asyncio.to_thread(read_position, self._archives["events"])
            if (archived or 0) <= offset:
                return "the archive"
        if set(waiting) & set(self.spool_files()):
            return "the archive of feature vectors"
        del self._spool_files_by_erasure[erasure.erasure_id]
        return ""

    async def acknowledged(self, erasure: Erasure) -> Erasure:
        """See `ErasureTargets.acknowledged`."""
        return erasure

    async def summary(self, erasure: Erasure, now_ms: int) -> ErasureSummary:  # noqa: ARG002 (nothing of it ages here)
        """See `ErasureTargets.summary`."""
        return ErasureSummary(
            {"log_up_to_offset": erasure.at_offset, "log_up_to": format_rfc3339(erasure.at_ms)},
            remains=[_REMAINS_IN_LOG],
        )

    async def assist(self, now_ms: int) -> list[Erasure]:  # noqa: ARG002 (there is one process)
        """See `ErasureTargets.assist`."""
        return []

    async def release_names(self, now_ms: int) -> list[Erasure]:  # noqa: ARG002 (no name is kept)
        """See `ErasureTargets.release_names`."""
        return []

    def committed_offset(self) -> int:
        """Offset up to which the pipeline has committed."""
        return self.store.partitions.position(ONLY_PARTITION).offset

    def spool_files(self) -> list[str]:
        """Numbers of the files that wait between the pipeline and the archive of vectors."""
        if "vectors" not in self._archives:
            return []
        return waiting_spool_files(self._spool)

    async def erase(self, erasure: Erasure) -> dict[str, int]:
        """See `ErasureTargets.erase`."""
        scope = erasure_scope(erasure)
        counts = Counter(prefixed_counts("database", await asyncio.to_thread(self.store.subjects.erase, scope)))
        counts.update(await self._erase_log(scope))
        for kind in self._archives:
            counts.update(await asyncio.to_thread(self._erase_archive, kind, scope, False))
        return dict(counts)

    async def remaining(self, erasure: Erasure) -> dict[str, int]:
        """See `ErasureTargets.remaining`."""
        scope = erasure_scope(erasure)
        counts = Counter(
            prefixed_counts("database", await asyncio.to_thread(self.store.subjects.erase, scope, dry=True))
        )
        counts.update(await asyncio.to_thread(self._count_log, scope))
        for kind in self._archives:
            counts.update(await asyncio.to_thread(self._erase_archive, kind, scope, True))
        return {target: count for target, count in counts.items() if count}

    async def not_checked(self, now_ms: int) -> list[str]:  # noqa: ARG002 (there is one process)
        """See `ErasureTargets.not_checked`."""
        return []

    async def _erase_log(self, scope: ErasureScope) -> dict[str, int]:
        end, change, counts = scope.at_offset + 1, RecordEraser(scope.subject), Counter[str]()
        await self.log.run_between_rounds(EventLog.roll)
        for base in closed_segments(self.directory, end):
            rewritten = await asyncio.to_thread(write_rewritten_segment, self.directory, base, end, change)
            if rewritten is not None:
                await self.log.run_between_rounds(_segment_replacement(base, rewritten[0]))
                counts.update({"log.events": rewritten[1].removed, "log.events.changed": rewritten[1].changed})
        return dict(counts)

    def _count_log(self, scope: ErasureScope) -> dict[str, int]:
        end, change, counts = scope.at_offset + 1, RecordEraser(scope.subject), Counter[str]()
        for base in closed_segments(self.directory, end):
            segment_counts = count_changes(self.directory, base, end, change)
            counts.update({"log.events": segment_counts.removed, "log.events.changed": segment_counts.changed})
        return dict(counts)

    def _erase_archive(self, kind: Any, scope: ErasureScope, dry: bool) -> dict[str, int]:
        from trustwatch.ingest.archive.archive_erasure import (
            erase_files,  # needs the extra `archive`, which is there where one is kept
        )

        erased = erase_files(self._archives[kind], kind, scope.subject, {0: scope.at_offset + 1}, dry=dry)
        return {f"archive.{kind}": erased.removed, f"archive.{kind}.changed": erased.changed}


_REMAINS_IN_LOG = (
    "64-bit hash of tenant, source and event id of each erased event, with its arrival, in the log",
    "the same event, sent again, would count as a new one; it holds nothing of who the event was about",
    "the segments of the log are dropped",
)


def erasure_scope(erasure: Erasure, offsets: Mapping[int, int] | None = None) -> ErasureScope:
    """Scope of an erasure in the store."""
    return ErasureScope(erasure.erasure_id, erasure.erasure_subject, erasure.at_offset, erasure.at_ms, offsets)


def _segment_replacement(base: int, fresh: Path) -> Callable[[EventLog], bool]:
    return lambda log: log.replace_segment(base, fresh)


def prefixed_counts(target: str, counts: dict[str, int]) -> dict[str, int]:
    """Counts of one target under its name."""
    return {f"{target}.{name}": count for name, count in counts.items()}
