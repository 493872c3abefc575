"""Console sessions that people ended: known to every process, and after a restart, by the database.

A cookie is sealed and says by itself who signed in: a copy of it, had somebody stolen one, opens pages until the
session is too old. So a sign-out is kept until then, and each request asks for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

from cachetools import FIFOCache, TTLCache

from ...ingest.errors import Unavailable
from ...scoring.store.metadata_store import MetadataStore
from ..http.store_executor import StoreExecutor
from ..settings.console_settings import MAX_SESSION_S
from .console_sessions import ConsoleSession

KEY_PREFIX: Final = "console-ended/"
LOOK_UP_THREADS, LOOK_UP_S = 2, 3.0
"""Threads that look sessions up, and the longest time that a page waits for one: it waits behind no list."""

GRACE_S: Final = 300.0
"""While the database is away, sessions go on of which it knew no end so long ago, s; others are told to wait."""

MAX_REMEMBERED: Final = 10_000


class EndedSessions:
    """Ends of sessions, in the database and, so that most requests need none, in memory. For one event loop.

    Args:
        metadata: where ends are kept: as digests of session ids, by the day on which nobody needs them any more.
        clock: seconds since 1970.
    """

    def __init__(self, metadata: MetadataStore, clock: Callable[[], float]) -> None:
        self._metadata = metadata
        self._clock = clock
        self._executor = StoreExecutor(LOOK_UP_THREADS, LOOK_UP_S)
        self._ended: FIFOCache[str, None] = FIFOCache(MAX_REMEMBERED)
        self._lasted: TTLCache[str, None] = TTLCache(MAX_REMEMBERED, GRACE_S, clock)

    async def end(self, session: ConsoleSession) -> None:
        """Open no copy of a session any more, anywhere. Raises Unavailable: this process alone knows of it."""
        self._ended[session.session_id] = None
        await self._executor.write(self._metadata.put_default, _key(session), "")
        await self._executor.write(self._metadata.delete_range, KEY_PREFIX, KEY_PREFIX + _moment(self._clock()))

    async def has_ended(self, session: ConsoleSession) -> bool:
        """True if somebody signed out of a session. Raises Unavailable: the database does not say."""
        if session.session_id in self._ended:
            return True
        try:
            ended = await self._executor(self._metadata.get, _key(session)) is not None
        except Unavailable:
            if session.session_id in self._lasted:  # fail open, for a while: people look at what is wrong
                return False
            raise
        (self._ended if ended else self._lasted)[session.session_id] = None
        return ended


def _key(session: ConsoleSession) -> str:
    """Key of a session's end. It begins with when the session is too old, whatever the settings will say by then."""
    digest = hashlib.sha256(session.session_id.encode()).hexdigest()[:32]
    return f"{KEY_PREFIX}{_moment(session.began_s + MAX_SESSION_S)}/{digest}"


def _moment(at_s: float) -> str:
    """UTC milliseconds as text that sorts by time."""
    return f"{int(at_s * 1000):015d}"
