"""Head and body of an answer leave together, and nothing is lost, late or out of order for it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import cast

import pytest
import uvloop

from trustwatch.api.service.http_server import JoinedWrites


class Answering(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.joined = JoinedWrites(cast(asyncio.Transport, transport), asyncio.get_running_loop())

    def data_received(self, data: bytes) -> None:
        for _ in data:
            self.joined.write(b"h" * 200)
            self.joined.write(b"b" * 300)


@pytest.mark.parametrize("loop_of", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_client_reads_both_at_once(loop_of: Callable[[], asyncio.AbstractEventLoop]) -> None:
    loop = loop_of()

    def ask(port: int) -> list[bytes]:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            answers = []
            for _ in range(50):
                client.sendall(b"?")
                answers.append(client.recv(1000))
            return answers

    async def serve() -> list[bytes]:
        server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0)
        async with server:
            return await loop.run_in_executor(None, ask, server.sockets[0].getsockname()[1])

    try:
        assert loop.run_until_complete(serve()) == [b"h" * 200 + b"b" * 300] * 50
    finally:
        loop.close()
