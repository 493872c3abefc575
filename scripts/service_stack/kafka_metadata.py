"""The part of Kafka's protocol that checks whether a cluster works: one Metadata request over a plain socket.

Starting a Java tool would cost a second for each look.
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

METADATA, VERSION = 3, 4
"""Version 4 is the newest without compact encodings that Kafka 4 still speaks."""


class ClusterMetadata(NamedTuple):
    """What one broker believes of its cluster.

    Attributes:
        brokers: ids of the brokers that are not fenced.
        leaders: leader of each (topic, partition) asked for; -1 is none.
        in_sync: how many replicas of each are in sync.
    """

    brokers: frozenset[int]
    leaders: dict[tuple[str, int], int]
    in_sync: dict[tuple[str, int], int]


class _FieldReader:
    """Reads big-endian fields one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def number(self, form: str) -> int:
        (value,) = struct.unpack_from(f">{form}", self._data, self._at)
        self._at += struct.calcsize(f">{form}")
        return int(value)

    def text(self) -> str:
        size = max(self.number("h"), 0)  # -1 is null
        self._at += size
        return self._data[self._at - size : self._at].decode()

    def numbers(self) -> list[int]:
        return [self.number("i") for _ in range(self.number("i"))]


def ask_metadata(host: str, port: int, topics: tuple[str, ...] = (), timeout_s: float = 2.0) -> ClusterMetadata:
    """Ask the broker at *host* and *port* for the cluster and for *topics*.

    Raises:
        OSError: no server answers, or it closes the connection.
    """
    names = b"".join(_text(name) for name in topics)
    body = struct.pack(">i", len(topics)) + names + b"\0"  # the last byte: create no topic
    request = struct.pack(">hhi", METADATA, VERSION, 1) + _text("trustwatch-services") + body
    with socket.create_connection((host, port), timeout=timeout_s) as server:
        server.settimeout(timeout_s)
        server.sendall(struct.pack(">i", len(request)) + request)
        (size,) = struct.unpack(">i", _exactly(server, 4))
        return _parse(_FieldReader(_exactly(server, size)))


def _parse(answer: _FieldReader) -> ClusterMetadata:
    answer.number("q")  # correlation id and throttle time
    brokers = [_broker(answer) for _ in range(answer.number("i"))]
    answer.text()  # cluster id
    answer.number("i")  # controller
    leaders, in_sync = {}, {}
    for _ in range(answer.number("i")):
        answer.number("h")
        topic = answer.text()
        answer.number("b")
        for _ in range(answer.number("i")):
            answer.number("h")
            key = (topic, answer.number("i"))
            leaders[key] = answer.number("i")
            answer.numbers()
            in_sync[key] = len(answer.numbers())
    return ClusterMetadata(frozenset(brokers), leaders, in_sync)


def _broker(answer: _FieldReader) -> int:
    number = answer.number("i")
    answer.text(), answer.number("i"), answer.text()  # host, port, rack
    return number


def _text(value: str) -> bytes:
    return struct.pack(">h", len(value.encode())) + value.encode()


def _exactly(server: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = server.recv(size - len(data))
        if not part:
            raise ConnectionError("the broker hung up")
        data += part
    return data
