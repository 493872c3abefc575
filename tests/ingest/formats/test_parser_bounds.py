"""What a body becomes: at most four times its bytes and 1 kB for each record, whatever its format and shape."""

from __future__ import annotations

import base64
import copy
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustwatch.api.events.admission import Admission, AgentRegistry, RefusedRecords
from trustwatch.api.http.auth.callers import SourceBinding
from trustwatch.api.http.ledger import Party, party_of
from trustwatch.api.settings.access_settings import EventSourceSettings
from trustwatch.ingest.errors import MalformedEvent, SourceNotAllowed
from trustwatch.ingest.formats.format_registry import FORMATS, create_parser
from trustwatch.ingest.formats.raw_records import (
    MAX_BODY_RECORDS,
    ParserBudget,
    RawRecord,
    TooManyRecords,
    TooMuchOutput,
)
from trustwatch.ingest.formats.record_mapping import MappingSpec
from trustwatch.ingest.record_keys import raw_record_digest, record_id

from ...support.format_samples import ADMIN, AUDIT_LOG_SAMPLES, LOGIN, TOOL, audit_log_records, hydra, logs, span
from ...support.nightly import size

NOW_MS = 1_799_000_000_000
MOST_BYTES = 4_000_000
"""Of a body that is drawn. Lists are multiplied several times; without a bound one draw has taken all memory."""
SENDER = SourceBinding(EventSourceSettings("evil", ("evil",), ("https://as.example",), ("*",)))
NATIVE = {
    "id": "e",
    "time": "2026-03-02T08:00:00Z",
    "agent": {"id": "a"},
    "type": "api.call",
    "action": "x",
    "outcome": "success",
}
GATEWAY_LINE = {"start_time": "2025-11-24T15:59:00Z", "method": "GET", "response_code": 200, "jwt.client_id": "bot"}
WORKSPACE = {
    "kind": "admin#reports#activity",
    "id": {"time": "2026-03-02T08:00:00Z", "applicationName": "token"},
    "actor": {"email": "a@b.example"},
    "events": [{"name": "authorize", "parameters": [{"name": "client_id", "value": "bot"}]}],
}
TRACE = {
    "id": "t",
    "name": "assistant",
    "observations": [{"id": "o", "traceId": "t", "type": "TOOL", "name": "x", "startTime": "2026-03-02T08:00:00Z"}],
}
SEEDS: dict[str, list[Any]] = {
    **{name: [GATEWAY_LINE] for name in FORMATS},
    **{name: audit_log_records(name) for name in AUDIT_LOG_SAMPLES},
    **{name: [NATIVE, [NATIVE]] for name in ("native", "ndjson")},
    "cloudevents": [{"specversion": "1.0", "id": "1", "source": "s", "type": "io.trustwatch.audit.v1", "data": NATIVE}],
    "mapping": [{"items": [{"at": "2026-03-02T08:00:00Z", "who": "bot"}]}, [{"at": "now", "who": "bot"}]],
    "keycloak": [LOGIN, ADMIN],
    "otlp": [
        span(TOOL, resource={"service.name": "s"}),
        span({**TOOL, "gen_ai.agent.id": ""}, resource={"service.name": "s" * 3000}),
        hydra("OAuth2AccessTokenIssued", OAuth2ClientID="b"),
        logs("agentgateway.access", {"http.status": 200, "client_id": "b"}),
    ],
    "google-workspace": [WORKSPACE, {"items": [WORKSPACE]}],
    "langfuse": [TRACE, {"data": [TRACE]}],
}
COPIES = MappingSpec(
    members={
        "time": "at",
        "agent.id": "who",
        "type": "'other'",
        "action": "'x'",
        "outcome": "'success'",
        **{f"attributes.n{number}": "note" for number in range(20)},
    },
    records="items",
)


