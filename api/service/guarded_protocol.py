"""uvicorn's HTTP protocol under a `ConnectionGuard`: it has no bound of its own on heads, on time, on slow readers.

Only what asyncio and httptools call is overridden, and `on_response_complete`, which uvicorn calls at the end of each
answer; a test holds that it does.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ..http.connection_guard import (
    ANSWERING,
    BODY,
    HEAD,
    HEAD_TOO_LARGE,
    IDLE,
    LINGERING,
    MAX_HEAD_BYTES,
    MAX_KNOWN_LINGER_BYTES,
    MAX_LINGER_BYTES,
    TRAILERS_TOO_LARGE,
    UNREAD_BODY,
    ConnectionGuard,
    GuardedConnection,
)
from .joined_writes import JoinedWrites


class GuardedProtocol(HttpToolsProtocol):
    """One connection.

    Attributes:
        guard: bounds all connections of the server.
        guarded: state of this one.
        joined: where it is written to.
    """

    guard: ClassVar[ConnectionGuard]
    guarded: GuardedConnection
    joined: JoinedWrites

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.joined = JoinedWrites(cast(asyncio.Transport, transport), self.loop)  # as that of each TCP connection
        super().connection_made(self.joined)
        self.guarded = self.guard.open(self.joined, self.client)

    def eof_received(self) -> None:
        """Write what is held: the connection closes itself where its client sends no more, and would drop it."""
        self.joined.flush()
        super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.guard.forget(self.guarded)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        guarded = self.guarded
        if not guarded.admitted:
            self.guard.hold(guarded, len(data))
        if guarded.transport.is_closing():
            return
        guarded.unframed_bytes += len(data)
        HttpToolsProtocol.data_received(self, data)
        phase = guarded.phase
        if phase is HEAD:
            # Bytes that came with whole requests before it are no part of a head.
            earlier = 0 if guarded.unstamped else guarded.head_bytes
            guarded.head_bytes = 0 if guarded.unstamped and guarded.unanswered else earlier + len(data)
        if guarded.unstamped:
            guarded.enter(phase, self.guard.monotonic())
        if phase is HEAD:
            if guarded.head_bytes > MAX_HEAD_BYTES:
                self.guard.end(guarded, HEAD_TOO_LARGE)
        elif guarded.unframed_bytes > MAX_HEAD_BYTES and phase in (BODY, LINGERING):
            self.guard.end(guarded, TRAILERS_TOO_LARGE)
        elif phase is LINGERING:
            self.guard.release(guarded)
            guarded.linger_bytes -= len(data)
            if guarded.linger_bytes < 0:
                self.guard.end(guarded, UNREAD_BODY)

    def pause_writing(self) -> None:
        self.guarded.unsent_since = self.guard.monotonic()
        super().pause_writing()

    def resume_writing(self) -> None:
        self.guarded.unsent_since = None
        super().resume_writing()

    def on_message_begin(self) -> None:
        guarded = self.guarded
        guarded.phase = HEAD
        guarded.unstamped = True
        HttpToolsProtocol.on_message_begin(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, and no trailer: nothing that comes behind a body says who sends it (RFC 9110, 6.5.1)."""
        if self.guarded.phase is HEAD:
            HttpToolsProtocol.on_header(self, name, value)

    def on_body(self, body: bytes) -> None:
        self.guarded.unframed_bytes = 0
        HttpToolsProtocol.on_body(self, body)

    def on_headers_complete(self) -> None:
        guarded = self.guarded
        guarded.phase = BODY
        guarded.unstamped = True
        guarded.unframed_bytes = 0
        guarded.unanswered += 1
        HttpToolsProtocol.on_headers_complete(self)

    def on_message_complete(self) -> None:
        guarded = self.guarded
        guarded.phase = IDLE if guarded.phase is LINGERING else ANSWERING
        guarded.unstamped = True
        HttpToolsProtocol.on_message_complete(self)

    def on_response_complete(self) -> None:
        guarded = self.guarded
        guarded.unanswered -= 1
        was_admitted, guarded.admitted = guarded.admitted, False
        if guarded.held_bytes:
            self.guard.release(guarded)
        phase = guarded.phase
        if phase is ANSWERING:
            if guarded.unanswered == 0:
                guarded.enter(IDLE, self.guard.monotonic())
        elif phase is BODY:
            if guarded.unanswered == 0:
                guarded.linger_bytes = MAX_KNOWN_LINGER_BYTES if was_admitted else MAX_LINGER_BYTES
                phase = LINGERING
            guarded.enter(phase, self.guard.monotonic())  # a body behind this request was not read meanwhile
        HttpToolsProtocol.on_response_complete(self)


def guarded_protocol(guard: ConnectionGuard) -> type[asyncio.Protocol]:
    """The protocol class of a server whose connections *guard* bounds, as `uvicorn.Config(http=…)` takes it."""
    return type("GuardedProtocol", (GuardedProtocol,), {"guard": guard})
