"""The web server of a running service and the address that it listens on."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import uvicorn

from trustwatch.ingest.errors import ConfigError

from ..http.connection_guard import ConnectionGuard
from ..http.fast_path import FastPath
from ..http.request_traces import trace_requests
from ..settings.root import Settings
from .guarded_protocol import guarded_protocol


def make_server(app: FastPath, connections: ConnectionGuard) -> UvicornServer:
    """The server of the application, with bounded connections."""
    return UvicornServer(
        uvicorn.Config(
            trace_requests(app),
            http=guarded_protocol(connections),
            log_config=None,
            access_log=False,
            lifespan="on",
            proxy_headers=False,
            server_header=False,
            ws="none",  # what gateways ask about an upgrade is a question like any other
            timeout_graceful_shutdown=10,
        )
    )


class UvicornServer(uvicorn.Server):
    """uvicorn without signal handlers of its own: the service stops its parts in order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listening_socket(settings: Settings) -> socket.socket:
    """The listening socket. Raises ConfigError with what to do where the address is taken."""
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
            f"can not listen on {listen.host} port {listen.port}: {error.strerror}; "
            "set listen.port or TRUSTWATCH_LISTEN_PORT"
        ) from None