def nodes(value: Any) -> list[tuple[Any, Any]]:
    """Each place in JSON, as its container and key."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [pair for key, inner in items for pair in ((value, key), *nodes(inner))]


def repeated(value: Any, times: int) -> list[Any]:
    """A list with the value so many times, or as often as fits into a body."""
    return [value] * max(1, min(times, MOST_BYTES // len(json.dumps(value))))


@st.composite
def hostile(draw: st.DrawFn, name: str) -> bytes:
    """A good body with long texts, long lists and many members put where a parser may repeat them."""
    body = copy.deepcopy(draw(st.sampled_from(SEEDS[name])))
    long = draw(st.sampled_from([100, 3_000, 40_000, 90_000]))
    for _ in range(draw(st.integers(1, 5))):
        node, key = draw(st.sampled_from(nodes({"": body})[1:] or [({}, "")]))
        kind = draw(st.integers(0, 5))
        if kind == 0:
            node[key] = "x" * long
        elif kind == 1 and isinstance(node[key], dict):
            node[key]["note"] = draw(st.sampled_from("x\\\N{SNOWMAN}")) * long
        elif kind == 2 and isinstance(node[key], dict):
            node[key].update({f"m{number}": number for number in range(long // 100)})
        elif isinstance(node[key], list) and node[key]:
            times = draw(st.sampled_from([2, 30, 400]))
            if times * len(json.dumps(body)) <= MOST_BYTES:
                node[key] *= times
        elif isinstance(node[key], list):
            node[key] += [{}, 0, [], "x"] * draw(st.sampled_from([1, 100]))
    if draw(st.booleans()):
        text = json.dumps(repeated(body, draw(st.integers(1, 100))))
        wrappers = [
            {"Records": repeated(body, 50)},
            {"message": {"data": base64.b64encode(text.encode()).decode()}, "note": "x" * long},
            {"message": text, "note": "x" * long},
            {"properties": {"records": repeated(body, 50)}, "operationName": "x" * long},
            repeated(body, 200),
        ]
        body = draw(st.sampled_from(wrappers))
    return json.dumps(body, ensure_ascii=False).encode()


def outcome(name: str, value: bytes) -> tuple[int, int]:
    """How many records a value has, and the bytes that they take in the log."""
    letters = RefusedRecords(NOW_MS, party_of(SENDER), lambda index: record_id(NOW_MS, "edge", index))
    admission = Admission(AgentRegistry(()))
    try:
        records, skipped = create_parser(name, COPIES if name == "mapping" else None)(value, {})
    except MalformedEvent as error:
        letters.add(RawRecord(value), error, 0)
        return 1, sum(len(letter.record.payload) for letter in letters.letters())
    logged = 0
    for index, record in enumerate(records):
        try:
            logged += len(admission.admit(record, SENDER, NOW_MS).payload)
        except (MalformedEvent, SourceNotAllowed) as error:
            letters.add(record, error, index)
    return len(records) + skipped, logged + sum(len(letter.record.payload) for letter in letters.letters())


@pytest.mark.parametrize("name", FORMATS)
def test_output_is_bounded(name: str) -> None:
    @settings(max_examples=size(each_push=10, nightly=100), deadline=None)
    @given(hostile(name))
    def run(value: bytes) -> None:
        count, logged = outcome(name, value)
        assert count <= MAX_BODY_RECORDS
        assert logged <= 4 * len(value) + 1024 * count

    run()


def shared(name: str, long: int, records: int) -> bytes:
    """A body whose records are refused, or accepted, with much around them."""
    attribute = {"key": "note", "value": {"stringValue": "x" * long}}
    bad = {"traceId": "", "startTimeUnixNano": "soon", "attributes": [{"key": "gen_ai.agent.id", "value": {}}]}
    if name == "otlp":
        scopes = [{"spans": [bad]} for _ in range(records // 2)] + [{"spans": [bad] * (records // 2)}]
        return json.dumps({"resourceSpans": [{"resource": {"attributes": [attribute]}, "scopeSpans": scopes}]}).encode()
    if name == "google-workspace":
        events = [{"name": "authorize", "parameters": [{"name": "client_id", "value": ["x"]}]}] * records
        return json.dumps({**WORKSPACE, "etag": "x" * long, "events": events}).encode()
    assert name == "envoy"
    return json.dumps(
        {"message": json.dumps([{**GATEWAY_LINE, "start_time": 7}] * records), "note": "x" * long}
    ).encode()


@pytest.mark.parametrize("name", ["otlp", "google-workspace", "envoy"])
@pytest.mark.parametrize("long", [1_000, 60_000, 120_000, 1_000_000])
def test_what_surrounds_refused_records_is_kept_once(name: str, long: int) -> None:
    """Neither the log nor the memory holds it for each of them."""
    value = shared(name, long, 1_000)
    tracemalloc.start()
    try:
        count, logged = outcome(name, value)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert count == 1_000
    assert logged <= 2 * len(value) + 1024 * count
    assert peak <= 20 * len(value) + 4096 * count  # a resource copied into each record would be 1,000 times


def test_refused_spans_of_a_resource_are_sent_again_from_their_letters() -> None:
    """Nothing is lost: the letters hold all spans, each with its resource and scope."""
    value = shared("otlp", 60_000, 1_000)
    letters = RefusedRecords(NOW_MS, Party("otel", "otel"), str)
    records = create_parser("otlp")(value, {}).records
    ids = [letters.add(record, MalformedEvent("no"), index) for index, record in enumerate(records)]
    closed = letters.letters()

    again = [record for letter in closed for record in create_parser("otlp")(letter.raw, {}).records]

    assert [record.raw for record in again] == [record.raw for record in records]
    assert 1 <= len(closed) < 5 and sum(letter.records for letter in closed) == 1_000
    assert {letter.letter_id for letter in closed} == set(ids)
    assert f"first of {closed[0].records} refused" in closed[0].reason
    resource = json.loads(closed[0].raw)["resourceSpans"][0]["resource"]
    assert resource == json.loads(value)["resourceSpans"][0]["resource"]


def test_a_very_long_resource_is_whole_in_the_first_letter_alone() -> None:
    """Further letters hold what of its attributes finds room."""
    attributes = [{"key": "service.name", "value": {"stringValue": "s"}}]
    attributes += [{"key": "note", "value": {"stringValue": "x" * 100_000}}]
    spans = [{"startTimeUnixNano": "soon", "name": "x" * 100_000}] * 4
    body = {"resourceSpans": [{"resource": {"attributes": attributes}, "scopeSpans": [{"spans": spans}]}]}
    letters = RefusedRecords(NOW_MS, Party("otel", "otel"), str)
    for index, record in enumerate(create_parser("otlp")(json.dumps(body).encode(), {}).records):
        letters.add(record, MalformedEvent("no"), index)

    found = [json.loads(letter.raw)["resourceSpans"][0] for letter in letters.letters()]

    assert [len(part["resource"]["attributes"]) for part in found] == [2, 1, 1]
    assert sum(len(part["scopeSpans"][0]["spans"]) for part in found) == 4


def test_identity_of_a_record_in_surroundings_is_that_of_its_whole() -> None:
    """As if each had come alone: the same in one body or in many."""
    body = logs("agentgateway.access", {"http.status": 200, "client_id": "b"}, {"http.status": 201, "client_id": "b"})
    for record in create_parser("otlp")(json.dumps(body).encode(), {}).records:
        assert record.to_native is not None and record.enclosure is not None
        assert json.loads(record.to_native())["id"] == f"record-{raw_record_digest(record.whole)}"
        (alone,) = create_parser("otlp")(record.whole, {}).records
        assert alone.to_native is not None and alone.to_native() == record.to_native()


def test_records_of_one_enclosing_record_without_ids_are_different_events() -> None:
    """They were one, since all had the bytes around them as identity."""
    value = json.dumps({"message": json.dumps([GATEWAY_LINE] * 3)}).encode()
    records = create_parser("envoy")(value, {}).records

    ids = [json.loads(record.to_native())["id"] for record in records if record.to_native]

    assert len(set(ids)) == 3 and ids[1].startswith(ids[0])


def test_events_that_repeat_what_surrounds_them_are_refused_as_a_whole() -> None:
    """Here a mapping copies a long attribute of the resource into each event."""
    spec = MappingSpec(members={"attributes.note": "resource.note"})
    short, long = (span(TOOL, resource={"note": "x" * length}) for length in (100, 20_000))
    for body in (short, long):
        body["resourceSpans"][0]["scopeSpans"][0]["spans"] *= 100
    assert len(create_parser("otlp", spec)(json.dumps(short).encode(), {}).records) == 100
    with pytest.raises(TooMuchOutput, match="2 times its bytes"):
        create_parser("otlp", spec)(json.dumps(long).encode(), {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ndjson", b"{}\n" * 11),
        ("otlp", json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [{}] * 11}]}]}).encode()),
        ("mapping", json.dumps({"items": [{}] * 11}).encode()),
        *((name, json.dumps([{}] * 11).encode()) for name in ("native", "mapping", "hydra", "okta", "envoy")),
    ],
)
def test_a_value_holds_a_bounded_number_of_records(name: str, value: bytes) -> None:
    """Of every format; what is more is one refusal."""
    parse = create_parser(name, COPIES if name == "mapping" else None)
    with pytest.raises(TooManyRecords, match="more than 10 records"):
        parse(value, {}, ParserBudget(10))
    parse(value, {}, ParserBudget(11))


@pytest.mark.parametrize("value", [b"[" + b"1," * 2_100_000 + b"1]", b'{"a":[' + b"[]," * 1_100_000 + b"1]}"])
def test_json_of_very_many_values_is_refused_before_it_is_decoded(value: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(MalformedEvent, match="more than 2000000 values"):
            for record in create_parser("okta")(value, {}).records:
                assert record.to_native and record.to_native()
        assert tracemalloc.get_traced_memory()[1] < 2 * len(value)
    finally:
        tracemalloc.stop()


def test_an_object_around_many_records_has_few_members() -> None:
    """It is read again with each of them."""
    around: dict[str, Any] = {f"m{number}": 1 for number in range(1_000)}
    for name, body in (
        ("google-workspace", {**WORKSPACE, **around, "events": WORKSPACE["events"] * 2}),
        ("envoy", {**around, "message": json.dumps([GATEWAY_LINE] * 2)}),
    ):
        (record,) = create_parser(name)(json.dumps(body).encode(), {}).records
        with pytest.raises(MalformedEvent, match=r"100\d members"):
            assert record.to_native and record.to_native()
