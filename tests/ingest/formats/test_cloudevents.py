"""CloudEvents envelopes, request bodies and history files."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from trustwatch.ingest.errors import MalformedEvent
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.formats.cloudevents import decode_http_binary, decode_structured, split_batch
from trustwatch.ingest.formats.history_decoding import decode_history_event, outcome_of_code
from trustwatch.ingest.formats.raw_records import split_json, split_ndjson

NATIVE: dict[str, Any] = {
    "time": "2026-11-24T22:23:14.123Z",
    "type": "tool.call",
    "agent": {"id": "agent-1"},
    "action": "process_payment",
    "outcome": "success",
    "bytes_in": 1.50,
    "unknown": [1, {"deep": None}],
}
ENVELOPE: dict[str, Any] = {
    "specversion": "1.0",
    "type": "io.trustwatch.audit.v1",
    "source": "urn:gateway:eu-1",
    "id": "evt-0193",
    "time": "2026-01-01T00:00:00Z",
    "subject": None,
    "comexampleextension": 5,
    "datacontenttype": "application/json; charset=utf-8",
}
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def structured(data: Any = NATIVE, **changes: Any) -> bytes:
    envelope = {**ENVELOPE, "data": data, **changes}
    return json.dumps({name: value for name, value in envelope.items() if value != "absent"}).encode()


def test_the_envelope_gives_the_identity() -> None:
    """`id` and `source` of the envelope replace those of the event; every other member stays as it stands."""
    native = decode_structured(structured({**NATIVE, "id": "own", "source": "urn:own"}))
    assert json.loads(native) == {**NATIVE, "id": "evt-0193", "source": "urn:gateway:eu-1"}
    event = decode_event(native)
    assert (event.id, event.source) == ("evt-0193", "urn:gateway:eu-1")


def test_time_and_trace_fill_in_only() -> None:
    """The event's own time and trace win; where they are absent or null the envelope's are taken."""
    own = json.loads(decode_structured(structured({**NATIVE, "trace_id": "mine"}, traceparent=TRACE)))
    assert (own["time"], own["trace_id"]) == (NATIVE["time"], "mine")
    bare = json.loads(decode_structured(structured({**NATIVE, "time": None, "trace_id": None}, traceparent=TRACE)))
    assert (bare["time"], bare["trace_id"]) == (ENVELOPE["time"], "4bf92f3577b34da6a3ce929d0e0e4736")
    broken = json.loads(decode_structured(structured(traceparent="nonsense")))
    assert "trace_id" not in broken


def test_data_base64() -> None:
    """The event may be packed; an absent `data` or null beside it is no contradiction."""
    packed = base64.b64encode(json.dumps(NATIVE).encode()).decode()
    for data in ("absent", None):
        native = decode_structured(structured(data, data_base64=packed))
        assert json.loads(native)["action"] == "process_payment"


BAD: list[tuple[str, dict[str, Any], str, str]] = [
    ("no specversion", {"specversion": "absent"}, "$.specversion", "missing"),
    ("null specversion", {"specversion": None}, "$.specversion", "missing"),
    ("old specversion", {"specversion": "0.3"}, "$.specversion", "must be `1.0`, is `0.3`"),
    ("numeric specversion", {"specversion": 1.0}, "$.specversion", "str"),
    ("no id", {"id": "absent"}, "$.id", "missing"),
    ("empty id", {"id": ""}, "$.id", "empty"),
    ("numeric id", {"id": 7}, "$.id", "Expected `str"),
    ("no source", {"source": "absent"}, "$.source", "missing"),
    ("no type", {"type": "absent"}, "$.type", "missing"),
    ("other type", {"type": "com.example.x"}, "$.type", "must be `io.trustwatch.audit.v1`, is `com.example.x`"),
    ("not JSON", {"datacontenttype": "application/xml"}, "$.datacontenttype", "application/xml"),
    ("no data", {"data": "absent"}, "$.data", "missing"),
    ("null data", {"data": None}, "$.data", "not a JSON object"),
    ("text data", {"data": "text"}, "$.data", "not a JSON object"),
    ("bad base64", {"data": "absent", "data_base64": "...!"}, "$.data_base64", "not base64"),
    ("base64 that is not ASCII", {"data": "absent", "data_base64": "é"}, "$.data_base64", "not base64"),
    ("base64 of text", {"data": "absent", "data_base64": "aGVsbG8="}, "$.data_base64", "not a JSON object"),
    ("empty base64", {"data": "absent", "data_base64": ""}, "$.data_base64", "missing"),
    ("both", {"data_base64": "e30="}, "$.data_base64", "exclude"),
]


@pytest.mark.parametrize(("changes", "path", "reason"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_envelopes(changes: dict[str, Any], path: str, reason: str) -> None:
    """Each way to be wrong is a MalformedEvent with the path of the wrong attribute and words to act on."""
    with pytest.raises(MalformedEvent) as caught:
        decode_structured(structured(**changes))
    assert caught.value.path == path
    assert reason in caught.value.reason


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"5", b"\xff", b'{"id": "\xff"}', b"[" * 100_000])
def test_what_is_no_envelope(raw: bytes) -> None:
    """Anything but a JSON object is malformed as a whole."""
    with pytest.raises(MalformedEvent) as caught:
        decode_structured(raw)
    assert caught.value.path == "$"


def headers(**changes: str) -> dict[str, str]:
    values = {"specversion": "1.0", "type": "io.trustwatch.audit.v1", "source": "/gateway", "id": "1", **changes}
    given = {f"Ce-{name}": text for name, text in values.items() if text != "absent"}
    return {"Host": "x", "Content-Type": "application/json", **given}


def test_binary_mode() -> None:
    """Attributes come from headers of any case, unquoted and percent-decoded once; the body is the event."""
    given = headers(id="Euro%20%E2%82%AC%2541", source='"/a \\"b\\""', traceparent=TRACE)
    native = json.loads(decode_http_binary(given, json.dumps(NATIVE).encode()))
    assert native["id"] == "Euro €%41"
    assert native["source"] == '/a "b"'
    assert native["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert native["time"] == NATIVE["time"]


@pytest.mark.parametrize(
    ("changes", "body", "path"),
    [
        ({"id": "absent"}, b"{}", "$.id"),
        ({"id": "%zz"}, b"{}", "$.id"),
        ({"id": "%ff"}, b"{}", "$.id"),
        ({"source": ""}, b"{}", "$.source"),
        ({"specversion": "2.0"}, b"{}", "$.specversion"),
        ({"type": "x"}, b"{}", "$.type"),
        ({}, b"", "$.data"),
        ({}, b"[]", "$.data"),
        ({}, b"{} {}", "$.data"),
    ],
)
def test_bad_binary_mode(changes: dict[str, str], body: bytes, path: str) -> None:
    """Bad headers are named as the attribute that they carry."""
    with pytest.raises(MalformedEvent) as caught:
        decode_http_binary(headers(**changes), body)
    assert caught.value.path == path


def test_batches_are_cut_without_being_judged() -> None:
    """Each element stands for itself: a wrong one does not touch its neighbours."""
    elements = split_batch(b" [" + structured() + b", 5 ,{}]\n")
    assert elements == [structured(), b"5", b"{}"]
    assert split_batch(b"[]") == []


@pytest.mark.parametrize("raw", [b"", b"{}", b"[1,", b"[1] x", b'["\xff]', b"[" * 100_000])
def test_a_broken_batch(raw: bytes) -> None:
    """Where the array itself is broken no element can be trusted."""
    with pytest.raises(MalformedEvent) as caught:
        split_batch(raw)
    assert caught.value.path == "$"


def test_native_bodies() -> None:
    """One object, or an array; what is inside is judged later."""
    assert split_json(b'  {"a": 1} \n') == [b'{"a": 1}']
    assert split_json(b'[{"a":  1},{"b":[1,2]} , null]') == [b'{"a":  1}', b'{"b":[1,2]}', b"null"]
    for raw in (b"", b"  ", b'"text"', b"5", b"[{}", b"\xef\xbb\xbf{}"):
        with pytest.raises(MalformedEvent) as caught:
            split_json(raw)
        assert caught.value.path == "$"


def test_lines() -> None:
    """Blank lines are no records; a broken line is handed on like any other."""
    assert split_ndjson(b'{"a":1}\r\n\n{bad\n  {"b":2}') == [b'{"a":1}', b"{bad", b'{"b":2}']
    assert split_ndjson(b"\n\n") == []


@pytest.mark.parametrize(
    ("split", "body"),
    [
        (split_ndjson, b" 1 \r\n\n" * 500_000),
        (split_json, b"[" + b"1," * 500_000 + b"1]"),
        (split_batch, b"[" + b"1," * 500_000 + b"1]"),
    ],
)
def test_what_millions_of_records_cost_is_bounded(split: Callable[[bytes, int], list[bytes]], body: bytes) -> None:
    """One record more than may be is enough to refuse the body; no object is made of the others."""
    assert split(body, 3) == [b"1"] * 4
    assert split_ndjson(b"1\n2\n\n3", 3) == [b"1", b"2", b"3"]


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("AccessDenied", "denied"),
        ("accessdeniedexception", "denied"),
        ("access_denied", "denied"),
        ("Access Denied", "denied"),
        ("Client.UnauthorizedOperation", "denied"),
        ("UnauthorizedException", "denied"),
        ("NotAuthorizedException", "denied"),
        ("Forbidden", "denied"),
        ("PERMISSION_DENIED", "denied"),
        ("insufficient_scope", "denied"),
        ("403", "denied"),
        ("HTTP 401 Unauthorized", "denied"),
        ("4030", "error"),
        ("500", "error"),
        ("ThrottlingException", "error"),
        ("Client.InvalidPermission.NotFound", "error"),
        ("Client.InvalidRouteTableID.NotFound", "error"),
        ("Denied", "denied"),
        ("SUCCESS", "success"),
    ],
)
def test_codes(code: str, outcome: str) -> None:
    """Codes of refusal mean denied, all others error; the schema's words count in any capitals."""
    assert outcome_of_code(code) == outcome


