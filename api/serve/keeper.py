"""The keeper: `python -m trustwatch.api.serve.keeper`, started by the service where `lifecycle.enabled`.

It follows the event log with a reader of its own, or the events topic as a consumer group of its own, at the lowest
priority, trains new versions, runs champion and challenger in shadow, measures drift, and writes what it finds to the
store. It changes nothing that events are judged by: a challenger is promoted by the service, which this process may
ask. Of a deployment one keeps models; the others wait until the database gives them the seat.
"""

from __future__ import annotations

import gc
import os

import structlog

from ...scoring.lifecycle.force import ModelsInForce
from ...scoring.store import SqlStore
from ...scoring.store.seats import Seat
from .. import clock
from .child import Child, run_child
from .courses import course_of
from .following import Follower
from .origins import origin_of
from .teaching import Teacher
from .wiring import model_shelf, opened_store

SEAT, SIT_EVERY_S = "keeper", 2.0
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
        store: of versions and what is counted.
        seat: what makes this process the one that does.
    """

    def __init__(self, child: Child, store: SqlStore, seat: Seat) -> None:
        settings = child.settings
        self._child = child
        self._settings = settings
        self._store = store
        self._seat = seat
        self._shelf = model_shelf(settings)
        self._models = ModelsInForce(self._shelf, clock.now_ms)
        self._course = course_of(settings)
        self._teacher = Teacher(settings, store, self._shelf, origin_of(settings), self._check)
        self._follower = Follower(settings, store, self._models, self._course, self._ask)
        self._looked = self._written = self._cleaned = self._checked = float("-inf")

    def step(self) -> None:
        """Look for what is to be done, or follow the records a little."""
        now = clock.monotonic()
        if now - self._looked >= LOOK_EVERY_S:
            self._looked = now
            self._look()
        if now - self._written >= WRITE_EVERY_S:
            self._written = now
            self._follower.write()
        if now - self._cleaned >= CLEAN_EVERY_S:
            self._cleaned = now
            self._store.purge_models((clock.now_ms() - self._settings.retention_days * DAY_MS) // DAY_MS)
        batch = self._course.poll()
        if batch is not None:
            self._follower.see(batch)

    def _look(self) -> None:
        self._seat.check()
        champion = self._follower.look()
        work = self._teacher.due(champion)
        if work is not None:
            self._follower.write()
            self._teacher.teach(work, self._models.load(champion.version, champion.digest))
            self._follower.look()
            self._looked = clock.monotonic()

    def _check(self) -> None:
        """While it trains: whether it is to end, and now and then whether it still is the one."""
        self._child.check()
        if clock.monotonic() - self._checked >= LOOK_EVERY_S:
            self._checked = clock.monotonic()
            self._seat.check()

    def _ask(self, version: str) -> None:
        """Ask the service to promote a version that has proved better."""
        self._child.send(version.encode())

    def finish(self) -> None:
        """Write what was counted."""
        self._follower.write()

    def close(self) -> None:
        """Release the log or the topic."""
        self._course.close()


def keep(child: Child) -> None:
    """Keep models until told to end, once nobody else does."""
    os.nice(NICE)
    store = opened_store(child.settings)
    try:
        seat = _sit(child, store)
        _log.info("keeping models")
        try:
            _keep(child, store, seat)
        finally:
            seat.leave()
    finally:
        store.close()


def _sit(child: Child, store: SqlStore) -> Seat:
    """Wait until nobody else keeps models. Raises Stopping, Unavailable."""
    told = False
    while (seat := store.sit(SEAT)) is None:
        if not told:
            _log.info("another process keeps models; this one takes over when it ends")
        told = True
        child.sleep(SIT_EVERY_S)
    return seat


def _keep(child: Child, store: SqlStore, seat: Seat) -> None:
    keeper = Keeper(child, store, seat)
    try:
        gc.freeze()
        while not child.ending:
            keeper.step()
        keeper.finish()
    finally:
        keeper.close()


if __name__ == "__main__":
    raise SystemExit(run_child(keep))
