"""The keeper: `python -m trustwatch.api.serve.keeper`, started by the service where `lifecycle.enabled`.

It follows the event log with a reader of its own at the lowest priority, trains new versions, runs champion and
challenger in shadow, measures drift, and writes what it finds to the store. It changes nothing that events are judged
by: a challenger is promoted by the service, which this process may ask.
"""

from __future__ import annotations

import gc
import os

import structlog

from ...ingest.log import LogReader
from ...scoring.lifecycle.force import ModelsInForce
from .. import clock
from .child import Child, run_child
from .following import Follower
from .teaching import Teacher
from .wiring import model_shelf, opened_store

POLL, POLL_S = 1_000, 0.5
LOOK_EVERY_S = 1.0
WRITE_EVERY_S = 5.0
CLEAN_EVERY_S = 3_600.0
NICE = 19
DAY_MS = 86_400_000

_log = structlog.get_logger(__name__)


class Keeper:
    """Trains and follows.

    Args:
        child: the process.
    """

    def __init__(self, child: Child) -> None:
        settings = child.settings
        self._child = child
        self._settings = settings
        self._store = opened_store(settings)
        self._shelf = model_shelf(settings)
        self._reader = LogReader(settings.data_dir / "log")
        self._models = ModelsInForce(self._shelf, clock.now_ms)
        self._teacher = Teacher(settings, self._store, self._shelf, child.check)
        self._follower = Follower(settings, self._store, self._models, self._reader, self._ask)
        self._looked = self._written = self._cleaned = float("-inf")

    def step(self) -> None:
        """Look for what is to be done, or follow the log a little."""
        now = clock.monotonic()
        if now - self._looked >= LOOK_EVERY_S:
            self._looked = now
            champion = self._follower.look()
            if self._teacher.due(champion):
                self._follower.write()
                self._teacher.teach(self._models.load(champion.version, champion.digest), self._reader_end())
                self._follower.look()
                self._looked = clock.monotonic()
        if now - self._written >= WRITE_EVERY_S:
            self._written = now
            self._follower.write()
        if now - self._cleaned >= CLEAN_EVERY_S:
            self._cleaned = now
            self._store.purge_models((clock.now_ms() - self._settings.retention_days * DAY_MS) // DAY_MS)
        batch = self._reader.poll(POLL, POLL_S)
        if batch is not None:
            self._follower.see(batch)

    def _reader_end(self) -> int:
        return self._reader.end_offset(0)

    def _ask(self, version: str) -> None:
        """Ask the service to promote a version that has proved better."""
        self._child.send(version.encode())

    def finish(self) -> None:
        """Write what was counted."""
        self._follower.write()

    def close(self) -> None:
        """Release the log and the store."""
        self._reader.close()
        self._store.close()


def keep(child: Child) -> None:
    """Keep models until told to end."""
    os.nice(NICE)
    keeper = Keeper(child)
    try:
        gc.freeze()
        while not child.ending:
            keeper.step()
        keeper.finish()
    finally:
        keeper.close()


if __name__ == "__main__":
    raise SystemExit(run_child(keep))
