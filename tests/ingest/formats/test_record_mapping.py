"""Declared mappings from foreign records to native events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trustwatch.ingest.errors import ConfigError, MalformedEvent
from trustwatch.ingest.formats.expressions import MEMBER_KINDS
from trustwatch.ingest.formats.format_presets import GATEWAY_FORMATS
from trustwatch.ingest.formats.format_registry import FORMATS, create_parser
from trustwatch.ingest.formats.record_mapping import MappingSpec

from ...support.format_samples import one, taken

BASE = {"time": "at", "agent.id": "who", "type": "'api.call'", "action": "what", "outcome": "status"}
OUTCOMES = {"2xx": "success", "403": "denied", "*": "error"}
RECORD = {"at": "2026-01-02T03:04:05Z", "who": "a1", "what": "read", "status": 200}


def mapped(record: Any, members: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    """The native event of one record."""
    spec = MappingSpec(
        members={**BASE, **(members or {})}, values={"outcome": OUTCOMES, **more.pop("values", {})}, **more
    )
    (parcel,), skipped = create_parser("mapping", spec)(json.dumps(record).encode(), {})
    assert skipped == 0 and parcel.to_native is not None
    event: dict[str, Any] = json.loads(parcel.to_native())
    return event


def test_only_mapped_members_pass() -> None:
    """Redaction by construction: whatever else the record holds stays outside."""
    record = {**RECORD, "headers": {"authorization": "Bearer secret", "cookie": "c"}, "body": "secret", "route": "r1"}

    event = mapped(record, {"attributes.route": "route"})

    assert event.pop("id").startswith("record-")
    assert event == {
        "time": "2026-01-02T03:04:05Z",
        "agent": {"id": "a1"},
        "type": "api.call",
        "action": "read",
        "outcome": "success",
        "attributes": {"route": "r1"},
    }


@pytest.mark.parametrize(
    ("status", "outcome"), [(204, "success"), ("200", "success"), (403, "denied"), (404, "error"), (0, "error")]
)
def test_values_are_looked_up_exactly_then_by_class_then_otherwise(status: object, outcome: str) -> None:
    """One table serves numbers and texts."""
    assert mapped({**RECORD, "status": status})["outcome"] == outcome


@pytest.mark.parametrize(
    ("time_format", "value", "expected"),
    [
        ("s", 1726783839.5, "2024-09-19T22:10:39.500000Z"),
        ("ms", 1726783839538, "2024-09-19T22:10:39.538000Z"),
        ("ms", "1726783839538", "2024-09-19T22:10:39.538000Z"),
        ("us", 1726783839538001, "2024-09-19T22:10:39.538001Z"),
        ("ns", 1726783839538001999, "2024-09-19T22:10:39.538001Z"),
        (None, "2024-09-20T00:10:39.5+02:00", "2024-09-20T00:10:39.5+02:00"),
    ],
)
def test_times_come_as_text_or_as_numbers_since_1970(time_format: Any, value: object, expected: str) -> None:
    """Each mapping says which; a nanosecond is cut off, never rounded into the future."""
    assert mapped({**RECORD, "at": value}, time_format=time_format)["time"] == expected


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("repo read:org", ["repo", "read:org"]),
        ("repo,read:org", ["repo", "read:org"]),
        ("repo, read:org,", ["repo", "read:org"]),
        ("a,b c", ["a,b", "c"]),
        ("repo", ["repo"]),
    ],
)
def test_names_of_one_text_have_spaces_or_commas_between_them(written: str, names: list[str]) -> None:
    """OAuth writes scopes with spaces, GitHub with commas; where blanks separate, a comma is part of a name."""
    assert mapped({**RECORD, "scopes": written}, {"scopes.granted": "scopes"})["scopes"] == {"granted": names}


def test_values_take_the_type_of_their_member() -> None:
    """Gateways write numbers as text and text as numbers."""
    record = {**RECORD, "n": "12", "ms": "1.5s", "id": 7, "scopes": "a b", "no": "-", "flag": "true", "ip": "[::1]:99"}

    event = mapped(
        record,
        {
            "bytes_in": "n",
            "duration_ms": "ms(ms)",
            "session": "id",
            "scopes.granted": "scopes",
            "error": "no",
            "agent.self_asserted": "flag",
            "client.ip": "host(ip)",
            "principal.id": "missing",
            "bytes_out": "scale(n2, `2`)",
        },
    )

    assert event["bytes_in"] == 12 and event["duration_ms"] == 1500.0
    assert event["session"] == "7" and event["scopes"] == {"granted": ["a", "b"]}
    assert event["agent"] == {"id": "a1", "self_asserted": True} and event["client"] == {"ip": "::1"}
    assert "error" not in event and "principal" not in event and "bytes_out" not in event


@pytest.mark.parametrize(
    ("change", "members", "path", "words"),
    [
        ({"who": None}, {}, "$.who", "`agent.id`: has no value"),
        ({"what": {"a": 1}}, {}, "$.what", "`action`: must be text, is an object"),
        ({"n": "many"}, {"status": "n"}, "$.n", "`status`: must be a number, is `many`"),
        ({"n": 1.5}, {"status": "n"}, "$.n", "`status`: must be a whole number"),
        ({"n": -1}, {"bytes_in": "n"}, "$.n", "`bytes_in`"),
        ({"at": "yesterday"}, {}, "$.at", "`time`"),
        ({"n": 1}, {"agent.version": "join('', n)"}, "$ | join('', n)", "`agent.version`"),
        ({"x.y": "bad"}, {"type": '"x.y"'}, '$["x.y"]', "`type`"),
    ],
)
def test_refusals_name_the_member_and_the_path_in_the_record(
    change: dict[str, Any], members: dict[str, str], path: str, words: str
) -> None:
    """Whoever reads a dead letter knows both which line of the mapping and which place in the record."""
    with pytest.raises(MalformedEvent) as refusal:
        mapped({**RECORD, **change}, members)

    assert refusal.value.path == path
    assert words in refusal.value.reason


def test_a_value_that_no_table_lists_is_named() -> None:
    """Without `*` an unknown value is refused where the member is required, and left out elsewhere."""
    spec = MappingSpec(
        members={**BASE, "effect": "what"}, values={"outcome": {"200": "success"}, "effect": {"r": "read"}}
    )

    (good, bad), _, (refusal,) = taken("mapping", [RECORD, {**RECORD, "status": 418}, RECORD], spec)

    assert "effect" not in good and "effect" not in bad
    assert "`outcome`: has no entry in `values` for `418`" in refusal


def test_records_that_are_no_audit_events_are_skipped_and_counted() -> None:
    """`when` and `anonymous` are no refusals; a record that is broken still is."""
    spec = MappingSpec(members=BASE, values={"outcome": OUTCOMES}, when="kind == 'access'", anonymous="skip")
    records = [{**RECORD, "kind": "access"}, RECORD, {**RECORD, "kind": "access", "who": ""}, 7]

    parcels, skipped = create_parser("mapping", spec)(json.dumps(records).encode(), {})

    assert skipped == 2
    assert [parcel.raw for parcel in parcels] == [json.dumps(records[0]).encode(), b"7"]
    with pytest.raises(MalformedEvent, match="must be a JSON object"):
        parcels[1].to_native and parcels[1].to_native()


def test_the_whole_record_identifies_an_event_without_an_id() -> None:
    """Two calls that differ only in what is not mapped are two; the same record read again is the same."""
    first, again = mapped({**RECORD, "port": 1}), mapped({**RECORD, "port": 1})
    other = mapped({**RECORD, "port": 2})

    assert first == again
    assert first["id"] != other["id"]
    assert mapped({**RECORD, "nr": 5}, {"id": "nr"})["id"] == "5"


@pytest.mark.parametrize(
    ("members", "values", "words"),
    [
        ({"agent.name": "x"}, {}, "`agent.name`: no such member"),
        ({"attributes.": "x"}, {}, "`attributes.`: no such member"),
        ({"action": "a["}, {}, "`action`: no JMESPath"),
        ({"action": "upper(a)"}, {}, "`action`: no JMESPath"),
        ({"outcome": ""}, {}, "has no member `outcome`"),
        ({}, {"effect": {"GET": "read"}}, "`values` for `effect`"),
        ({}, {"outcome": {"1": "maybe"}}, "`maybe` is none of"),
    ],
)
def test_a_wrong_mapping_is_refused_before_anything_is_read(
    members: dict[str, str], values: dict[str, dict[str, str]], words: str
) -> None:
    """A service with a mapping that can not work does not start."""
    with pytest.raises(ConfigError, match=words.replace("[", r"\[")):
        create_parser("mapping", MappingSpec(members={**BASE, **members}, values={"outcome": OUTCOMES, **values}))


def test_only_mapped_formats_take_a_mapping() -> None:
    """A mapping that would be ignored is a mistake."""
    with pytest.raises(ConfigError, match="takes no `mapping`"):
        create_parser("native", MappingSpec(members={"action": "a"}))
    with pytest.raises(ConfigError, match="no format `nativ`"):
        create_parser("nativ")


def test_all_presets_are_formats_and_compile() -> None:
    """The table of formats holds them all."""
    assert set(GATEWAY_FORMATS) < set(FORMATS)
    for name in FORMATS:
        if name != "mapping":
            create_parser(name)


def test_all_members_of_the_event_can_be_mapped() -> None:
    """The table is read off the schema."""
    assert {"time", "agent.capabilities", "resource.provenance", "credential.token_lifetime_s", "txn"} <= set(
        MEMBER_KINDS
    )
    assert (
        MEMBER_KINDS["status"] == "integer"
        and MEMBER_KINDS["count"] == "number"
        and MEMBER_KINDS["delegation"] == "names"
    )
    assert not any(name.startswith("attributes") for name in MEMBER_KINDS)


def test_a_preset_can_be_changed_member_by_member() -> None:
    """What the settings say wins; the rest of the preset stays."""
    log = {
        "ts": 1646861401.5,
        "request": {
            "method": "GET",
            "uri": "/a?token=t",
            "host": "h:1",
            "remote_ip": "1.2.3.4",
            "headers": {"Authorization": ["Bearer x"], "User-Agent": ["curl"]},
        },
        "user_id": "bot",
        "duration": 0.25,
        "size": 9,
        "status": 401,
    }

    other = one("caddy", log, action="request.method", client__user_agent="")

    assert one("caddy", log) == {
        "time": "2022-03-09T21:30:01.500000Z",
        "agent": {"id": "bot"},
        "type": "api.call",
        "action": "GET /a",
        "effect": "read",
        "resource": {"id": "/a", "target": "h"},
        "outcome": "denied",
        "status": 401,
        "bytes_out": 9,
        "duration_ms": 250.0,
        "client": {"ip": "1.2.3.4", "user_agent": "curl"},
    }
    assert other["action"] == "GET" and "user_agent" not in other["client"]
    assert taken("caddy", {"level": "info", "msg": "serving"}).skipped == 1


def test_native_formats_are_cut_into_their_events() -> None:
    """One record may hold several; a broken one refuses only itself."""
    event = {"time": "2026-01-01T00:00:00Z", "agent": {"id": "a"}, "type": "other", "action": "x", "outcome": "success"}
    line = json.dumps(event).encode()

    assert len(create_parser("native")(b"[" + line + b"," + line + b"]", {}).records) == 2
    assert len(create_parser("ndjson")(line + b"\n\n" + line + b"\n", {}).records) == 2
    with pytest.raises(MalformedEvent):
        create_parser("native")(b"GET /", {})


def test_cloudevents_in_kafka_records() -> None:
    """Structured by content type, binary by `ce_` headers, whose values are not percent-encoded."""
    event = {"time": "2026-01-01T00:00:00Z", "agent": {"id": "a"}, "type": "other", "action": "x", "outcome": "success"}
    envelope = {"specversion": "1.0", "type": "io.trustwatch.audit.v1", "source": "urn:50%25", "id": "é"}
    body = json.dumps(event).encode()
    headers = {f"ce_{name}": value for name, value in envelope.items()} | {"content-type": "application/json"}

    (binary,), _ = create_parser("cloudevents")(body, headers)
    structured_type = {"content-type": "application/CloudEvents+json; charset=UTF-8"}
    (structured,), _ = create_parser("cloudevents")(json.dumps({**envelope, "data": event}).encode(), structured_type)
    (again,), _ = create_parser("cloudevents")(binary.raw, {})

    assert binary.to_native is not None and structured.to_native is not None and again.to_native is not None
    found = json.loads(binary.to_native())
    assert (found["source"], found["id"]) == ("urn:50%25", "é")
    assert json.loads(structured.to_native()) == found == json.loads(again.to_native())
    with pytest.raises(MalformedEvent, match="`id` is missing"):
        bad = create_parser("cloudevents")(body, {**headers, "ce_id": ""}).records[0]
        bad.to_native and bad.to_native()


def test_only_a_complete_mapping_says_what_wraps_records() -> None:
    """Other formats open what they know."""
    with pytest.raises(ConfigError, match="`records`: it is for complete mappings; format `envoy` opens what it knows"):
        create_parser("envoy", MappingSpec(records="items"))
