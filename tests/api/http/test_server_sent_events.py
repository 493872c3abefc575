"""Server-sent events as bytes."""

from __future__ import annotations

import pytest

from trustwatch.api.http.responses import encode_event


@pytest.mark.parametrize(
    ("name", "data", "event_id", "wire"),
    [
        ("decision", '{"a":1}', "D1", b'id: D1\nevent: decision\ndata: {"a":1}\n\n'),
        ("opened", "", None, b"event: opened\ndata: \n\n"),
        ("said", "one\ntwo", None, b"event: said\ndata: one\ndata: two\n\n"),
        ("said", "one\r\ntwo\rthree\n", None, b"event: said\ndata: one\ndata: two\ndata: three\n\n"),
        ("said", "one\u2028two\x0bthree", None, b"event: said\ndata: one\ndata: two\ndata: three\n\n"),
        ("said", "ü", None, "event: said\ndata: ü\n\n".encode()),
    ],
)
def test_an_event_on_the_wire(name: str, data: str, event_id: str | None, wire: bytes) -> None:
    assert encode_event(name, data, event_id) == wire
