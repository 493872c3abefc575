"""Head and body of an answer leave together, and nothing is lost, late or out of order for it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
import uvloop

from trustwatch.api.service.http_server import JoinedWrites


class RecordingTransport(asyncio.Transport):
    """Notes what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Any] = []
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.asked.append(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.asked.append(tuple(list_of_data))

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.asked.append("close")
        self.closing = True

    def abort(self) -> None:
        self.asked.append("abort")
        self.closing = True


def asked_by(write: Callable[[JoinedWrites, RecordingTransport], Awaitable[None]]) -> list[Any]:
    """What reaches the transport."""

    async def run() -> list[Any]:
        transport = RecordingTransport()
        await write(JoinedWrites(transport, asyncio.get_running_loop()), transport)
        await asyncio.sleep(0)
        return transport.asked

    return asyncio.run(run())


def test_a_head_alone_waits_for_one_turn_of_the_loop() -> None:
    """A stream's first event may be minutes away."""

    async def write(joined: JoinedWrites, transport: RecordingTransport) -> None:
        joined.write(b"head")
        assert transport.asked == []
        await asyncio.sleep(0)
        assert transport.asked == [b"head"]
        joined.write(b"event")

    assert asked_by(write) == [b"head", b"event"]


def test_what_is_held_is_dropped_where_the_connection_is_cut() -> None:
    async def abort(joined: JoinedWrites, _: RecordingTransport) -> None:
        joined.write(b"head")
        joined.abort()

    async def lost(joined: JoinedWrites, transport: RecordingTransport) -> None:
        joined.write(b"head")
        transport.closing = True

    assert asked_by(abort) == ["abort"]
    assert asked_by(lost) == []


class Answering(asyncio.Protocol):
    """Answers each byte with a head and a body."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.joined = JoinedWrites(cast(asyncio.Transport, transport), asyncio.get_running_loop())

    def data_received(self, data: bytes) -> None:
        for _ in data:
            self.joined.write(b"h" * 200)
            self.joined.write(b"b" * 300)


@pytest.mark.parametrize("loop_of", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_client_reads_both_at_once(loop_of: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """On a real connection, whichever loop runs."""
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
