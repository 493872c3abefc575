"""Readers of the stored agents of a partition, page by page, on threads beside the pipeline's.

Rows come from the database in ranges of keys. Where the partition has snapshots the database says first which version
each row has. Copies of just those versions come from the files, and only the rest from rows: so it does not matter
which files are there, how old they are, or what became of an agent since. An erasure alone changes rows without a new
version: it forgets all snapshots, and what was read of one before is not used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock
from typing import Final

import numpy as np
import numpy.typing as npt
import structlog

from trustwatch.ingest.errors import Unavailable

from ..records.agent_pages import AgentColumns, AgentPage, StateFormat
from ..records.commits import Position
from ..records.snapshots import NO_VERSIONS, Snapshot
from ..store.agent_store import AgentStore
from ..store.snapshot_files import OpenSnapshot, SnapshotFiles, UnreadableSnapshot
from ..store.sql_store import SqlStore

_log = structlog.get_logger(__name__)

PAGE_SIZE = 1_000
"""Agents that are read at a time, 3 MB: asking for a page costs as much as a hundred agents."""

KEY_RANGES = ((None, 2**64 - 1), (2**64 - 1, None))
"""Keys behind which each reader begins, and up to which it reads, in the order of signed numbers. Keys are hashes: half
of a partition's agents lie in each. While the page of one is cut into columns, the database reads for the other."""

READ_INSTEAD: Final = "rows are read instead of their copies"
_NO_AGENTS: Final = AgentPage(None, [], None)


class PageReader(ABC):
    """Reads some of the agents of a partition. One page is read at a time, by whatever thread."""

    gives_copies = False
    """True if its agents come from snapshots."""
    only_prepares = False
    """True if it gives no agents: others are known once it is done."""
    takes_long = False
    """True if it keeps the database and this process busy for seconds, so that it has to wait for a quiet moment."""

    def __init__(self) -> None:
        self.page: Future[AgentPage] | None = None
        """The page that is being read, or waits to be, or was not taken yet."""
        self.has_more = True
        """False once the last page was read."""

    @abstractmethod
    def read(self) -> AgentPage:
        """Read the next page. Raises Unavailable, Fenced."""

    def stop(self) -> None:  # noqa: B027 (most have nothing that takes long)
        """Have a page that is being read end early, where it takes long: nobody wants it any more."""


class _RangeReader(PageReader):
    """Reads agents with keys of a range from their rows.

    Args:
        agents: where they are.
        owner: of the partition.
        state_format: whose agents come as columns.
        after: key behind which they begin; None = with the first.
        last: greatest key; None = up to the last one.
    """

    def __init__(
        self, agents: AgentStore, owner: Position, state_format: StateFormat, after: int | None, last: int | None
    ) -> None:
        super().__init__()
        self._agents, self._owner, self._state_format = agents, owner, state_format
        self._after, self._last = after, last

    def read(self) -> AgentPage:
        """See `PageReader`."""
        page = self._agents.states_of_partition(self._owner, self._after, PAGE_SIZE, self._state_format, self._last)
        self._after, self.has_more = page.last_key, page.last_key is not None
        return page


class _KeyReader(PageReader):
    """Reads the agents of some keys from their rows."""

    def __init__(
        self, agents: AgentStore, owner: Position, state_format: StateFormat, keys: npt.NDArray[np.uint64]
    ) -> None:
        super().__init__()
        self._agents, self._owner, self._state_format, self._keys = agents, owner, state_format, keys

    def read(self) -> AgentPage:
        """See `PageReader`."""
        some, self._keys = self._keys[:PAGE_SIZE], self._keys[PAGE_SIZE:]
        self.has_more = bool(len(self._keys))
        return self._agents.states_of_agents(self._owner, some, self._state_format)[0] if len(some) else _NO_AGENTS


class _Preparation(PageReader):
    """Looks which copies there are; its one page has no agents.

    Args:
        prepare: does it. Raises Unavailable; then rows are read, by many short queries instead of a long one.
        owner: of the partition.
        takes_long: see `PageReader`.
    """

    only_prepares = True

    def __init__(self, prepare: Callable[[Position], None], owner: Position, *, takes_long: bool = False) -> None:
        super().__init__()
        self._prepare, self._owner, self.takes_long = prepare, owner, takes_long

    def read(self) -> AgentPage:
        """See `PageReader`."""
        self.has_more = False
        try:
            self._prepare(self._owner)
        except Unavailable as error:
            _log.warning(READ_INSTEAD, partition=self._owner.partition, error=str(error))
        return _NO_AGENTS


class _SnapshotReader(PageReader):
    """Reads snapshots, one after the other, beside other readers of them."""

    gives_copies = True

    def __init__(self, copies: _Copies) -> None:
        super().__init__()
        self._copies = copies
        self._open: OpenSnapshot | None = None
        self._places: npt.NDArray[np.intp] = np.empty(0, np.intp)
        self._block = 0

    def read(self) -> AgentPage:
        """See `PageReader`."""
        while (page := self._read_block()) is None:
            pass
        return page

    def stop(self) -> None:
        """See `PageReader`; other readers of these copies end, too."""
        self._copies.stop()

    def _read_block(self) -> AgentPage | None:
        """The wanted agents of the next block; None = there are none in it, or it can not be read."""
        if self._open is None and not self._open_next():
            self.has_more = False
            return _NO_AGENTS
        opened = self._open
        assert opened is not None
        number, ends = self._block, opened.index.block_ends
        if number == len(ends) or self._copies.is_stopped:
            self._open = None
            return None
        self._block += 1  # before it is read: a damaged one is not read again
        places = self._places[ends[number - 1] if number else 0 : ends[number]]
        if not (wanted := places >= 0).any():
            return None
        columns = self._copies.read_block(opened, number)
        if columns is None:
            self._copies.give_back(places[wanted])
            return None
        return AgentPage(columns if wanted.all() else columns.where(wanted), [], None)

    def _open_next(self) -> bool:
        taken = self._copies.take_next()
        if taken is not None:
            (self._open, self._places), self._block = taken, 0
        return taken is not None


