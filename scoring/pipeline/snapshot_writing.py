"""Copies of agents' rows are kept in files, so that whoever takes a large partition over need not read the rows.

A thread beside the pipeline compares the versions of all rows with those of the copies now and then, reads rows that
have no copy, and writes them into a new file. It works a part of the time, and not while there is a backlog. Nobody
waits for it: what has no copy is read from its row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import structlog

from trustwatch.ingest.errors import Fenced, TrustwatchError

from ..records.agent_pages import AgentColumns, StateFormat
from ..records.commits import Position
from ..records.snapshots import NO_VERSIONS, AgentVersions, Snapshot, SnapshotIndex
from ..store.snapshot_files import SnapshotFiles, UnreadableSnapshot
from .partition import PartitionPipeline
from .pipeline_context import PipelineContext

_log = structlog.get_logger(__name__)

MIN_AGENTS: Final = 5_000
"""Agents of a partition from which on it has snapshots: fewer rows are read in a fraction of a second."""

MIN_CHANGED_SHARE: Final = 0.1
"""Share of the agents of a partition that have no copy from which on copies are written."""

MIN_KEPT_SHARE: Final = 0.5
"""Share of the copies of a file that are still as their rows, below which these are copied anew and the file goes."""

READ_SIZE: Final = 1_000
"""Agents whose rows are read at a time."""

BLOCK_SIZE: Final = 4_000
"""Agents that are decoded at a time: threads that do it wait for each other once a block."""

FILE_SIZE: Final = 20_000
"""Agents of a file, some 30 MB."""

FIRST_LOOK_S: Final = 10.0
"""Time from which on a partition is looked at, once its agents are in memory."""

LOOK_EVERY_S: Final = 60.0
"""Shortest time between two looks at a partition."""

GONE_FOR_S: Final = 6 * 3600.0
"""Time for which a file may have copies of agents that have no row any more. Who purges some, does so all over."""

REST_FACTOR: Final = 3.0
"""Pause behind each read and write, by the time that it took."""

LOOK_FACTOR: Final = 10.0
"""Pause behind a look with all that it wrote, by the time that it took."""

SCAN_FACTOR: Final = 100.0
"""The same by the time that the versions of all rows took: a large table may have to be read from disk for it."""


class _Copied(NamedTuple):
    """Findings of a look: rows that have no copy, and snapshots that are to go."""

    missing: AgentVersions  # of agents without a copy in one that stays, and of whom one can be made
    dropped: list[Snapshot]
    is_urgent: bool  # whether one of these must go, however few rows have no copy


class _Stopped(Exception):
    """The partition is not ours any more, or the worker ends."""


class _Watch:
    """A partition whose copies are kept up. For the thread of the pipeline, but for `stopped`."""

    def __init__(self, pipeline: PartitionPipeline, due_at: float) -> None:
        self.pipeline = pipeline
        self.due_at = due_at
        self.stopped = Event()
        self.running: Future[None] | None = None
        self.scan_s = 0.0
        """Time that the versions of all rows took last."""
        self.uncopied = NO_VERSIONS
        """Rows that the last look could not copy, in these versions: they are of an earlier format."""
        self.gone_since: dict[str, float] = {}
        """Times at which agents of snapshots, by name, were first found to have no row any more."""


class SnapshotWriter:
    """Keeps copies of the rows of partitions, one partition after the other. For the thread of the pipeline.

    Args:
        context: of the pipelines.
        files: of snapshots.
    """

    def __init__(self, context: PipelineContext, files: SnapshotFiles) -> None:
        self._context = context
        self._files = files
        self._executor = ThreadPoolExecutor(1, "snapshots")
        self._watches: dict[int, _Watch] = {}

    def begin(self, pipeline: PartitionPipeline) -> None:
        """Keep copies of a partition that was taken over."""
        self._watches[pipeline.partition] = _Watch(pipeline, self._context.monotonic() + FIRST_LOOK_S)

    def stop(self, partition: int) -> None:
        """Write no more for a partition that is not ours any more."""
        if (watch := self._watches.pop(partition, None)) is not None:
            watch.stopped.set()
            self._files.forget_indexes(partition)

    def step(self) -> None:
        """Begin to look at a partition whose turn it is, unless another one is looked at, or there is a backlog."""
        if not self._watches:
            return
        now, watches = self._context.monotonic(), self._watches.values()
        for watch in watches:
            self._note_end(watch, now)
        if any(watch.running is not None or watch.pipeline.commits.backlogged for watch in watches):
            return
        due = [watch for watch in watches if watch.due_at <= now]
        if due:
            first = min(due, key=lambda watch: watch.due_at)
            first.due_at = now
            first.running = self._executor.submit(self._look, first)

    def _note_end(self, watch: _Watch, now: float) -> None:
        if watch.running is None or not watch.running.done():
            return
        error = watch.running.exception()
        watch.running = None
        watch.due_at = now + max(LOOK_EVERY_S, LOOK_FACTOR * (now - watch.due_at), SCAN_FACTOR * watch.scan_s)
        if error is not None and not isinstance(error, _Stopped):  # whatever it is, the pipeline goes on without copies
            self._context.stages.counts["snapshots_failed"] += 1
            known = isinstance(error, TrustwatchError)
            _log.warning(
                "copies of rows were not written",
                partition=watch.pipeline.partition,
                error=str(error) if known else repr(error),
                exc_info=None if known else error,
            )

    def _look(self, watch: _Watch) -> None:
        """Look which rows have a copy, and copy others where it is worth it."""
        try:
            _Look(self._context, self._files, watch).run()
        except Fenced:
            return  # the pipeline learns so, too

    def close(self) -> None:
        """End the thread, after what it is reading or writing."""
        for partition in list(self._watches):
            self.stop(partition)
        self._executor.shutdown(wait=True, cancel_futures=True)


class _Look:
    """One look at a partition.

    Args:
        context: of the pipelines.
        files: of snapshots.
        watch: the partition; it is ended by `stopped`.
    """

    def __init__(self, context: PipelineContext, files: SnapshotFiles, watch: _Watch) -> None:
        self._store, self._counts, self._monotonic = context.store, context.stages.counts, context.monotonic
        self._files, self._watch = files, watch
        self._owner: Position = watch.pipeline.position
        self._format: StateFormat = watch.pipeline.agent_states.state_format
        self._generation = self._store.snapshots.generation()

    def run(self) -> None:
        """Look, and write what is worth it. Raises Fenced, Unavailable, _Stopped."""
        snapshots = self._list_snapshots()
        begun = self._monotonic()
        versions = self._store.agents.versions_of_partition(self._owner)
        self._watch.scan_s = self._monotonic() - begun
        if not MIN_AGENTS <= versions.agent_count <= self._watch.pipeline.agent_states.capacity:
            self._drop(snapshots)  # few rows are quickly read, and more than memory has room for would not move in
            return
        copied = self._compare(versions, snapshots)
        if copied.is_urgent or copied.missing.agent_count >= max(1, MIN_CHANGED_SHARE * versions.agent_count):
            self._copy(copied.missing)
            self._drop(copied.dropped)

    def _list_snapshots(self) -> list[Snapshot]:
        """Snapshots of the partition whose files are here; other files, of a crash or from before an erasure, go."""
        partition = self._owner.partition
        found = self._files.list_names(partition)
        snapshots = self._store.snapshots.list_of(partition)
        self._store.partitions.check_owner(self._owner)  # else what is found may be the next owner's
        self._files.remove_unfinished()
        named = {snapshot.name for snapshot in snapshots}
        self._files.remove(found - named)
        self._files.forget_indexes(partition, named)
        lost = [snapshot for snapshot in snapshots if snapshot.name not in found]
        self._drop(lost)
        return [snapshot for snapshot in snapshots if snapshot not in lost]

    def _compare(self, versions: AgentVersions, snapshots: Sequence[Snapshot]) -> _Copied:
        """Compare rows with their copies. Copies in files that are to go count as missing."""
        is_copied, dropped, is_urgent = np.zeros(versions.agent_count, np.bool_), [], False
        for snapshot in snapshots:
            self._check_stopped()
            index = self._read_index(snapshot)
            places = np.empty(0, np.intp) if index is None else versions.find(index.versions)
            places = places[places >= 0]
            places = places[~is_copied[places]]
            must_go = index is None or self._has_long_gone(snapshot, index, versions)
            is_urgent = is_urgent or must_go
            if must_go or len(places) < MIN_KEPT_SHARE * snapshot.agents:
                dropped.append(snapshot)
            else:
                is_copied[places] = True
        tried = versions.find(self._watch.uncopied)
        is_copied[tried[tried >= 0]] = True  # in vain: their rows are as they were
        self._watch.uncopied = self._watch.uncopied.at(tried >= 0)
        return _Copied(versions.at(~is_copied), dropped, is_urgent)

    def _has_long_gone(self, snapshot: Snapshot, index: SnapshotIndex, versions: AgentVersions) -> bool:
        """True if it has agents that have had no row for a while: nobody may keep what was forgotten."""
        if versions.has(index.versions.keys).all():
            return False
        since = self._watch.gone_since.setdefault(snapshot.name, self._monotonic())
        return self._monotonic() - since >= GONE_FOR_S

    def _read_index(self, snapshot: Snapshot) -> SnapshotIndex | None:
        """Index of a snapshot; None = it can not be read, or has states of another format."""
        try:
            index = self._files.index(snapshot)
        except UnreadableSnapshot:
            return None
        return index if index.state_format == self._format else None

    def _copy(self, missing: AgentVersions) -> None:
        """Copy the rows of some agents into files."""
        copied = [NO_VERSIONS.keys]
        for of_file in _cut(missing.keys, FILE_SIZE):
            blocks = [block for some in _cut(of_file, BLOCK_SIZE) if (block := self._read_block(some)) is not None]
            if blocks and not self._write(blocks):
                return
            copied += [versions.keys for _, versions in blocks]
        left = missing.at(~np.isin(missing.keys, np.concatenate(copied)))
        self._watch.uncopied = AgentVersions.join([self._watch.uncopied, left]).sorted()

    def _read_block(self, keys: npt.NDArray[np.uint64]) -> tuple[AgentColumns, AgentVersions] | None:
        """Rows of some agents, and their versions; None = there are none of the present format.

        Others of them are read as rows until they act, which writes them in this one.
        """
        read: list[AgentColumns] = []
        versions: list[AgentVersions] = []
        for some in _cut(keys, READ_SIZE):
            begun = self._monotonic()
            page, of_page = self._store.agents.states_of_agents(self._owner, some, self._format)
            if page.columns is not None:
                read.append(page.columns)
                versions.append(of_page.of_keys(page.columns.keys))
            self._rest(begun)
        return (AgentColumns.join(read), AgentVersions.join(versions)) if read else None

    def _write(self, blocks: Sequence[tuple[AgentColumns, AgentVersions]]) -> bool:
        """Write a file; False = it had to go again, since all were forgotten meanwhile."""
        begun = self._monotonic()
        snapshot = self._files.write(self._owner.partition, self._generation, self._format, blocks)
        is_kept = False
        try:
            is_kept = self._store.snapshots.add(self._owner, snapshot)
        finally:
            if not is_kept:
                self._files.remove([snapshot.name])
        if is_kept:
            self._counts["snapshots"] += 1
            self._counts["snapshot_bytes"] += snapshot.content_bytes
        self._rest(begun)
        return is_kept

    def _drop(self, snapshots: Sequence[Snapshot]) -> None:
        if names := [snapshot.name for snapshot in snapshots]:
            self._store.snapshots.remove(names)
            self._files.remove(names)

    def _rest(self, begun: float) -> None:
        """Leave the machine to others for a while. Raises _Stopped."""
        self._watch.stopped.wait(REST_FACTOR * (self._monotonic() - begun))
        self._check_stopped()
        while self._watch.pipeline.commits.backlogged:
            self._watch.stopped.wait(1.0)
            self._check_stopped()

    def _check_stopped(self) -> None:
        if self._watch.stopped.is_set():
            raise _Stopped


def _cut(keys: npt.NDArray[np.uint64], size: int) -> Iterator[npt.NDArray[np.uint64]]:
    for start in range(0, len(keys), size):
        yield keys[start : start + size]
