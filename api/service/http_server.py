"""The web server of a running service: uvicorn whose connections are bounded and write each answer at once."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any, ClassVar, Final, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from trustwatch.ingest.errors import ConfigError

from ..http.connection_guard import (
    ANSWERING,
    BODY,
    HEAD,
    IDLE,
    LINGERING,
    MAX_HEAD_BYTES,
    MAX_KNOWN_LINGER_BYTES,
    MAX_LINGER_BYTES,
    ClosingReason,
    ConnectionGuard,
    GuardedConnection,
)
from ..http.fast_path import FastPath
from ..http.request_traces import trace_requests
from ..settings.root import Settings


def make_server(app: FastPath, connections: ConnectionGuard) -> UvicornServer:
    """Return the server of the application, with bounded connections."""
    return UvicornServer(
        uvicorn.Config(
            trace_requests(app),
            http=guarded_protocol(connections),
            log_config=None,
            access_log=False,
            lifespan="on",
            proxy_headers=False,
            server_header=False,
            ws="none",  # a request of a gateway about an upgrade is like any other
            timeout_graceful_shutdown=10,
        )
    )


class UvicornServer(uvicorn.Server):
    """uvicorn without its signal handlers: the service stops its parts in order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listening_socket(settings: Settings) -> socket.socket:
    """Open the listening socket. Raises ConfigError with advice if the address is taken."""
    listen = settings.listen
    try:
        listener = socket.create_server(
            (listen.host, listen.port), family=socket.AF_INET6 if ":" in listen.host else socket.AF_INET, backlog=2048
        )
        # Connections inherit it. What is streamed is several writes: without it, the second one waits for the
        # client's delayed acknowledgement of the first, 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {listen.host} port {listen.port}: {error.strerror}; "
            "set listen.port or TRUSTWATCH_LISTEN_PORT"
        ) from None


MOST_JOINED_BYTES: Final = 64 * 1024
"""More bytes are not copied to join a head."""


class JoinedWrites(asyncio.Transport):
    """A transport whose write waits for the next one, at most until the event loop has its next turn.

    It has what uvicorn and the guard of connections ask of one; nothing hands a connection to another protocol.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._held = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write after the held data; hold *data* if there is none."""
        held = self._held
        if not held:
            self._held = bytes(data)
            self._loop.call_soon(self.flush)
            return
        self._held = b""
        if len(data) <= MOST_JOINED_BYTES:
            self._transport.write(held + data)
        else:
            self._transport.writelines([held, data])

    def flush(self) -> None:
        held, self._held = self._held, b""
        if held and not self._transport.is_closing():
            self._transport.write(held)

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        self._held = b""
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()


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
        """Write the held data: the connection closes if its client sends no more, and would drop it."""
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
            # Bytes that came with whole requests before it are not part of the head.
            earlier = 0 if guarded.unstamped else guarded.head_bytes
            guarded.head_bytes = 0 if guarded.unstamped and guarded.unanswered else earlier + len(data)
        if guarded.unstamped:
            guarded.enter(phase, self.guard.monotonic())
        if phase is HEAD:
            if guarded.head_bytes > MAX_HEAD_BYTES:
                self.guard.end(guarded, ClosingReason.HEAD_TOO_LARGE)
        elif guarded.unframed_bytes > MAX_HEAD_BYTES and phase in (BODY, LINGERING):
            self.guard.end(guarded, ClosingReason.TRAILERS_TOO_LARGE)
        elif phase is LINGERING:
            self.guard.release(guarded)
            guarded.linger_bytes -= len(data)
            if guarded.linger_bytes < 0:
                self.guard.end(guarded, ClosingReason.UNREAD_BODY)

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
        """Take a header, and no trailer: nothing after a body may identify its sender (RFC 9110, 6.5.1)."""
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
    """Return a protocol class whose connections *guard* bounds, as `uvicorn.Config(http=…)` takes it."""
    return type("GuardedProtocol", (GuardedProtocol,), {"guard": guard})
