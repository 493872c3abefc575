"""Where a service keeps what events said: one walk for erasing, the same one for looking whether anything is left."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from ...ingest.archive.position import read_position
from ...ingest.erasing import RecordEraser
from ...ingest.log import EventLog, GroupCommit
from ...ingest.log.rewriting import closed_segments, count_changes, write_fresh
from ...scoring.store import SqlStore
from ...scoring.store.erasing import Scope

SPOOL_FILES = ("*.open", "*.frames")


class Committed(Protocol):
    """The part of the pipeline's state that is waited for."""

    @property
    def offset(self) -> int:
        """Next record that it will apply, and all before is in the view."""


class Places:
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
        self, store: SqlStore, log: GroupCommit, status: Committed, events: Path | None, vectors: Path | None,
        spool: Path,
    ) -> None:  # fmt: skip
        self.store = store
        self.log = log
        self._status = status
        self._archives: dict[str, Path] = {}
        if events is not None:
            self._archives["events"] = events
        if vectors is not None:
            self._archives["vectors"] = vectors
        self._spool = spool

    @property
    def directory(self) -> Path:
        """Of the log."""
        log = self.log.log
        assert isinstance(log, EventLog)
        return log.directory

    async def behind(self, offset: int, spooled: Sequence[str]) -> str:
        """Who has not come past *offset* yet; "" = everybody has.

        Args:
            offset: of a record of the log.
            spooled: files of the spool that were there when the pipeline had come past it.
        """
        position = await asyncio.to_thread(self.store_offset)
        if position <= offset or self._status.offset <= offset:
            return "the pipeline"
        if "events" in self._archives:
            archived = await asyncio.to_thread(read_position, self._archives["events"])
            if (archived or 0) <= offset:
                return "the archive"
        if set(spooled) & set(self.spooled()):
            return "the archive of feature vectors"
        return ""

    def store_offset(self) -> int:
        """How far the pipeline has committed."""
        return self.store.position(0).offset

    def spooled(self) -> list[str]:
        """Numbers of the files that wait between the pipeline and the archive of vectors."""
        if "vectors" not in self._archives:
            return []
        return sorted({path.stem for pattern in SPOOL_FILES for path in self._spool.glob(pattern) if _holds(path)})

    async def erase(self, scope: Scope) -> dict[str, int]:
        """Erase everywhere; counts of records and rows by place. May be called again at any time."""
        counts = Counter(_named("database", await asyncio.to_thread(self.store.erase, scope)))
        counts.update(await self._erase_log(scope))
        for kind in self._archives:
            counts.update(await asyncio.to_thread(self._archive, kind, scope, False))
        return dict(counts)

    async def left(self, scope: Scope) -> dict[str, int]:
        """What is still to be found, by place; empty = nothing."""
        counts = Counter(_named("database", await asyncio.to_thread(self.store.erase, scope, dry=True)))
        counts.update(await asyncio.to_thread(self._count_log, scope))
        for kind in self._archives:
            counts.update(await asyncio.to_thread(self._archive, kind, scope, True))
        return {place: count for place, count in counts.items() if count}

    async def _erase_log(self, scope: Scope) -> dict[str, int]:
        end, change, counts = scope.at_offset + 1, RecordEraser(scope.subject), Counter[str]()
        await self.log.run(EventLog.roll)
        for base in closed_segments(self.directory, end):
            made = await asyncio.to_thread(write_fresh, self.directory, base, end, change)
            if made is not None:
                await self.log.run(_replacing(base, made[0]))
                counts.update({"log.events": made[1].removed, "log.events.changed": made[1].changed})
        return dict(counts)

    def _count_log(self, scope: Scope) -> dict[str, int]:
        end, change, counts = scope.at_offset + 1, RecordEraser(scope.subject), Counter[str]()
        for base in closed_segments(self.directory, end):
            found = count_changes(self.directory, base, end, change)
            counts.update({"log.events": found.removed, "log.events.changed": found.changed})
        return dict(counts)

    def _archive(self, kind: Any, scope: Scope, dry: bool) -> dict[str, int]:
        from ...ingest.archive.erasing import erase_files  # needs the extra `archive`, which is there where one is kept

        found = erase_files(self._archives[kind], kind, scope.subject, scope.at_offset + 1, dry=dry)
        return {f"archive.{kind}": found.removed, f"archive.{kind}.changed": found.changed}


def _holds(path: Path) -> bool:
    """Whether anything is in a file of the spool; one that is empty was opened for what comes later."""
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:  # done, or handed on under its other name: looked at again
        return True


def _replacing(base: int, fresh: Path) -> Callable[[EventLog], bool]:
    return lambda log: log.replace_segment(base, fresh)


def _named(place: str, counts: dict[str, int]) -> dict[str, int]:
    return {f"{place}.{name}": count for name, count in counts.items()}