def history(**changes: Any) -> bytes:
    return json.dumps({**NATIVE, **changes}).encode()


@pytest.mark.parametrize(
    ("error", "kept"), [(None, "ThrottlingException"), ("", "ThrottlingException"), ("own", "own")]
)
def test_history_is_mended_and_said(error: str | None, kept: str) -> None:
    """A foreign outcome is mapped, its text kept in `error` unless there is one, and nothing else changes."""
    raw = history(outcome="ThrottlingException", error=error)
    event, mended = decode_history_event(raw)
    assert mended
    assert (event.outcome, event.error) == ("error", kept)
    assert (event.action, event.bytes_in) == ("process_payment", 1.5)
    with pytest.raises(MalformedEvent):
        decode_event(raw)


def test_sound_history_is_not_touched() -> None:
    """A record that the strict decoder takes is returned as it is; a long code is cut, other capitals are no code."""
    event, mended = decode_history_event(history())
    assert (event, mended) == (decode_event(history()), False)
    event, mended = decode_history_event(history(outcome="x" * 5000))
    assert event.error == "x" * 2048
    event, mended = decode_history_event(history(outcome="SUCCESS"))
    assert (event.outcome, event.error, mended) == ("success", None, True)


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"outcome": ""}, "$.outcome"),
        ({"outcome": "  "}, "$.outcome"),
        ({"outcome": None}, "$.outcome"),
        ({"outcome": 403}, "$.outcome"),
        ({"type": "nonsense"}, "$.type"),
        ({"outcome": "Throttled", "bytes_in": -1}, "$.bytes_in"),
        ({"outcome": "Throttled", "agent": {}}, "$.agent.id"),
    ],
)
def test_other_damage_is_not_mended(changes: dict[str, Any], path: str) -> None:
    """Only a foreign outcome is forgiven; everything else is malformed as at the HTTP door."""
    with pytest.raises(MalformedEvent) as caught:
        decode_history_event(history(**changes))
    assert caught.value.path == path


