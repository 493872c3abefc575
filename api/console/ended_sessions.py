"""Console sessions that people ended: known to every process, and after a restart, by the database.

A cookie is sealed and says by itself who signed in: a copy of it, had somebody stolen one, opens pages until the
session is too old. So a sign-out is kept until then, and each request asks for it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog
from cachetools import FIFOCache, TTLCache

from trustwatch.ingest.errors import Unavailable
from trustwatch.scoring.store.metadata_store import MetadataStore

from ..http.store_executor import StoreExecutor
from ..settings.console_settings import MAX_SESSION_S
from .console_sessions import ConsoleSession

KEY_PREFIX: Final = "console-ended/"
LOOK_UP_THREADS, LOOK_UP_S = 2, 3.0
"""Threads that look sessions up, and the longest time that a page waits for one: it waits behind no list."""

GRACE_S: Final = 300.0
"""While the database is away, sessions go on of which it knew no end so long ago, s; others are told to wait."""

AWAY_S: Final = 5.0  # The database is not asked again so soon after it did not answer: else each page would wait for it
SAVE_EVERY_S: Final = 5.0
MAX_REMEMBERED: Final = 10_000

_log = structlog.get_logger(__name__)


class DatabaseAway(Unavailable):
    """Raised where the database does not say whether a session was ended."""


@dataclass(eq=False, repr=False)
class EndedSessions:
    """Ends of sessions, in the database and, so that some requests need none, in memory. For one event loop."""

    metadata: MetadataStore
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        self._executor = StoreExecutor(LOOK_UP_THREADS, LOOK_UP_S)
        self._places = asyncio.Semaphore(LOOK_UP_THREADS)
        self._away_until_s = 0.0
        self._ended: FIFOCache[str, None] = FIFOCache(MAX_REMEMBERED)
        self._lasted: TTLCache[str, None] = TTLCache(MAX_REMEMBERED, GRACE_S, self.clock)
        self._unsaved: dict[str, None] = {}
        self._saving: set[asyncio.Task[None]] = set()

    def note_begun(self, session: ConsoleSession) -> None:
        """A session begins: nobody can have ended it."""
        self._lasted[session.session_id] = None

    async def end(self, session: ConsoleSession) -> bool:
        """Open no copy of a session any more, anywhere; False = so far in this process alone.

        Then it is written as soon as the database answers, unless the process ends before.
        """
        key = _key(session)
        self._ended[session.session_id] = self._unsaved[key] = None
        saving = asyncio.create_task(self._save(key))
        self._saving.add(saving)
        saving.add_done_callback(self._saving.discard)
        await asyncio.wait((saving,), timeout=LOOK_UP_S)  # it goes on where a store hangs
        return key not in self._unsaved

    async def has_ended(self, session: ConsoleSession) -> bool:
        """True if somebody signed out of a session.

        Raises Unavailable: the database does not say, or so many ask that this one does not get to it.
        """
        key = _key(session)
        if session.session_id in self._ended or key in self._unsaved:
            return True
        try:
            ended = await self._look_up(key)
        except DatabaseAway:
            if session.session_id in self._lasted:  # fail open, for a while: people look at what is wrong
                return False
            raise
        (self._ended if ended else self._lasted)[session.session_id] = None
        return ended

    async def run(self) -> None:
        """Write ends that the database did not take, until cancelled."""
        while True:
            await asyncio.sleep(SAVE_EVERY_S)
            await self.save_waiting()

    async def save_waiting(self) -> None:
        """Write the ends that the database did not take so far."""
        for key in list(self._unsaved):
            await self._save(key)
            if key in self._unsaved:
                return

    async def _save(self, key: str) -> None:
        try:
            await self._executor.write(self.metadata.put_default, key, "")
        except Unavailable as error:
            _log.warning("a sign-out waits for the database", code="console_end_not_saved", error=str(error))
            return
        self._unsaved.pop(key, None)
        try:
            await self._executor.write(self.metadata.delete_range, KEY_PREFIX, KEY_PREFIX + _moment(self.clock()))
        except Unavailable as error:  # the next sign-out removes them
            _log.info("old ends of sessions stay for now", error=str(error))

    async def _look_up(self, key: str) -> bool:
        if self.clock() < self._away_until_s:
            raise DatabaseAway("the database did not answer just now")
        try:
            await asyncio.wait_for(self._places.acquire(), LOOK_UP_S)
        except TimeoutError:  # no fault of the database: who asks that much buys no ended session more time
            raise Unavailable("too many sessions are looked up") from None
        try:
            return await self._executor(self.metadata.get, key) is not None
        except Unavailable as error:
            self._away_until_s = self.clock() + AWAY_S
            raise DatabaseAway(str(error)) from error
        finally:
            self._places.release()


def _key(session: ConsoleSession) -> str:
    """Key of a session's end. It begins with when the session is too old, whatever the settings will say by then."""
    digest = hashlib.sha256(session.session_id.encode()).hexdigest()[:32]
    return f"{KEY_PREFIX}{_moment(session.began_s + MAX_SESSION_S)}/{digest}"


def _moment(at_s: float) -> str:
    """UTC milliseconds as text that sorts by time."""
    return f"{int(at_s * 1000):015d}"
