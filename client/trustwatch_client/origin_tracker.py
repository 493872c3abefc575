"""Conversations whose arguments are traced, and the keys that hash their values, one per tenant."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from typing import Protocol, Unpack

import httpx2
import msgspec

from .argument_origins import (
    ORIGIN_COUNTERS,
    ArgumentOrigins,
    Fingerprint,
    OriginLimits,
    exact_hash,
    keyed_fingerprint,
)
from .events import Caller
from .service_connection import (
    BoundedCache,
    Counted,
    Counters,
    ThreadClient,
    ThreadOptions,
    TokenSource,
    completed,
)
from .timing import Clock, SystemClock
from .trust_errors import OriginKeyUnavailable, TokenFailed

log = logging.getLogger("trustwatch_client")

ORIGIN_KEY_PATH = "/v1/origin-key"
KEY_COUNTERS = ("issued", "key_failed")
MIN_KEY_BYTES = 16
RETRY_S = 30.0
"""Pause after a failure."""
REQUEST_TIMEOUT_S = 5.0
MAX_TENANTS = 1_000


class OriginKey(msgspec.Struct, frozen=True):
    """Key of a tenant, never shown, or None before the first; and when to request one, by the steady clock."""

    key: bytes | None
    renew_at: float

    def __repr__(self) -> str:
        return "OriginKey(…)"


class _IssuedKey(msgspec.Struct, frozen=True):
    key: str
    expires_at: datetime


class OriginKeys(ThreadClient):
    """Fetches keys in a separate thread. `current` never waits. Safe for threads and asyncio.

    Args:
        url: of the service; https, or http to this machine.
        token: gives an access token with scope `trust.ingest`.
        http, clock, insecure_http: as for `TrustClient`.

    Raises:
        ValueError: the URL is invalid.
    """

    def __init__(
        self,
        url: str,
        token: TokenSource,
        **options: Unpack[ThreadOptions],
    ) -> None:
        super().__init__(url, token, **options)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="trustwatch-origin-key")
        self._keys: BoundedCache[str | None, OriginKey] = BoundedCache(MAX_TENANTS)
        self._asked: dict[str | None, Future[OriginKey]] = {}
        self._lock = threading.Lock()
        self._counters = Counters(*KEY_COUNTERS)

    def current(self, tenant: str | None) -> bytes | None:
        """Return the key of a tenant, or None until it arrives. An old key is used until the next one arrives."""
        key = self._keys.get(tenant)
        if key is None or self._clock.steady() >= key.renew_at:
            self._ask(tenant)
        return None if key is None else key.key

    def fetch(self, tenant: str | None = None, timeout_s: float = 10.0) -> None:
        """Wait for the key of a tenant (None: the caller's only one), so that a wrong token or URL raises at startup.

        Raises:
            OriginKeyUnavailable: with the cause.
        """
        try:
            self._ask(tenant).result(timeout_s)
        except TimeoutError:
            raise OriginKeyUnavailable(f"no key within {timeout_s} s") from None
        except (httpx2.HTTPError, TokenFailed) as error:
            raise OriginKeyUnavailable(f"the service does not answer: {type(error).__name__}") from None

    def close(self) -> None:
        """Stop the thread and close the connection."""
        self._pool.shutdown(cancel_futures=True)
        super().close()

    def _ask(self, tenant: str | None) -> Future[OriginKey]:
        """Start a request for a key, unless one is running."""
        with self._lock:
            flight = self._asked.get(tenant)
            if flight is None:
                flight = self._asked[tenant] = self._pool.submit(self._request_key, tenant)
            return flight

    def _request_key(self, tenant: str | None) -> OriginKey:
        key = None
        try:
            key = self._issued(tenant)
            return key
        except Exception as error:  # of the network or of a token callable: events continue without origins
            # The text of other errors may hold what was sent.
            text = str(error) if isinstance(error, OriginKeyUnavailable) else type(error).__name__
            log.warning("no key for the origins of arguments, events are sent without them: %s", text)
            raise
        finally:
            old = self._keys.get(tenant)
            pause = OriginKey(None if old is None else old.key, self._clock.steady() + RETRY_S)
            self._keys.put(tenant, pause if key is None else key)
            with self._lock:
                self._asked.pop(tenant, None)
            self._counters.increment("key_failed" if key is None else "issued")

    def _issued(self, tenant: str | None) -> OriginKey:
        params = {} if tenant is None else {"tenant": tenant}
        reply = completed(self._requests.send("GET", self._url + ORIGIN_KEY_PATH, REQUEST_TIMEOUT_S, params=params))
        if reply.status_code != 200:
            raise OriginKeyUnavailable(
                f"{ORIGIN_KEY_PATH} answered HTTP {reply.status_code}; the caller needs the scope trust.ingest and a "
                "binding to the tenant"
            )
        try:
            issued = msgspec.json.decode(reply.content, type=_IssuedKey)
            key = bytes.fromhex(issued.key)
            lasts_s = issued.expires_at.timestamp() - self._clock.wall()
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError):
            raise OriginKeyUnavailable("the answer has no key") from None
        if len(key) < MIN_KEY_BYTES:
            raise OriginKeyUnavailable(f"the key has fewer than {MIN_KEY_BYTES} bytes")
        return OriginKey(key, self._clock.steady() + max(lasts_s, RETRY_S))


USES_BETWEEN_SUMS = 16
"""Uses after which the characters of all conversations are summed again."""

ConversationKey = tuple[str | None, str | None, str | None, str]


class KeySource(Protocol):
    """Supplies keys by tenant, such as `OriginKeys`."""

    def current(self, tenant: str | None) -> bytes | None: ...


class OriginTracker(Counted):
    """Keeps memories of conversations, and drops the least recently used. Thread-safe.

    Args:
        keys: supplies the keys; without a key for a tenant, its events have no arguments.
        limits: of each conversation, and of all together.
        clock: for tests.
    """

    def __init__(self, keys: KeySource, limits: OriginLimits | None = None, *, clock: Clock | None = None) -> None:
        self._keys = keys
        self._limits = limits or OriginLimits()
        self._clock = clock or SystemClock()
        self._conversations: OrderedDict[ConversationKey, ArgumentOrigins] = OrderedDict()
        self._lock = threading.Lock()
        self._uses = 0
        self._counters = Counters(*ORIGIN_COUNTERS)

    @property
    def conversations(self) -> int:
        """Number of conversations."""
        return len(self._conversations)

    def conversation(
        self, session: str, *, tenant: str | None = None, issuer: str | None = None, agent_id: str | None = None
    ) -> ArgumentOrigins:
        """Return the memory of a conversation. A new one is created if it is unknown.

        Args:
            session: `session` of its events.
            tenant: its key hashes the values; None = the only tenant that this client sends for.
            issuer, agent_id: of the agent, if sessions of several agents may have the same name.
        """
        key = (tenant, issuer, agent_id, session)
        with self._lock:
            conversation = self._conversations.get(key)
            if conversation is None:
                conversation = ArgumentOrigins(self._fingerprints(tenant), self._limits, self._counters)
                self._conversations[key] = conversation
            self._conversations.move_to_end(key)
            self._make_room()
            return conversation

    def conversation_of(self, caller: Caller, session: str | None) -> ArgumentOrigins | None:
        """Return the memory of a caller's conversation. Without a session return None, and count that."""
        session = session or caller.session
        if not session:
            self._counters.increment("no_session")
            return None
        return self.conversation(session, tenant=caller.tenant, issuer=caller.issuer, agent_id=caller.agent_id)

    def hash_arguments(self, caller: Caller, arguments: object) -> str | None:
        """Return the hash of all arguments of a call, independent of its session, or None without a key."""
        key = self._keys.current(caller.tenant)
        return None if key is None else exact_hash(arguments, keyed_fingerprint(key))

    def forget(
        self, session: str, *, tenant: str | None = None, issuer: str | None = None, agent_id: str | None = None
    ) -> None:
        """Drop the memory of a conversation that has ended."""
        with self._lock:
            self._conversations.pop((tenant, issuer, agent_id, session), None)

    def count_failure(self) -> None:
        """Count a call that was not traced because of an error in this library."""
        self._counters.increment("failed")

    def _make_room(self) -> None:
        limits, kept = self._limits, self._conversations
        self._uses += 1
        over = 0
        if self._uses % USES_BETWEEN_SUMS == 0:
            over = sum(conversation.characters for conversation in kept.values()) - limits.total_characters
        while len(kept) > 1 and (over > 0 or len(kept) > limits.conversations):
            _, oldest = kept.popitem(last=False)
            over -= oldest.characters
            self._counters.increment("forgotten")

    def _fingerprints(self, tenant: str | None) -> Callable[[], Fingerprint | None]:
        """Return the hash function of a conversation. It keeps a key for `key_s`, so that hashes stay comparable."""
        fingerprint: Fingerprint | None = None
        expires_at = 0.0

        def current() -> Fingerprint | None:
            nonlocal fingerprint, expires_at
            now = self._clock.steady()
            if fingerprint is None or now >= expires_at:
                key = self._keys.current(tenant)
                if key is not None:
                    fingerprint, expires_at = keyed_fingerprint(key), now + self._limits.key_s
            return fingerprint

        return current