@pytest.mark.parametrize("rest", [b',"\xff":1}', b',"deep":' + b"[" * 100_000 + b"]" * 100_000 + b"}"])
def test_foreign_outcomes_of_damaged_records_are_malformed(rest: bytes) -> None:
    """The decoder stops at the outcome, before it comes to what no decoder reads; mending must not end the run."""
    with pytest.raises(MalformedEvent) as caught:
        decode_history_event(history(outcome="Throttled")[:-1] + rest)
    assert caught.value.path == "$.outcome"


def test_origins_of_arguments_pass_through_an_envelope() -> None:
    """They are members of the event inside; a wrong one is told by its path there."""
    argument = {"name": "to", "origin": "tool", "hash": "39e505e56acc", "from": 1, "from_action": "read_mail"}

    event = decode_event(decode_structured(structured({**NATIVE, "arguments": [argument], "untrusted_result": True})))

    assert event.arguments is not None
    assert (event.arguments[0].from_call, event.arguments[0].from_action) == (1, "read_mail")
    assert event.untrusted_result is True
    with pytest.raises(MalformedEvent) as caught:
        decode_event(decode_structured(structured({**NATIVE, "arguments": [{**argument, "hash": "acct-42"}]})))
    assert caught.value.path == "$.arguments[0].hash"
