"""The archiving process: `python -m trustwatch.api.serve.archiver`, started by the service where there is an archive.

It follows the event log with a reader of its own, so the pipeline and the answers notice nothing. An event that came
twice is archived once: the same window as the pipeline's tells, rebuilt from the log after a restart.
"""

from __future__ import annotations

import gc

import numpy as np
import structlog

from ...ingest.archive.writer import Archive, Archived
from ...ingest.dedup import DuplicateWindow
from ...ingest.errors import MalformedEvent
from ...ingest.events import decode_event
from ...ingest.log import LogReader
from ...ingest.log.segments import segment_bases
from ...ingest.source import Kind, RecordBatch
from ...scoring.pipeline import PARTITION
from .. import clock
from ..settings import Settings
from .child import Child, run_child

MOST = 50_000
"""Records of one range."""
POLL, POLL_S = 2_000, 0.5
RETAIN_EVERY_S = 3_600.0
DAY_MS = 86_400_000

_log = structlog.get_logger(__name__)


class Archiver:
    """Follows one log.

    Args:
        settings: of the service; `archive.directory` is set.
    """

    def __init__(self, settings: Settings) -> None:
        directory = settings.archive.directory
        assert directory is not None
        self._settings = settings.archive
        self._archive = Archive(directory)
        self._reader = LogReader(settings.data_dir / "log")
        self._window = DuplicateWindow()
        self._base = self._next = 0
        self._events: list[Archived] = []
        self._since = clock.monotonic()
        self._retained = float("-inf")

    def start(self) -> None:
        """Go to where the archive ends. Raises CorruptLog where the log does not go back, or on, to there."""
        position = self._archive.start()
        first = min(segment_bases(self._reader.directory), default=0)
        self._base = self._next = first if position is None else position
        start = max(self._window.first_offset_to_rebuild(self._base), first)
        self._reader.seek(PARTITION, self._base)
        self._window.restore(start, self._reader.read_id_hashes(PARTITION, start, self._base))

    def step(self) -> None:
        """Read what has come, and write a range when it is time."""
        batch = self._reader.poll(POLL, POLL_S)
        if batch is not None:
            self._take(batch)
        full = self._next - self._base >= MOST
        if full or (self._next > self._base and clock.monotonic() - self._since >= self._settings.interval_s):
            self.flush()
        if clock.monotonic() - self._retained >= RETAIN_EVERY_S:
            self._retained = clock.monotonic()
            self._archive.drop_before(clock.now_ms() - self._settings.retention_days * DAY_MS)

    def _take(self, batch: RecordBatch) -> None:
        if self._next == self._base:
            self._since = clock.monotonic()
        offsets = np.arange(batch.base_offset, batch.next_offset, dtype=np.int64)
        seen = self._window.mark(np.array([record.id_hash for record in batch.records], np.uint64), offsets)
        for offset, record, repeated in zip(offsets.tolist(), batch.records, seen.tolist(), strict=True):
            if record.kind == Kind.EVENT and not repeated:
                try:
                    event = decode_event(record.payload)
                except MalformedEvent as error:  # it is in the dead letters, with its bytes
                    _log.warning("a logged record is no event", offset=offset, error=str(error))
                    continue
                self._events.append(Archived(offset, record.received_ms, event, record.payload))
        self._next = batch.next_offset

    def flush(self) -> None:
        """Write what was read."""
        if self._next > self._base:
            self._archive.write(self._base, self._next, self._events)
        self._base, self._events = self._next, []

    def close(self) -> None:
        """Release the log."""
        self._reader.close()


def archive(child: Child) -> None:
    """Archive until told to end; then what was read is in the archive."""
    archiver = Archiver(child.settings)
    try:
        archiver.start()
        gc.freeze()
        while not child.ending:
            archiver.step()
        archiver.flush()
    finally:
        archiver.close()


if __name__ == "__main__":
    raise SystemExit(run_child(archive))
