"""Keys of issuers: fetched in the background, kept if an issuer fails. A token with a known key never waits.

- Every issuer is fetched each `REFRESH_S`; what is held is used meanwhile (stale while revalidate).
- A token with an unknown key asks for a fetch; at most one runs per issuer, and at most one starts each
  `REFRESH_MIN_S`, so random key ids cannot make a storm of fetches.
- Keys outlive failing fetches up to `KEYS_MAX_AGE_S`; then the issuer is no longer trusted (fail closed).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import httpx2
import msgspec
import structlog

from trustwatch.ingest.outgoing_http import connection_error_text, make_http_client

from ...settings.access_settings import IssuerSettings
from .token_verification import KeySet, PublishedKeys, parse_keys

MAX_DOCUMENT = 512 * 1024
"""Bytes in a JWKS document."""

REFRESH_S = 300.0
"""Age at which keys are fetched again: issuers publish a new key at least that long before they use it."""

REFRESH_MIN_S = 10.0
"""Least time between two fetches of one issuer, regardless of the tokens that arrive."""

KEYS_MAX_AGE_S = 86_400.0
"""Keys of an issuer that no longer answers are trusted this long: a day to notice, and no withdrawn key for longer."""

FETCH_TIMEOUT_S = 5.0
"""Time budget of one fetch. Tokens with a known key do not wait for it."""

EpochClock = Callable[[], float]
"""Seconds since 1970."""

_log = structlog.get_logger(__name__)


class JwksStatus(msgspec.Struct, frozen=True):
    """State of the keys of one issuer."""

    issuer: str
    keys: int
    last_error: str  # "" = the last fetch went well
    skipped_keys: int  # members of its key sets that could not be read, over all fetches


Keys = TypeVar("Keys", bound=PublishedKeys[Any])


@dataclass(eq=False, repr=False)
class _IssuerKeys(Generic[Keys]):
    """Keys of one issuer and the state of their fetching.

    Times are of the monotonic clock: wall clocks are set back, and nothing would be fetched until they catch up.
    """

    settings: IssuerSettings
    keys: Keys | None = None
    fetched: float | None = None  # when the last fetch that went well ended
    asked: float | None = None  # when that one began
    tried: float | None = None  # when the last one began
    skipped_keys: int = 0
    last_error: str = ""
    task: asyncio.Task[None] | None = None


class PublishedKeyCache(Generic[Keys]):
    """The keys of all configured issuers.

    Everything runs in one event loop; `keys` is synchronous and never waits.
    """

    _parse: Callable[[bytes], Keys]
    """Reads a document. Raises ValueError if it is not a JWK set."""

    def __init__(
        self,
        issuers: Iterable[IssuerSettings],
        clock: EpochClock,
        monotonic: Callable[[], float] = time.monotonic,
        ca_file: Path | None = None,
    ) -> None:
        self._ca_file = ca_file
        self._issuers: dict[str, _IssuerKeys[Keys]] = {issuer.issuer: _IssuerKeys(issuer) for issuer in issuers}
        self._clock = clock
        self._monotonic = monotonic
        self._on_change: list[Callable[[str], None]] = []
        self._client: httpx2.AsyncClient | None = None
        self._refresh_task: asyncio.Task[None] | None = None

    def on_change(self, call: Callable[[str], None]) -> None:
        """Call *call* with the issuer each time its keys change or are dropped."""
        self._on_change.append(call)

    def keys(self, issuer: str) -> Keys | None:
        """Return the current keys of *issuer*, or None if it is unknown, never answered, or has not answered for too
        long."""
        issuer_keys = self._issuers.get(issuer)
        if issuer_keys is None or self._age_s(issuer_keys) >= KEYS_MAX_AGE_S:
            return None
        return issuer_keys.keys

    def _age_s(self, issuer_keys: _IssuerKeys[Keys]) -> float:
        return math.inf if issuer_keys.fetched is None else self._monotonic() - issuer_keys.fetched

    def is_fetched_since(self, issuer: str, since: float) -> bool:
        """Return whether the keys of *issuer* were fetched by a request that began at *since* or later (monotonic
        clock).

        An earlier request may have returned the previous keys.
        """
        asked = self._issuers[issuer].asked
        return asked is not None and asked >= since

    def usable_until(self, issuer: str) -> float:
        """Return the time until which the stored keys of *issuer* are trusted, unless they are fetched again."""
        return self._clock() + KEYS_MAX_AGE_S - self._age_s(self._issuers[issuer])

    def status(self) -> list[JwksStatus]:
        """Return the state of all issuers' keys, for readiness and metrics, in the order of the settings."""
        return [
            JwksStatus(issuer, len(self.keys(issuer) or ()), issuer_keys.last_error, issuer_keys.skipped_keys)
            for issuer, issuer_keys in self._issuers.items()
        ]

    async def start(self, wait_s: float = 2.0) -> None:
        """Fetch all keys, waiting at most *wait_s* for them, and keep them fresh until `close`."""
        self._refresh_task = asyncio.create_task(self._refresh_periodically())
        tasks = [task for issuer in self._issuers if (task := self.refresh_soon(issuer)) is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=wait_s)

    async def close(self) -> None:
        """Stop fetching and close connections."""
        tasks = [issuer_keys.task for issuer_keys in self._issuers.values()] + [self._refresh_task]
        running = [task for task in tasks if task is not None and not task.done()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()
        self._client = self._refresh_task = None

    def refresh_soon(self, issuer: str, again_after_s: float | None = None) -> asyncio.Task[None] | None:
        """Start a fetch of the keys of *issuer*, or join the running one."""
        issuer_keys = self._issuers[issuer]
        if issuer_keys.task is not None and not issuer_keys.task.done():
            return issuer_keys.task
        now = self._monotonic()
        least_s = REFRESH_MIN_S if again_after_s is None else min(again_after_s, REFRESH_MIN_S)
        if issuer_keys.tried is not None and now - issuer_keys.tried < least_s:
            return None
        issuer_keys.tried = now
        issuer_keys.task = asyncio.get_running_loop().create_task(self._refresh(issuer_keys))
        return issuer_keys.task

    async def _refresh_periodically(self) -> None:
        """Refresh the issuers that are due. A failed fetch is due again after `REFRESH_MIN_S`."""
        while True:
            await asyncio.sleep(min(REFRESH_S, REFRESH_MIN_S))
            for issuer, issuer_keys in self._issuers.items():
                if issuer_keys.last_error or self._age_s(issuer_keys) >= REFRESH_S:
                    self.refresh_soon(issuer)

    async def _refresh(self, issuer_keys: _IssuerKeys[Keys]) -> None:
        begun = self._monotonic()
        try:
            async with asyncio.timeout(FETCH_TIMEOUT_S):
                document = await self._fetch_document(issuer_keys.settings)
            keys = self._parse(document)
        except (OSError, ValueError, httpx2.HTTPError, httpx2.InvalidURL) as error:
            issuer_keys.last_error = connection_error_text(error, with_text=True)[:200]
            _log.warning("jwks_refresh_failed", issuer=issuer_keys.settings.issuer, error=issuer_keys.last_error)
            return
        except Exception as error:  # our own fault: logged, and retried like any other
            issuer_keys.last_error = f"{type(error).__name__} of ours"
            _log.error("jwks_refresh_failed", issuer=issuer_keys.settings.issuer, error=issuer_keys.last_error)
            return
        changed = issuer_keys.keys is None or issuer_keys.keys.digest != keys.digest
        issuer_keys.keys, issuer_keys.last_error = keys, ""
        issuer_keys.fetched, issuer_keys.asked = self._monotonic(), begun
        issuer_keys.skipped_keys += len(keys.skipped)
        if changed:
            if keys.skipped:
                _log.warning("jwks_keys_skipped", issuer=issuer_keys.settings.issuer, keys=list(keys.skipped))
            _log.info("jwks_changed", issuer=issuer_keys.settings.issuer, keys=len(keys))
            for call in self._on_change:
                call(issuer_keys.settings.issuer)

    async def _fetch_document(self, issuer: IssuerSettings) -> bytes:
        if issuer.jwks_file is not None:
            return await asyncio.to_thread(_read_file, issuer.jwks_file)
        if self._client is None:
            self._client = make_http_client(self._ca_file)
        timeout = httpx2.Timeout(FETCH_TIMEOUT_S)
        headers = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}
        async with self._client.stream("GET", str(issuer.jwks_uri), timeout=timeout, headers=headers) as response:
            if response.status_code != httpx2.codes.OK:
                raise ValueError(f"the issuer answered {response.status_code}")
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_DOCUMENT:
                    raise ValueError(f"the issuer sent more than {MAX_DOCUMENT} bytes")
            return bytes(body)


class JwksCache(PublishedKeyCache[KeySet]):
    """Holds the keys that verify issuers' signatures."""

    _parse = staticmethod(parse_keys)


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        document = file.read(MAX_DOCUMENT + 1)
    if len(document) > MAX_DOCUMENT:
        raise ValueError(f"the file holds more than {MAX_DOCUMENT} bytes")
    return document
