"""The door: what is an event, what is not, and where exactly it is wrong."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from trustwatch.ingest.errors import MalformedEvent
from trustwatch.ingest.events import decode_event, event_json_schema
from trustwatch_client.events import MAX_ID_LENGTH

from ..support.feature_histories import event


def raw(**members: Any) -> bytes:
    return json.dumps({**event(), **members}).encode()


@pytest.mark.parametrize(
    ("members", "path"),
    [
        ({"outcome": "fine"}, "$.outcome"),
        ({"type": "tool"}, "$.type"),
        ({"effect": "burn"}, "$.effect"),
        ({"agent": {"id": ""}}, "$.agent.id"),
        ({"agent": {"id": "x" * (MAX_ID_LENGTH + 1)}}, "$.agent.id"),
        ({"agent": {}}, "$.agent.id"),
        ({"action": ""}, "$.action"),
        ({"time": "yesterday"}, "$.time"),
        ({"time": "2026-11-24T22:23:14"}, "$.time"),
        ({"time": "1969-12-31T23:59:59Z"}, "$.time"),
        ({"time": "9500-01-01T00:00:00Z"}, "$.time"),
        ({"bytes_in": -1}, "$.bytes_in"),
        ({"count": 0}, "$.count"),
        ({"duration_ms": "3"}, "$.duration_ms"),
        ({"delegation": [1]}, "$.delegation[0]"),
        ({"scopes": {"requested": ["s"] * 257}}, "$.scopes.requested"),
        ({"credential": {"token_lifetime_s": -5}}, "$.credential.token_lifetime_s"),
        ({"resource": {"external": "no"}}, "$.resource.external"),
        ({"time": None}, "$.time"),
    ],
)
def test_event_names_the_wrong_member(members: dict[str, Any], path: str) -> None:
    """What is wrong is told by its JSON path."""
    with pytest.raises(MalformedEvent) as caught:
        decode_event(raw(**members))

    assert caught.value.path == path


@pytest.mark.parametrize("name", ["bytes_in", "bytes_out", "duration_ms", "count"])
@pytest.mark.parametrize("value", ["1e999", "NaN", "Infinity"])
def test_event_refuses_numbers_that_are_not_finite(name: str, value: str) -> None:
    """Infinity and NaN would never leave an agent's state again; no spelling of them comes in."""
    text = json.dumps({**event(), name: 0}).replace(f'"{name}": 0', f'"{name}": {value}')

    with pytest.raises(MalformedEvent):
        decode_event(text.encode())


@pytest.mark.parametrize("body", [b"", b"[]", b"7", b"null", b"{", b'{"time":', b"\xff\xfe", b"[" * 100_000])
def test_event_refuses_what_is_no_object(body: bytes) -> None:
    """A record that is no JSON object is wrong as a whole."""
    with pytest.raises(MalformedEvent) as caught:
        decode_event(body)

    assert caught.value.path == "$"


def test_event_schema_accepts_what_the_decoder_accepts() -> None:
    """The published schema is valid JSON Schema, and says of events what the decoder says."""
    schema = event_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema)

    assert check.is_valid(json.loads(raw(effect="read", agent={"id": "https://a.example/x"})))
    for wrong in ({"outcome": "fine"}, {"agent": {"id": ""}}, {"bytes_in": -1}, {"count": 0}):
        assert not check.is_valid(json.loads(raw(**wrong)))
