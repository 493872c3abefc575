"""Keys with which values are hashed: one for each tenant, issued by the service, kept until it says to ask again."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime

import httpx2
import msgspec

from .access_tokens import TokenSource
from .bounded_cache import BoundedCache
from .counters import Counted, Counters
from .service_connection import ClosedOnExit, ServiceConnection, completed
from .settings import validate_url
from .timing import Clock, SystemClock
from .trust_errors import OriginKeyUnavailable, TokenFailed

log = logging.getLogger("trustwatch_client")

ORIGIN_KEY_PATH = "/v1/origin-key"
KEY_COUNTERS = ("issued", "key_failed")
MIN_KEY_BYTES = 16
RETRY_S = 30.0
"""After a failure nobody asks for so long."""
REQUEST_TIMEOUT_S = 5.0
MAX_TENANTS = 1_000


class OriginKey(msgspec.Struct, frozen=True):
    """A tenant's key, and when to ask for the next one (by the steady clock). It shows itself nowhere."""

    key: bytes
    renew_at: float

    def __repr__(self) -> str:
        return "OriginKey(…)"


class _IssuedKey(msgspec.Struct, frozen=True):
    key: str
    expires_at: datetime


def _log_text(error: Exception) -> str:
    """Text for the log: our own words; of other errors the kind alone, since their texts may hold what was sent."""
    return str(error) if isinstance(error, OriginKeyUnavailable) else type(error).__name__


class OriginKeys(Counted, ClosedOnExit):
    """Fetches keys in a thread of its own: `current` never waits. Safe from any thread and from asyncio.

    Args:
        url: of the service; https, or http to this machine.
        token: gives an access token with scope `trust.ingest`.
        http, clock, insecure_http: as for `TrustClient`.

    Raises:
        ValueError: the URL is wrong.
    """

    def __init__(
        self,
        url: str,
        token: TokenSource,
        *,
        http: httpx2.Client | None = None,
        clock: Clock | None = None,
        insecure_http: bool = False,
    ) -> None:
        self._url = validate_url(url, insecure_http=insecure_http) + ORIGIN_KEY_PATH
        self._clock = clock or SystemClock()
        self._connection = ServiceConnection(token, self._clock, http)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="trustwatch-origin-key")
        self._keys: BoundedCache[str | None, OriginKey] = BoundedCache(MAX_TENANTS)
        self._asked: dict[str | None, Future[OriginKey]] = {}
        self._paused_until: dict[str | None, float] = {}
        self._lock = threading.Lock()
        self._counters = Counters(*KEY_COUNTERS)

    def current(self, tenant: str | None) -> bytes | None:
        """The key of a tenant; None until it is there. One that should be renewed is used until the next one is."""
        key = self._keys.get(tenant)
        if key is None or self._clock.steady() >= key.renew_at:
            self._ask(tenant)
        return None if key is None else key.key

    def fetch(self, tenant: str | None = None, timeout_s: float = 10.0) -> None:
        """Wait for the key of a tenant (None: the caller's only one), so that a wrong token or URL shows at start.

        Raises:
            OriginKeyUnavailable: with the cause.
        """
        with self._lock:
            self._paused_until.pop(tenant, None)
        flight = self._ask(tenant)
        if flight is None:  # another thread's request failed just now
            raise OriginKeyUnavailable(f"no key; it is asked for again after {RETRY_S:.0f} s")
        try:
            flight.result(timeout_s)
        except TimeoutError:
            raise OriginKeyUnavailable(f"no key within {timeout_s} s") from None
        except (httpx2.HTTPError, TokenFailed) as error:
            raise OriginKeyUnavailable(f"the service can not be asked: {type(error).__name__}") from None

    def close(self) -> None:
        """End the thread and the connection."""
        self._pool.shutdown(cancel_futures=True)
        self._connection.close()

    def _ask(self, tenant: str | None) -> Future[OriginKey] | None:
        """Start a request for a key, unless one is on its way or failed a moment ago."""
        with self._lock:
            flight = self._asked.get(tenant)
            if flight is None and self._clock.steady() >= self._paused_until.get(tenant, 0.0):
                flight = self._asked[tenant] = self._pool.submit(self._request, tenant)
            return flight

    def _request(self, tenant: str | None) -> OriginKey:
        try:
            key = self._issued(tenant)
        except Exception as error:  # network, or a token callable of the user's: events go on without origins
            self._end_request(tenant, paused=True)
            self._counters.increment("key_failed")
            log.warning("no key for the origins of arguments, events go without them: %s", _log_text(error))
            raise
        self._keys.put(tenant, key)
        self._end_request(tenant, paused=False)
        self._counters.increment("issued")
        return key

    def _end_request(self, tenant: str | None, *, paused: bool) -> None:
        """Whoever asks from now on starts another request, at once or after a pause; only then it is counted."""
        with self._lock:
            if paused:
                if len(self._paused_until) >= MAX_TENANTS:
                    self._paused_until.clear()
                self._paused_until[tenant] = self._clock.steady() + RETRY_S
            self._asked.pop(tenant, None)

    def _issued(self, tenant: str | None) -> OriginKey:
        params = {} if tenant is None else {"tenant": tenant}
        reply = completed(self._connection.requests.send("GET", self._url, REQUEST_TIMEOUT_S, params=params))
        if reply.status_code != 200:
            raise OriginKeyUnavailable(
                f"{ORIGIN_KEY_PATH} answered HTTP {reply.status_code}; the caller needs the scope trust.ingest and a "
                "binding to the tenant that it asks for"
            )
        try:
            issued = msgspec.json.decode(reply.content, type=_IssuedKey)
            key = bytes.fromhex(issued.key)
            lasts_s = issued.expires_at.timestamp() - self._clock.wall()
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError):
            raise OriginKeyUnavailable("the answer holds no key") from None
        if len(key) < MIN_KEY_BYTES:
            raise OriginKeyUnavailable(f"the key has less than {MIN_KEY_BYTES} bytes")
        return OriginKey(key, self._clock.steady() + max(lasts_s, RETRY_S))
