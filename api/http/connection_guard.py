"""Bounds on connections: how many, how long each may take, and how many bytes are held of requests nobody vouches for.

A connection costs memory before it has shown any token. The server's protocol (`api/service/http_server.py`) tells the
guard what each one is at; the guard closes those that never come to an end, and where there is no room those that have
waited longest for their client. Whoever sends a request in one go is never among them.
"""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

import structlog

from .problems import ProblemDetails, encode_http_problem

_log = structlog.get_logger(__name__)

MAX_CONNECTIONS = 4_096
"""Connections at one time: each takes an open file and some 10 kB; for a further one those go that waited longest."""

MAX_UNAUTHENTICATED_BYTES = 16 * 1024 * 1024
"""Bytes of requests without a known caller that are held at one time: room for 256 of the largest heads."""

HEAD_TIMEOUT_S = 10.0
"""Time in which the headers of a request must arrive: clients send them in one go."""

BODY_TIMEOUT_S = 60.0
"""Time in which the body behind them must arrive: the largest one in a minute asks for 1 MB/s."""

SEND_TIMEOUT_S = 30.0
"""A connection whose client takes no bytes of its answer for so long is closed: answers wait in memory."""

MAX_HEAD_BYTES = 64 * 1024
"""Bytes of a request line with its headers."""

LINGER_S = 5.0
"""Time in which the rest of a body may arrive whose request is answered already, so that its client sees the answer."""

MAX_LINGER_BYTES = 1024 * 1024
"""Bytes of such a body that are read, and thrown away: gateways send bodies of calls along, and shall see the 401."""

MAX_KNOWN_LINGER_BYTES = 64 * 1024 * 1024
"""The same where the caller is known: one that sends too much shall see why it is refused."""

IDLE_S = 5.0
"""Time between an answer and the first byte of the next request (what uvicorn keeps by itself, unless bytes come that
begin none)."""

EVICTED_PART = 1 / 32
"""Part of all connections that is closed at once where there is no room: looking for them goes over all."""


class ConnectionPhase(Enum):
    """Phase of a connection, seen from its current request."""

    IDLE = "idle"  # no byte of a request yet
    HEAD = "head"
    BODY = "body"
    ANSWERING = "answering"  # the request is whole
    LINGERING = "lingering"  # answered before the body was whole


IDLE, HEAD, BODY, ANSWERING, LINGERING = ConnectionPhase


class ClosingReason(Enum):
    """Reason for closing a connection. The value is the label in metrics."""

    HEAD_TIMEOUT = "head_timeout"
    HEAD_TOO_LARGE = "head_too_large"
    TRAILERS_TOO_LARGE = "trailers_too_large"
    IDLE_TIMEOUT = "idle_timeout"
    BODY_TIMEOUT = "body_timeout"
    SEND_TIMEOUT = "send_timeout"
    UNREAD_BODY = "unread_body"
    NO_ROOM = "max_connections"
    NO_MEMORY = "unauthenticated_bytes"


_ANSWERS = {
    ClosingReason.HEAD_TIMEOUT: ProblemDetails(
        408, "request_timeout", "Request timeout", "the headers did not arrive in time; send them at once"
    ),
    ClosingReason.HEAD_TOO_LARGE: ProblemDetails(
        431, "head_too_large", "Headers too large", f"request line and headers may have {MAX_HEAD_BYTES} bytes"
    ),
}


@dataclass(eq=False, repr=False, slots=True)
class GuardedConnection:
    """State of one connection, kept by its protocol. Times are those of the guard's clock."""

    transport: asyncio.Transport
    client: object  # address and port of the other side
    since: float  # when the phase began
    phase: ConnectionPhase = IDLE
    unstamped: bool = False  # `since` is not set yet: bytes that came together begin and end phases at one time
    head_bytes: int = 0  # of a head that has no end yet; what came with an earlier request is not counted
    unframed_bytes: int = 0  # behind a head since a part of its body came: of trailers, which the parser keeps
    held_bytes: int = 0  # of the current request that count as unauthenticated
    admitted: bool = False  # the caller is known: further bytes are not counted
    unanswered: int = 0  # requests whose head is complete and whose answer is not
    unsent_since: float | None = None  # since when the client takes no bytes
    linger_bytes: int = 0  # that may still come after the answer
    closing_since: float | None = None  # when it was first seen closing

    def enter(self, phase: ConnectionPhase, now: float) -> None:
        """Begin *phase*."""
        self.phase = phase
        self.since = now
        self.unstamped = False

    @property
    def waits_for_client(self) -> bool:
        """True if nothing is done for it: it is idle, or unknown and its request is not whole."""
        return self.phase is not ANSWERING and not (self.phase is BODY and self.admitted)


