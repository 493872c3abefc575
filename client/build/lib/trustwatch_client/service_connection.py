"""Requests to the service, each with an access token, over the caller's own HTTP client or one of ours."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Self, TypeVar

import httpx2

from .access_tokens import AccessTokens, AsyncTokenSource, TokenSource
from .timing import Clock

T = TypeVar("T")

RETRYABLE_ERRORS = (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError)
"""A connection that ended under a request: a question may be asked again, once, within the same budget."""
_TOKEN_REFUSED = (401, 421)
"""421: only a valid token may come under a name that the service does not know as its own."""
_JSON_HEADERS = {"content-type": "application/json"}


class Requests:
    """Requests to the service, for threads and for asyncio."""

    def __init__(self, request: Callable[..., Awaitable[httpx2.Response]], tokens: AccessTokens) -> None:
        self._request = request
        self._tokens = tokens

    async def send(
        self,
        method: str,
        url: str,
        timeout_s: float,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        """Make one attempt; a token that the service refuses is forgotten. Raises TokenFailed, httpx2.HTTPError."""
        token = await self._tokens.get()
        headers = {**(headers or {}), "authorization": f"Bearer {token}"}
        reply = await self._request(method, url, content=body, headers=headers, params=params, timeout=timeout_s)
        if reply.status_code in _TOKEN_REFUSED:
            self._tokens.discard_token(token)
        return reply

    async def ask(
        self, url: str, question: bytes, timeout_s: float, on_attempt: Callable[[], None] = lambda: None
    ) -> httpx2.Response:
        """POST JSON; a token that the service refuses, or a kept connection that it closed, is replaced once.

        Raises TokenFailed, httpx2.HTTPError.
        """
        for last in (False, True):
            token = await self._tokens.get()
            on_attempt()
            headers = _JSON_HEADERS | {"authorization": f"Bearer {token}"}
            try:
                reply = await self._request("POST", url, content=question, headers=headers, timeout=timeout_s)
            except RETRYABLE_ERRORS:
                if last:
                    raise
                continue
            if reply.status_code not in _TOKEN_REFUSED or last:
                return reply
            self._tokens.discard_token(token)
        raise AssertionError("unreachable")


class _ThreadLock:
    """A lock of threads, as `async with` takes one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    async def __aenter__(self) -> None:
        self._lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()


class ServiceConnection:
    """Connections to the service, for threads. What `requests` has runs by `completed`.

    Raises:
        TypeError: *http* is of another library.
    """

    def __init__(self, token: TokenSource, clock: Clock, http: httpx2.Client | None) -> None:
        if not isinstance(http, httpx2.Client | None):  # another library's errors would be taken for the token's
            raise TypeError(f"http is {_type_name(http)}; it must be an httpx2.Client")
        self._owns_http = http is None
        self._http = http or httpx2.Client(trust_env=False)
        self.requests = Requests(self._request, AccessTokens(token, clock, self._request, _ThreadLock(), waits=False))

    async def _request(self, method: str, url: str, **given: Any) -> httpx2.Response:
        return self._http.request(method, url, **given)

    def close(self) -> None:
        """End the connections, unless the client is the caller's own."""
        if self._owns_http:
            self._http.close()


class AsyncServiceConnection:
    """`ServiceConnection` for one event loop."""

    def __init__(self, token: AsyncTokenSource, clock: Clock, http: httpx2.AsyncClient | None) -> None:
        if not isinstance(http, httpx2.AsyncClient | None):
            raise TypeError(f"http is {_type_name(http)}; it must be an httpx2.AsyncClient")
        self._owns_http = http is None
        self._http = http or httpx2.AsyncClient(trust_env=False)
        request = self._http.request
        self.requests = Requests(request, AccessTokens(token, clock, request, asyncio.Lock(), waits=True))

    async def close(self) -> None:
        """End the connections, unless the client is the caller's own."""
        if self._owns_http:
            await self._http.aclose()


def completed(work: Coroutine[Any, Any, T]) -> T:
    """Result of a coroutine that waits for nothing: one over the HTTP client of threads, which blocks."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("it waits")


class ClosedOnExit(ABC):
    """Base of clients that a `with` block closes."""

    @abstractmethod
    def close(self) -> object:
        """Release everything."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClosedOnExit(ABC):
    """Base of clients that an `async with` block closes."""

    @abstractmethod
    async def close(self) -> object:
        """Release everything."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _type_name(given: object) -> str:
    return f"{type(given).__module__}.{type(given).__qualname__}".replace("httpx._client.", "httpx.")
