"""Bounds on connections: their number, their time, and the bytes that are held of unauthenticated requests.

A connection costs memory before it has shown a token. The server's protocol (`api/service/http_server.py`) reports the
phase of each connection. The guard closes those that take too long and, if there is no room, those that have waited
longest for their client. A client that sends its request at once is never among them.
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
"""Connections at one time. Each takes an open file and some 10 kB. Above it, those that waited longest are closed."""

MAX_UNAUTHENTICATED_BYTES = 16 * 1024 * 1024
"""Bytes of unauthenticated requests that are held at one time: 256 of the largest heads."""

HEAD_TIMEOUT_S = 10.0
"""Time in which the headers of a request must arrive. Clients send them at once."""

BODY_TIMEOUT_S = 60.0
"""Time in which the body must arrive. The largest one needs 1 MB/s."""

SEND_TIMEOUT_S = 30.0
"""Time after which a connection is closed whose client reads nothing of its answer, which waits in memory."""

MAX_HEAD_BYTES = 64 * 1024
"""Bytes of a request line with its headers."""

LINGER_S = 5.0
"""Time in which the rest of a body may arrive after the answer, so that the client sees the answer."""

MAX_LINGER_BYTES = 1024 * 1024
"""Bytes of such a body that are read and discarded: gateways send bodies of calls and must see the 401."""

MAX_KNOWN_LINGER_BYTES = 64 * 1024 * 1024
"""The same for a known caller, which must see why its body is refused."""

IDLE_S = 5.0
"""Time between an answer and the first byte of the next request. uvicorn keeps it, unless other bytes arrive."""

EVICTED_PART = 1 / 32
"""Share of all connections that is closed at once if there is no room, because finding them visits all."""


class ConnectionPhase(Enum):
    """Phase of a connection's current request."""

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
        """True if it is idle, or if its caller is unknown and its request is incomplete."""
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
        """Add a connection. If there is no room, close others, or this one."""
        connection = GuardedConnection(transport, client, self.monotonic())
        self._connections[client] = connection
        if len(self._connections) > self._max_connections:
            others = (other for other in self._connections.values() if other is not connection)
            waiting = [other for other in others if other.waits_for_client]
            # Half a request goes before an idle one: gateways keep connections open between calls, too.
            waiting.sort(key=lambda other: (other.phase is IDLE, other.since))
            number = max(1, int(self._max_connections * EVICTED_PART))
            self._end_all(waiting[:number] or [connection], ClosingReason.NO_ROOM)
        return connection

    def forget(self, connection: GuardedConnection) -> None:
        self.release(connection)
        if self._connections.get(connection.client) is connection:
            del self._connections[connection.client]

    def hold(self, connection: GuardedConnection, size: int) -> None:
        """Count *size* more bytes of an unknown caller. Above the limit, close the connections that have held bytes
        longest."""
        if self.held_bytes + size > self._max_held_bytes:
            target_bytes = self._max_held_bytes * (1 - EVICTED_PART)
            remaining_bytes, closing = self.held_bytes + size, []
            for other in sorted(self._connections.values(), key=lambda other: other.since):
                if other.held_bytes and remaining_bytes > target_bytes:
                    remaining_bytes -= other.held_bytes
                    closing.append(other)
            self._end_all(closing, ClosingReason.NO_MEMORY)
            if connection.transport.is_closing():
                return  # it was the one that held some for longest; these bytes go with the others
        connection.held_bytes += size
        self.held_bytes += size

    def release(self, connection: GuardedConnection) -> None:
        """Stop counting the bytes of a connection."""
        self.held_bytes -= connection.held_bytes
        connection.held_bytes = 0

    def admit(self, client: object) -> None:
        """Note that the caller of the request from *client* is known, so that its bytes no longer count."""
        connection = self._connections.get(client)
        if connection is not None:
            connection.admitted = True
            self.release(connection)

    def end(self, connection: GuardedConnection, reason: ClosingReason) -> None:
        """Close a connection, with an answer if *reason* has one."""
        self.closed[reason.value] += 1
        self.forget(connection)
        transport = connection.transport
        answer = _ANSWERS.get(reason)
        if answer is None or connection.unanswered or transport.is_closing():
            transport.abort()
            return
        transport.write(encode_http_problem(answer))
        transport.close()
        # If the client does not read the answer, the connection is closed again later.
        self._connections[connection.client] = connection

    async def start(self) -> None:
        """Start closing overdue connections."""
        self._closing = asyncio.get_running_loop().create_task(self._close_overdue_always())

    async def close(self) -> None:
        """Stop the guard. The server closes the connections."""
        if self._closing is not None:
            self._closing.cancel()

    async def _close_overdue_always(self) -> None:
        while True:
            await asyncio.sleep(self._look_interval_s)
            self.close_overdue()

    def close_overdue(self) -> None:
        """Close the connections that have been in their phase, or unread, for too long."""
        now = self.monotonic()
        for connection in list(self._connections.values()):
            unread_since, limit = connection.unsent_since, self._time_limits.get(connection.phase)
            if connection.transport.is_closing():
                if connection.closing_since is None:
                    connection.closing_since = now
                unread_since, limit = connection.closing_since, None
            if unread_since is not None and now - unread_since > self._send_timeout_s:
                self.end(connection, ClosingReason.SEND_TIMEOUT)
            elif limit is not None and now - connection.since > limit[0]:
                self.end(connection, limit[1])

    def _end_all(self, connections: Iterable[GuardedConnection], reason: ClosingReason) -> None:
        if not self.closed[reason.value]:
            _log.warning("connections are closed since there is no room", cause=reason.value, connections=len(self))
        for connection in connections:
            self.end(connection, reason)

    def metric_values(self) -> Mapping[str, Mapping[tuple[str, ...], float]]:
        closed: dict[tuple[str, ...], float] = {(reason.value,): self.closed[reason.value] for reason in ClosingReason}
        return {"trustwatch_connections_closed_total": closed}


RESERVED_FILES = 256
"""Other files that the process opens: database, log, keys, pipes of its children."""


def affordable_connections(planned: int = MAX_CONNECTIONS) -> int:
    """Return how many of *planned* connections this process may open files for. Raises its soft limit if possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = planned + RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return planned
    affordable = max(soft - RESERVED_FILES, 16)
    problem = "fewer connections than planned fit into the limit of open files; raise it (ulimit -n)"
    _log.warning(problem, limit=soft, planned=planned, connections=affordable)
    return affordable