class ConnectionGuard:
    """All connections of one server. For one event loop."""

    def __init__(self, monotonic: Callable[[], float], max_connections: int | None = None) -> None:
        self._max_connections = MAX_CONNECTIONS if max_connections is None else max_connections
        self._max_held_bytes = MAX_UNAUTHENTICATED_BYTES
        self._send_timeout_s = SEND_TIMEOUT_S
        self._time_limits = {
            IDLE: (IDLE_S + HEAD_TIMEOUT_S, ClosingReason.IDLE_TIMEOUT),
            HEAD: (HEAD_TIMEOUT_S, ClosingReason.HEAD_TIMEOUT),
            BODY: (BODY_TIMEOUT_S, ClosingReason.BODY_TIMEOUT),
            LINGERING: (LINGER_S, ClosingReason.UNREAD_BODY),
        }
        self._look_interval_s = min(1.0, HEAD_TIMEOUT_S / 4, BODY_TIMEOUT_S / 4)
        self.monotonic = monotonic
        self._connections: dict[object, GuardedConnection] = {}
        self._closing: asyncio.Task[None] | None = None
        self.held_bytes = 0
        self.closed: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._connections)

    def open(self, transport: asyncio.Transport, client: object) -> GuardedConnection:
        """A new connection; where there is no room, for it others go, or itself."""
        connection = GuardedConnection(transport, client, self.monotonic())
        self._connections[client] = connection
        if len(self._connections) > self._max_connections:
            self._make_room(connection)
        return connection

    def forget(self, connection: GuardedConnection) -> None:
        """Forget a connection that is over."""
        self.release(connection)
        if self._connections.get(connection.client) is connection:
            del self._connections[connection.client]

    def hold(self, connection: GuardedConnection, size: int) -> None:
        """Count *size* more bytes of somebody unknown; where they are too many, who holds some for longest goes."""
        if self.held_bytes + size > self._max_held_bytes:
            self._make_memory(size)
            if connection.transport.is_closing():
                return  # it was the one that held some for longest; these bytes go with the others
        connection.held_bytes += size
        self.held_bytes += size

    def release(self, connection: GuardedConnection) -> None:
        """Count the bytes of a connection no longer."""
        self.held_bytes -= connection.held_bytes
        connection.held_bytes = 0

    def admit(self, client: object) -> None:
        """The caller of the request that came from *client* is known: its bytes do not count any more."""
        connection = self._connections.get(client)
        if connection is not None:
            connection.admitted = True
            self.release(connection)

    def end(self, connection: GuardedConnection, reason: ClosingReason) -> None:
        """Close a connection; with an answer where *reason* has one, else at once."""
        self.closed[reason.value] += 1
        self.forget(connection)
        transport = connection.transport
        answer = _ANSWERS.get(reason)
        if answer is None or connection.unanswered or transport.is_closing():
            transport.abort()
            return
        transport.write(encode_http_problem(answer))
        transport.close()
        # It may be that the client does not read it; then it has to be closed once more.
        self._connections[connection.client] = connection

    async def start(self) -> None:
        """Begin to close what is over its time."""
        self._closing = asyncio.get_running_loop().create_task(self._close_overdue_always())

    async def close(self) -> None:
        """End that; the server closes connections by itself."""
        if self._closing is not None:
            self._closing.cancel()

    async def _close_overdue_always(self) -> None:
        while True:
            await asyncio.sleep(self._look_interval_s)
            self.close_overdue()

    def close_overdue(self) -> None:
        """Close what is over its time."""
        now = self.monotonic()
        for connection in list(self._connections.values()):
            reason = self._overdue_reason(connection, now)
            if reason is not None:
                self.end(connection, reason)

    def _overdue_reason(self, connection: GuardedConnection, now: float) -> ClosingReason | None:
        if connection.transport.is_closing():
            if connection.closing_since is None:
                connection.closing_since = now
            return ClosingReason.SEND_TIMEOUT if now - connection.closing_since > self._send_timeout_s else None
        if connection.unsent_since is not None and now - connection.unsent_since > self._send_timeout_s:
            return ClosingReason.SEND_TIMEOUT
        limit = self._time_limits.get(connection.phase)
        if limit is None or now - connection.since <= limit[0]:
            return None
        return limit[1]

    def _make_room(self, newest: GuardedConnection) -> None:
        waiting = [
            connection
            for connection in self._connections.values()
            if connection.waits_for_client and connection is not newest
        ]
        # Half a request comes before none: connections that are kept open between calls are a gateway's, too.
        waiting.sort(key=lambda connection: (connection.phase is IDLE, connection.since))
        number = max(1, int(self._max_connections * EVICTED_PART))
        self._end_all(waiting[:number] or [newest], ClosingReason.NO_ROOM)

    def _make_memory(self, size: int) -> None:
        """Close connections until *size* more bytes are within the bound."""
        holding = [connection for connection in self._connections.values() if connection.held_bytes]
        holding.sort(key=lambda connection: connection.since)
        target_bytes = self._max_held_bytes * (1 - EVICTED_PART)
        remaining_bytes, closing = self.held_bytes + size, []
        for connection in holding:
            if remaining_bytes <= target_bytes:
                break
            remaining_bytes -= connection.held_bytes
            closing.append(connection)
        self._end_all(closing, ClosingReason.NO_MEMORY)

    def _end_all(self, connections: Iterable[GuardedConnection], reason: ClosingReason) -> None:
        if not self.closed[reason.value]:
            _log.warning("connections are closed since there is no room", cause=reason.value, connections=len(self))
        for connection in connections:
            self.end(connection, reason)

    def metric_values(self) -> Mapping[str, Mapping[tuple[str, ...], float]]:
        """Values of the metrics of connections."""
        return {
            "trustwatch_connections_closed_total": {
                (reason.value,): self.closed[reason.value] for reason in ClosingReason
            },
        }


RESERVED_FILES = 256
"""Files that the process opens beside its connections: database, log, keys, pipes of its children."""


def affordable_connections(wanted: int = MAX_CONNECTIONS) -> int:
    """As many of *wanted* connections as this process may open files for; raises its soft limit where it can."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
        if soft < needed:
            affordable = max(soft - RESERVED_FILES, 16)
            _log.warning(
                "fewer connections than planned fit into the limit of open files; raise it (ulimit -n)",
                limit=soft,
                planned=wanted,
                connections=affordable,
            )
            return affordable
    return wanted
