"""Agents of a partition that was taken over move into memory before they act, so that no event waits for the store.

Threads read pages of rows; the pipeline's thread lets their agents move in, some at a time, while it has no backlog.
Once every page is read it is also known which agents the store has, and a new one is not looked for there.

What moves in is as true as if the agent's own event had brought it: an agent that was in memory, or erased, since the
take-over is left out, since the page may be older; and pages are read as of a moment at which the partition was ours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice

import structlog

from trustwatch.ingest.errors import Fenced, Unavailable

from ..records.agent_pages import AgentColumns, AgentPage
from ..records.agents import AgentRow
from ..store.sql_store import SqlStore
from .partition import PartitionPipeline

_log = structlog.get_logger(__name__)

PAGE_SIZE = 1_000
"""Agents that are read at a time, 3 MB: asking for a page costs as much as a hundred agents."""

KEY_RANGES = ((None, 2**64 - 1), (2**64 - 1, None))
"""Keys behind which each reader begins, and up to which it reads, in the order of signed numbers. Keys are hashes: half
of a partition's agents lie in each. While the page of one is cut into columns, the database reads for the other."""

STEP_S = 0.01
"""Time that agents may take to move in, in which no event is applied; some microseconds for each, and several times
that in memory that nobody had touched, or where they come as rows."""

MIN_STEP_SIZE, MAX_STEP_SIZE = 100, 1_000
"""Fewest and most agents that move in at a time."""

FEW = 1_000
"""Agents whom even a backlog waits for, if they are all that is left: then nobody new is looked for in the store."""


class _RangeReader:
    """Reads the agents of a partition with keys of a range, one page at a time, by whatever thread."""

    def __init__(self, pipeline: PartitionPipeline, store: SqlStore, after: int | None, last: int | None) -> None:
        self._store, self._owner, self._state_format = store, pipeline.position, pipeline.agent_states.state_format
        self._after, self._last = after, last
        self.page: Future[AgentPage] | None = None
        """The page that is being read, or waits to be, or was not taken yet."""
        self.has_more = True
        """False once the last page was read."""

    def read(self) -> AgentPage:
        """Read the next page. Raises Unavailable, Fenced."""
        agents = self._store.agents
        page = agents.states_of_partition(self._owner, self._after, PAGE_SIZE, self._state_format, self._last)
        self._after, self.has_more = page.last_key, page.last_key is not None
        return page


class _Preload:
    """A partition that is being preloaded."""

    def __init__(self, pipeline: PartitionPipeline, store: SqlStore) -> None:
        self.pipeline = pipeline
        self.unread = [_RangeReader(pipeline, store, after, last) for after, last in KEY_RANGES]
        """Readers of which not all pages were taken, the one whose turn is next first."""
        self._taken: deque[AgentColumns | list[AgentRow]] = deque()
        """Agents of the pages that were taken, some of whom are still to move in."""
        self._begun = 0
        """Number of those in the first of these who did."""
        self._step_size = MIN_STEP_SIZE
        self.moved_in = 0

    @property
    def pages(self) -> list[Future[AgentPage]]:
        """Pages that are being read, wait to be, or were not taken yet."""
        return [reader.page for reader in self.unread if reader.page is not None]

    @property
    def has_agents(self) -> bool:
        """True if agents are there that can move in at once."""
        return self.has_taken or any(page.done() for page in self.pages)

    @property
    def has_taken(self) -> bool:
        """True if agents of the pages that were taken are still to move in."""
        return bool(self._taken)

    @property
    def has_few_left(self) -> bool:
        """True if all that is left was read and is not worth a wait."""
        pages = self.pages
        if len(pages) < len(self.unread) or not all(page.done() for page in pages):
            return False
        read = [page.result() for page in pages if page.exception() is None]
        left = sum(map(_count, self._taken)) - self._begun
        is_last = not any(reader.has_more for reader in self.unread)
        return is_last and left + sum(page.agent_count for page in read) <= FEW

    def take(self, reader: _RangeReader, page: AgentPage) -> None:
        """Let the agents of a page move in next. The other reader has the next turn."""
        self._taken += [part for part in (page.columns, page.rows) if part is not None and _count(part)]
        self.unread.remove(reader)
        reader.page = None
        if reader.has_more:
            self.unread.append(reader)

    def cancel(self) -> None:
        """Read no more pages than those that are being read."""
        for page in self.pages:
            page.cancel()

    def move_in(self, monotonic: Callable[[], float]) -> int | None:
        """Let as many agents move in as `STEP_S` is time for; returns how many did, None = not all of them can."""
        states, taken, start, started = self.pipeline.agent_states, self._taken[0], self._begun, monotonic()
        end = min(start + self._step_size, _count(taken))
        if isinstance(taken, list):
            moved_in = states.preload(taken[start:end])
        else:
            moved_in = states.preload_columns(taken.part(start, end))
        self._begun = end
        if end == _count(taken):
            self._taken.popleft()
            self._begun = 0
        took_s = monotonic() - started
        if took_s <= STEP_S:
            self._step_size = min(MAX_STEP_SIZE, 2 * self._step_size)
        else:
            self._step_size = max(MIN_STEP_SIZE, int((end - start) * STEP_S / took_s))
        return moved_in


