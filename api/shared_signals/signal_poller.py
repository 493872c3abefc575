"""Polls of transmitters for security event tokens (RFC 8936), one after the other at each of them.

What a poll brought is durable before the next one acknowledges it. One process of a deployment polls at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx2
import msgspec
import structlog

from trustwatch.ingest.errors import Fenced, TrustwatchError
from trustwatch.ingest.printable_text import printable_line
from trustwatch.scoring.delivery.actuators.authenticators import RequestAuthenticator
from trustwatch.scoring.store.database import Database, LeaderSeat

from ..http.auth.set_verification import SetRefused
from .remote_stream import RemoteStream, TransmitterError, ask_transmitter, decode_answer
from .signal_receiver import SignalReceiver, SignalTransmitter

JOB: Final = "signal poller"
MAX_POLLED: Final = 100  # SETs that are requested at a time
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
POLL_TIMEOUT_S: Final = 120.0
"""A poll without an answer for so long is given up: transmitters may hold one for a minute."""
POLL_INTERVAL_S: Final = 5.0  # Pause after a poll that came back at once with nothing, or failed
QUICK_S: Final = 1.0  # A poll that brings nothing new within this time did not wait: the next one follows after a pause
LEAST_PAUSE_S: Final = 0.05  # Pause after every poll, regardless of the answer
LOOK_FOR_LEAD_S: Final = 5.0
KEEP_AGAIN_S: Final = 10.0  # Pause before a request that a transmitter did not fulfill is repeated
_NOT_UNDERSTOOD: Final = (httpx2.codes.BAD_REQUEST, httpx2.codes.UNPROCESSABLE_CONTENT)
_GONE: Final = (httpx2.codes.NOT_FOUND, httpx2.codes.GONE)
VERIFIED_WITHIN_S: Final = 60.0  # A verification that did not arrive in this time is reported: the stream does not work

_log = structlog.get_logger(__name__)


class _PollAnswer(msgspec.Struct):
    sets: dict[str, str] = {}


@dataclass(eq=False, repr=False)
class TransmitterPoll:
    """Polls of one transmitter, and what is to be acknowledged with the next."""

    transmitter: SignalTransmitter
    _receiver: SignalReceiver
    _http: httpx2.AsyncClient
    _authenticator: RequestAuthenticator
    _monotonic: Callable[[], float]

    def __post_init__(self) -> None:
        self.url = self.transmitter.settings.poll_url or ""
        """URL that is polled; "" = not known yet."""
        self._acknowledged: list[str] = []
        self._errors: dict[str, dict[str, str]] = {}

    async def poll(self, *, wait: bool = True) -> bool:
        """Poll once, and receive the SETs. Raises TrustwatchError."""
        begun = self._monotonic()
        try:
            given = await self._ask(wait=wait)
        except TransmitterError as failed:
            if failed.status in _NOT_UNDERSTOOD:  # perhaps of what is settled: it may not know that any more
                self._acknowledged, self._errors = [], {}
            raise
        has_waited = self._monotonic() - begun >= QUICK_S
        before = {*self._acknowledged, *self._errors}
        self._acknowledged, self._errors = [], {}
        tokens = dict(list(given.items())[:MAX_POLLED])
        if tokens:
            answers = await self._receiver.take(self.transmitter, [token.encode() for token in tokens.values()])
            for jti, answer in zip(tokens, answers, strict=True):  # one that cannot be judged yet is sent again
                if answer is None:
                    self._acknowledged.append(jti)
                elif isinstance(answer, SetRefused):
                    self._errors[jti] = {"err": answer.err, "description": answer.description}
        return has_waited or not before.issuperset((*self._acknowledged, *self._errors))

    async def _ask(self, *, wait: bool) -> dict[str, str]:
        body: dict[str, Any] = {"maxEvents": MAX_POLLED, "returnImmediately": not wait}
        if self._acknowledged:
            body["ack"] = self._acknowledged
        if self._errors:
            body["setErrs"] = self._errors
        bounds: Any = {"timeout_s": POLL_TIMEOUT_S, "max_bytes": MAX_ANSWER_BYTES, "language": bool(self._errors)}
        content = await ask_transmitter(self._http, self._authenticator, "POST", self.url, body, **bounds)
        return decode_answer(content, _PollAnswer, "RFC 8936").sets


@dataclass(eq=False, repr=False)
class SignalPoller:
    """Keeps our streams, and polls, until it is closed. For one event loop."""

    _polls: list[TransmitterPoll]
    _streams: Mapping[str, RemoteStream]
    _http: httpx2.AsyncClient
    _database: Database
    _receiver: SignalReceiver

    def __post_init__(self) -> None:
        self._seat = LeaderSeat(self._database, JOB)
        self._leads = asyncio.Event()
        self._tasks: list[asyncio.Task[Any]] = []

    async def start(self) -> None:
        """Begin to poll, in the background."""
        if self._polls or self._streams:
            self._tasks = [asyncio.create_task(self._lead())]
            self._tasks += [asyncio.create_task(self._poll_always(poll)) for poll in self._polls]
            pushed = [name for name, stream in self._streams.items() if stream.is_pushed]
            self._tasks += [asyncio.create_task(self._keep(name)) for name in pushed]

    async def close(self) -> None:
        """Stop polling; what is not acknowledged comes again."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._seat.give_up)
        await self._http.aclose()

    async def _lead(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self._seat.take)
            except Fenced:
                pass
            except TrustwatchError as error:
                _log.warning("signal_poller_waits", error=str(error))
            except Exception as error:  # our own fault must not end the check: no other process would take over
                _log.error("signal_poller_failed", error=type(error).__name__)
            if self._seat.lock is None:
                self._leads.clear()
            else:
                self._leads.set()
            await asyncio.sleep(LOOK_FOR_LEAD_S)

    async def _poll_always(self, poll: TransmitterPoll) -> None:
        name = poll.transmitter.name
        if not poll.url:
            poll.url = await self._keep(name)
        while True:
            await self._leads.wait()
            try:
                again = await poll.poll()
            except TrustwatchError as error:
                _log.warning("signals_wait", transmitter=name, error=str(error))
                again = False
                if isinstance(error, TransmitterError) and error.status in _GONE and name in self._streams:
                    await asyncio.sleep(KEEP_AGAIN_S)
                    poll.url = await self._keep(name)
            except Exception as error:  # our own fault must not end the polls; no text: it may hold a token
                _log.error("poll_failed", transmitter=name, error=type(error).__name__)
                again = False
            await asyncio.sleep(LEAST_PAUSE_S if again else POLL_INTERVAL_S)

    async def _keep(self, name: str) -> str:
        """Bring our polled stream to its settings, retrying until done. Once for each start."""
        while True:
            await self._leads.wait()
            try:
                kept = await self._streams[name].keep()
                stream_id = printable_line(kept.stream_id, 200)
                _log.info("signal_stream_kept", transmitter=name, stream=stream_id, changed=kept.changed)
                if kept.state:
                    self._tasks.append(asyncio.create_task(self._expect_verification(name, kept.state)))
                return kept.poll_url
            except TrustwatchError as error:
                _log.warning("signal_stream_waits", transmitter=name, error=str(error))
            except Exception as error:  # our own fault must not end the polls; no text: it may hold a token
                _log.error("signal_stream_failed", transmitter=name, error=type(error).__name__)
            await asyncio.sleep(KEEP_AGAIN_S)

    async def _expect_verification(self, name: str, state: str) -> None:
        await asyncio.sleep(VERIFIED_WITHIN_S)
        try:
            if not await self._receiver.has_verified(name, state):
                _log.warning("signal_stream_unverified", transmitter=name, waited_s=VERIFIED_WITHIN_S)
        except TrustwatchError as error:
            _log.warning("signal_stream_unverified", transmitter=name, error=str(error))
