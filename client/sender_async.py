"""Sends audit events from a task of the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import httpx

from .clock import Clock, SystemClock
from .events import AuditEvent
from .outbox import EVENTS_PATH, NDJSON_HEADERS, EventBatch, EventQueue
from .settings import SenderSettings, validate_url
from .tokens import AsyncAccessTokens, AsyncTokenSource, bearer_header


class AsyncEventSender:
    """`EventSender` for asyncio. The task starts with the first event; `send` is called in the loop and never waits.

    Args:
        url, settings, http, clock, insecure_http: as for `EventSender`.
        token: as there; the callable may be async.
    """

    def __init__(
        self,
        url: str,
        token: AsyncTokenSource,
        settings: SenderSettings | None = None,
        *,
        http: httpx.AsyncClient | None = None,
        clock: Clock | None = None,
        insecure_http: bool = False,
    ) -> None:
        self._url = validate_url(url, insecure_http=insecure_http) + EVENTS_PATH
        clock = clock or SystemClock()
        self._settings = settings or SenderSettings()
        self._queue = EventQueue(self._settings, clock)
        self._owns_http = http is None
        self._http = http or httpx.AsyncClient(trust_env=False)
        self._tokens = AsyncAccessTokens(token, clock, self._http)
        self._changed = asyncio.Event()
        self._done = asyncio.Event()
        self._closing_event = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    def send(self, event: AuditEvent) -> str:
        """Queue *event*; returns its id.

        Raises:
            ContentRefused, ValueError: the event is none, or holds what no event may hold.
        """
        name = self._queue.put(event)
        if self._task is None and not self._closing:
            self._task = asyncio.create_task(self._run())
        self._changed.set()
        return name

    async def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until everything queued is done; whether that came to pass."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self._queue.is_idle():
                    self._done.clear()
                    await self._done.wait()
        except TimeoutError:
            return False
        return True

    async def close(self, timeout_s: float = 5.0) -> bool:
        """Send what is left, for at most *timeout_s*; what remains then is counted as lost. Whether nothing did."""
        self._queue.close()
        self._closing = True
        self._changed.set()
        self._closing_event.set()
        await self.flush(timeout_s)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        left = self._queue.discard_remaining()
        if self._owns_http:
            await self._http.aclose()
        return left == 0

    def counts(self) -> Mapping[str, int]:
        """How often each thing happened; docs/client.md lists them."""
        return self._queue.counters.as_dict()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self) -> None:
        while True:
            if self._queue.is_idle():
                self._changed.clear()
                await self._changed.wait()
            await self._wait_for_full_batch()
            batch = self._queue.take()
            if batch is not None:
                await self._send_batch(batch)
            self._done.set()

    async def _wait_for_full_batch(self) -> None:
        """Wait for company of the first event, unless a batch is full or the end is near."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + self._settings.linger_s
        while not self._queue.has_full_batch() and not self._closing and (left := ends - loop.time()) > 0:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                return

    async def _send_batch(self, batch: EventBatch) -> None:
        attempt = 0
        while True:
            attempt += 1
            wait = self._queue.handle_reply(batch, attempt, *await self._post_batch(batch.body))
            if wait is None:
                return
            await self._wait_before_retry(wait)

    async def _wait_before_retry(self, seconds: float) -> None:
        """Between two attempts; near the end there is no time to be patient."""
        try:
            await asyncio.wait_for(self._closing_event.wait(), seconds)
        except TimeoutError:
            return
        await asyncio.sleep(min(seconds, self._settings.backoff_s))

    async def _post_batch(self, body: bytes) -> tuple[int | None, Mapping[str, str], bytes]:
        """Status, headers and body of the reply; no status where there is none."""
        try:
            token = await self._tokens.get()
            headers = NDJSON_HEADERS | bearer_header(token)
            reply = await self._http.post(
                self._url, content=body, headers=headers, timeout=self._settings.request_timeout_s
            )
        except Exception:  # network, or a token callable of the user's; the task must go on
            return None, {}, b""
        if reply.status_code == 401:
            self._tokens.discard_token(token)
        return reply.status_code, reply.headers, reply.content