class AgentPreloader:
    """Preloads partitions, one after the other. For the thread of the pipeline."""

    def __init__(self, store: SqlStore, monotonic: Callable[[], float]) -> None:
        self._store = store
        self._monotonic = monotonic
        self._executor = ThreadPoolExecutor(len(KEY_RANGES) + 1, "preload")
        self._waiting: deque[_Preload] = deque()

    @property
    def busy(self) -> bool:
        """True while agents are being read, or have to move in."""
        return bool(self._waiting)

    @property
    def has_agents(self) -> bool:
        """True if agents are there that can move in at once."""
        return bool(self._waiting) and self._waiting[0].has_agents

    @property
    def has_few_left(self) -> bool:
        """True if a few steps come to the end of a partition, as of a new one: some milliseconds."""
        return bool(self._waiting) and self._waiting[0].has_few_left

    def begin(self, pipeline: PartitionPipeline) -> None:
        """Preload a partition that was just taken over."""
        pipeline.agent_states.begin_preload()
        self._waiting.append(_Preload(pipeline, self._store))
        self._read()

    def stop(self, pipeline: PartitionPipeline) -> None:
        """Read no more of a partition that is not ours any more."""
        for preload in self._waiting:
            if preload.pipeline is pipeline:
                preload.cancel()
        self._waiting = deque(preload for preload in self._waiting if preload.pipeline is not pipeline)
        self._read()

    def step(self, timeout_s: float | None = 0.0) -> None:
        """Let some agents move in that are there within *timeout_s* seconds (None = wait for them)."""
        if not self._waiting:
            return
        self._read()
        preload = self._waiting[0]
        try:
            if not preload.has_taken and not self._take_page(preload, timeout_s):
                return
        except (Unavailable, Fenced):  # what acts is read by itself, and who lost the partition learns it there
            self._end(preload, complete=False)
            return
        moved_in = preload.move_in(self._monotonic) if preload.has_taken else 0
        if moved_in is None:
            self._end(preload, complete=False)
            return
        preload.moved_in += moved_in
        if not preload.unread and not preload.has_taken:
            self._end(preload, complete=True)

    def _take_page(self, preload: _Preload, timeout_s: float | None) -> bool:
        """Take a page that was read, and have its reader go on while its agents move in; False = none is there."""
        done = wait(preload.pages, timeout_s, FIRST_COMPLETED).done
        reader = next((reader for reader in preload.unread if reader.page in done), None)
        if reader is None or reader.page is None:
            return False
        preload.take(reader, reader.page.result())
        self._read()
        return True

    def _end(self, preload: _Preload, *, complete: bool) -> None:
        self._waiting.popleft()
        preload.cancel()
        preload.pipeline.agent_states.end_preload(complete=complete)
        _log.info(
            "stored agents of the partition are in memory" if complete else "others are read as they act",
            partition=preload.pipeline.partition,
            agents=preload.moved_in,
        )
        self._read()

    def _read(self) -> None:
        """Have the next page of each reader of the first partition read, unless that is under way.

        That of the second one, too, which the database needs time for: it has no agents, or waits for the first.
        """
        for preload in islice(self._waiting, 2):
            for reader in preload.unread:
                if reader.page is None:
                    reader.page = self._executor.submit(reader.read)

    def close(self) -> None:
        """End the threads, after what they are reading."""
        for preload in self._waiting:
            preload.cancel()
        self._executor.shutdown(wait=True, cancel_futures=True)


def _count(agents: AgentColumns | list[AgentRow]) -> int:
    return len(agents) if isinstance(agents, list) else agents.agent_count