class _Copies:
    """Agents of a partition whose copies are looked for, shared by the readers of snapshots.

    Args:
        store: says which snapshots and versions there are.
        files: of the snapshots.
        state_format: those of others are left out.
    """

    def __init__(self, store: SqlStore, files: SnapshotFiles, state_format: StateFormat) -> None:
        self._store, self._files = store, files
        self._state_format = state_format
        self._unread: deque[Snapshot] = deque()
        self._lock = Lock()
        self._generation = 0
        self._versions = NO_VERSIONS
        self._wanted = np.empty(0, np.bool_)
        self.is_stopped = False

    def find(self, owner: Position) -> None:
        """Find the snapshots of a partition. Raises Unavailable."""
        self._generation = self._store.snapshots.generation()
        self._unread.extend(self._store.snapshots.list_of(owner.partition))

    @property
    def have_files(self) -> bool:
        """True if there are snapshots that were not read."""
        return bool(self._unread)

    def look_for(self, owner: Position) -> None:
        """Look for copies of all agents of a partition. Raises Unavailable, Fenced.

        An erasure since the snapshots were found has removed them all; there may be others by now.
        """
        if self._store.snapshots.generation() != self._generation:
            self._unread.clear()
            self.find(owner)
        if not self._unread:
            return
        self._versions = self._store.agents.versions_of_partition(owner)
        self._wanted = np.ones(self._versions.agent_count, np.bool_)

    @property
    def are_there(self) -> bool:
        """True if there may be copies; False = all agents have to be read from their rows."""
        return bool(self._versions.agent_count)

    def stop(self) -> None:
        """Open no more files, and read no more blocks."""
        self.is_stopped = True

    def take_next(self) -> tuple[OpenSnapshot, npt.NDArray[np.intp]] | None:
        """Take a snapshot, and all in it that nobody took; None = there is no more.

        Returns:
            It, and the place of each of its agents for `give_back`; -1 = it is not wanted from there.
        """
        while (snapshot := self._take_unread()) is not None:
            if (opened := self._open(snapshot)) is None or opened.index.state_format != self._state_format:
                continue
            places = self._versions.find(opened.index.versions)
            with self._lock:
                places[~self._wanted[places]] = -1  # of -1 it is the last agent's, and stays -1
                self._wanted[places[places >= 0]] = False
            if (places >= 0).any():
                return opened, places
        return None

    def _take_unread(self) -> Snapshot | None:
        with self._lock:
            return self._unread.popleft() if self._unread and not self.is_stopped else None

    def _open(self, snapshot: Snapshot) -> OpenSnapshot | None:
        """Read a file; None = it can not be read."""
        try:
            return self._files.open(snapshot)
        except UnreadableSnapshot as error:
            _log.info(READ_INSTEAD, partition=snapshot.partition, error=str(error))
        except Exception as error:  # whatever it is, rows have all that is needed
            _log.warning(READ_INSTEAD, partition=snapshot.partition, error=repr(error))
            with self._lock:  # where a place is away each other file would cost its timeout again
                self._unread.clear()
        return None

    def read_block(self, opened: OpenSnapshot, number: int) -> AgentColumns | None:
        """Agents of a block; None = it can not be read, or an erasure has changed rows without a new version since."""
        try:
            columns = opened.read_block(number)
            return columns if self._store.snapshots.generation() == self._generation else None
        except Exception as error:  # as above
            _log.warning(READ_INSTEAD, error=repr(error))
            return None

    def give_back(self, places: npt.NDArray[np.intp]) -> None:
        """Want those at some places again."""
        with self._lock:
            self._wanted[places] = True

    def wanted_keys(self) -> npt.NDArray[np.uint64]:
        """Keys of agents of which no copy was found."""
        return self._versions.keys[self._wanted]


Readers = Callable[[], list[PageReader]]
"""Gives readers that may read at the same time."""


def plan_reading(
    store: SqlStore, owner: Position, state_format: StateFormat, files: SnapshotFiles | None
) -> deque[Readers]:
    """Readers of all agents of a partition, those of each step once those before have read all and it was taken out.

    Args:
        store: where rows are.
        owner: of the partition.
        state_format: whose agents come as columns.
        files: of snapshots; None = rows alone are read.
    """
    agents = store.agents

    def read_ranges() -> list[PageReader]:
        return [_RangeReader(agents, owner, state_format, after, last) for after, last in KEY_RANGES]

    if files is None:
        return deque([read_ranges])
    copies = _Copies(store, files, state_format)

    def read_versions() -> list[PageReader]:
        if copies.have_files:
            return [_Preparation(copies.look_for, owner, takes_long=True)]
        steps.clear()
        return read_ranges()

    def read_copies() -> list[PageReader]:
        if copies.are_there:
            return [_SnapshotReader(copies) for _ in KEY_RANGES]
        steps.clear()  # ranges leave no rest
        return read_ranges()

    def read_rest() -> list[PageReader]:
        parts = np.array_split(copies.wanted_keys(), len(KEY_RANGES))
        return [_KeyReader(agents, owner, state_format, part) for part in parts if len(part)]

    steps: deque[Readers] = deque([lambda: [_Preparation(copies.find, owner)], read_versions, read_copies, read_rest])
    return steps
