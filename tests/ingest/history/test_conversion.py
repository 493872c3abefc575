"""Files of any format become native events: the format is told by the records, and nothing is dropped in silence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from trustwatch.ingest.errors import ConfigError, MalformedEvent
from trustwatch.ingest.formats.format_registry import SIGNS, describe_record, record_format
from trustwatch.ingest.formats.history_decoding import RecordOwner
from trustwatch.ingest.formats.record_mapping import MappingSpec, RecordMapping
from trustwatch.ingest.history.conversion import (
    FormatChoice,
    HistoryConverter,
    UnknownFormat,
    read_mapping,
)
from trustwatch.ingest.history.time_order import in_time_order

from ...support.format_samples import (
    AT,
    AUDIT_LOG_SAMPLES,
    LINES,
    LOGIN,
    QUOTED,
    TOOL,
    audit_log_records,
    logs,
    span,
)

NATIVE = {
    "time": "2026-03-02T08:00:00Z",
    "agent": {"id": "a"},
    "type": "api.call",
    "action": "read",
    "outcome": "success",
}
OWN = {"when": "2026-03-02T08:00:00Z", "who": "svc-1", "did": "read", "ok": True}
MAPPING = MappingSpec(
    members={
        "time": "when",
        "agent.id": "who",
        "type": "'api.call'",
        "action": "did",
        "outcome": "ok && 'success' || 'error'",
    }
)
SHOWN: dict[str, list[object]] = {
    "native": [NATIVE],
    "cloudevents": [{"specversion": "1.0", "type": "io.trustwatch.audit.v1", "source": "s", "id": "1", "data": NATIVE}],
    "otlp": [span(TOOL), logs("agentgateway.access", {"client_id": "b"})],
    "keycloak": [LOGIN, AT + QUOTED, {"@timestamp": "x", "message": AT + QUOTED}],
    "hydra": (LINES / "hydra_2.3.0.jsonl").read_text().splitlines()[-1:],
    "envoy": [{"start_time": "2026-03-02T08:00:00Z", "method": "GET", "response_code": 200}],
    "kong": [{"latencies": {}, "started_at": 1, "request": {}, "response": {}}],
    "apisix": [{"start_time": 1, "request": {}, "response": {}, "client_ip": "192.0.2.1"}],
    "caddy": [{"logger": "http.log.access.log0", "request": {}, "ts": 1}],
    "agentgateway": [
        "2026-02-12T16:09:55Z\tinfo\trequest gateway=d src.addr=[::1]:56199 http.method=POST",
        {"src.addr": "x", "http.method": "GET"},
    ],
    "contextforge": [
        {"action": "READ", "resource_type": "tool", "user_id": "u", "success": True, "requires_review": False}
    ],
    **{name: [*audit_log_records(name)] for name in AUDIT_LOG_SAMPLES},
}


def as_line(record: object) -> bytes:
    """A record as one line."""
    return record.encode() if isinstance(record, str) else json.dumps(record).encode()


def write(path: Path, *records: object) -> Path:
    """A file of lines."""
    path.write_bytes(b"".join(as_line(record) + b"\n" for record in records))
    return path


class Conversion:
    """What became of files."""

    def __init__(self, *paths: Path, choice: FormatChoice = FormatChoice()) -> None:  # noqa: B008
        self.told: list[str] = []
        self.converter = HistoryConverter(choice, self.told.append)
        self._paths = paths
        self.events: list[dict[str, Any]] = []

    def run(self) -> Conversion:
        files = [formatted for path in self._paths for formatted in self.converter.find(path)]
        self.converter.tell_formats(files)
        self.events += map(json.loads, self.converter.convert(files))
        return self


@pytest.mark.parametrize("name", SHOWN)
def test_each_format_is_told_by_its_records(name: str) -> None:
    assert {record_format(as_line(record)) for record in SHOWN[name]} == {name}
    assert set(SIGNS) == set(SHOWN)


def test_a_description_holds_no_values() -> None:
    """Names of members alone, and not all of them."""
    assert describe_record(as_line({"a": "secret", "b": 1})) == "an object with `a`, `b`"
    assert describe_record(as_line({str(n): n for n in range(20)})).endswith("`7`, …")
    assert [describe_record(raw) for raw in (b"secret", b"{secret", b"{}")] == [
        "a line of text",
        "no JSON",
        "an empty object",
    ]


def test_files_of_several_formats_and_what_is_none_of_them(tmp_path: Path) -> None:
    """Each file has its own; a record of another format in a file is refused, though its own would skip it."""
    cloudtrail = audit_log_records("aws-cloudtrail")
    mixed = write(tmp_path / "mixed.jsonl", *cloudtrail, NATIVE, "{broken")
    native = write(tmp_path / "native.jsonl", NATIVE, {**NATIVE, "outcome": "AccessDenied"})

    done = Conversion(mixed, native).run()

    assert (len(done.events), done.converter.skipped, done.converter.malformed) == (len(cloudtrail) - 2 + 2, 2, 2)
    assert done.events[-1]["outcome"] == "denied" and done.events[-1]["error"] == "AccessDenied"
    assert done.told[:2] == [
        "format: aws-cloudtrail (detected), 1 of 2 files",
        "format: native (detected), 1 of 2 files",
    ]
    place = f"{mixed}, record {len(cloudtrail) + 1}"
    assert f"{place}: no record of `aws-cloudtrail` - at `$`; it looks like `native`" in done.told
    assert f"`trustwatch mapping try aws-cloudtrail {mixed}` shows member by member what is missing" in done.told
    assert done.told[-1] == (
        f"read {len(done.events)} events of 2 files, 2 skipped (no audit events of an agent), 2 malformed"
    )


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        (FormatChoice(), r"record 1 is an object with `when`, `who`, `did`, `ok`\. Name it \(--format .*mapping try"),
        (
            FormatChoice(None, MappingSpec(members={"tenant": "'t'"}), Path("m.yaml")),
            r"The mapping m\.yaml has no `time`, `agent\.id`, `type`, `action`, `outcome`: complete it, or name",
        ),
    ],
)
def test_an_unknown_format_is_told_with_what_was_seen(tmp_path: Path, choice: FormatChoice, told: str) -> None:
    with pytest.raises(UnknownFormat, match=told):
        Conversion(write(tmp_path / "own.jsonl", OWN), choice=choice).run()


def test_a_complete_mapping_is_a_format_and_a_part_of_one_changes_another(tmp_path: Path) -> None:
    own = Conversion(write(tmp_path / "own.jsonl", OWN), choice=FormatChoice(None, MAPPING)).run()
    part = MappingSpec(members={"tenant": "'acme'"})
    cloud = write(tmp_path / "cloud.jsonl", *audit_log_records("aws-cloudtrail"))
    for name in (None, "aws-cloudtrail"):
        changed = Conversion(cloud, choice=FormatChoice(name, part)).run()
        assert {event["tenant"] for event in changed.events} == {"acme"}
    assert [(event["agent"]["id"], event["action"]) for event in own.events] == [("svc-1", "read")]


def test_an_owner_fills_in_what_records_do_not_say() -> None:
    """Tenant and issuer, each where it is missing; what is no event comes out as it was, to be refused as that."""
    owner = RecordOwner("acme", "https://as")
    assert json.loads(owner.fill(b'{"agent": {"id": "a"}}')) == {
        "tenant": "acme",
        "agent": {"id": "a", "issuer": "https://as"},
    }
    said = b'{"tenant": "other", "agent": {"id": "a", "issuer": "https://b"}}'
    assert json.loads(owner.fill(said)) == json.loads(said)
    unsaid = b'{"tenant": "", "agent": {"id": "a", "issuer": null}}'
    assert json.loads(owner.fill(unsaid)) == {"tenant": "acme", "agent": {"id": "a", "issuer": "https://as"}}
    assert json.loads(RecordOwner(tenant="acme").fill(b'{"agent": {}}')) == {"tenant": "acme", "agent": {}}
    for odd in (b"{", b"[]", b'{"agent": "a"}', b"{}", b"\xff"):
        assert owner.fill(odd) == odd
    assert RecordOwner().fill(said) is said


def test_other_files_of_a_folder_are_left_out_and_told(tmp_path: Path) -> None:
    """Notes and digests stand among logs; a damaged log ends the reading."""
    write(tmp_path / "b.json", *audit_log_records("aws-cloudtrail"))
    write(tmp_path / "a.txt", "notes")
    done = Conversion(tmp_path).run()
    assert done.told[:2] == [
        f"left out: {tmp_path / 'a.txt'}: the format is not known; record 1 is a line of text",
        f"{tmp_path}: 1 of 2 files are left out",
    ]
    assert done.events and done.converter.paths == [tmp_path / "b.json"]
    (tmp_path / "b.json").unlink()
    with pytest.raises(UnknownFormat, match=r"a\.txt"):
        Conversion(tmp_path).run()


def test_events_are_sorted_by_time_on_disk_as_in_memory() -> None:
    """Those of one time stay in their order; offsets count."""
    times = ["2026-03-02T08:00:02Z", "2026-03-02T10:00:01+02:00", "2026-03-02T08:00:02Z", "2026-03-02T08:00:00.5Z"]
    events = [json.dumps({"time": time, "n": n}).encode() for n, time in enumerate(times)]
    for run_bytes in (1, 60, 1 << 20):
        assert [json.loads(event)["n"] for event in in_time_order(iter(events), run_bytes)] == [3, 1, 0, 2]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("members: [", "m.yaml: is not YAML"),
        ("membrs: {}", "unknown field `membrs`; may have `members`"),
        ("members: {agnt.id: who}", "mapping member `agnt.id`: no such member"),
        ("members: {time: 1}", "Expected `str`"),
        ("[]", "must be a mapping"),
    ],
)
def test_a_wrong_mapping_file_is_told(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told) as caught:
        read_mapping(path)
    assert "m.yaml" in str(caught.value)


PAGES = MappingSpec(members={**MAPPING.members, "attributes.first": "value[0].kind"})


def test_a_complete_mapping_alone_says_what_is_opened(tmp_path: Path) -> None:
    """A list in a record of one's own is no vendor's page; `records` names the one that wraps."""
    pages = [{**OWN, "value": [{"kind": "a"}, {"kind": "b"}], "items": []} for _ in range(3)]
    line, spread, array = (tmp_path / name for name in ("a.jsonl", "b.json", "c.json"))
    write(line, *pages)
    spread.write_text("\n".join(json.dumps(page, indent=1) for page in pages))
    array.write_text(json.dumps(pages))
    for path in (line, spread, array):
        done = Conversion(path, choice=FormatChoice(None, PAGES)).run()
        assert [event["attributes"]["first"] for event in done.events] == ["a", "a", "a"]

    wrapped = tmp_path / "d.json"
    listed = MappingSpec(members=MAPPING.members, records="found")
    for indent in (None, 1):
        wrapped.write_text(json.dumps({"found": [OWN, {**OWN, "who": ""}], "value": [{}]}, indent=indent))
        done = Conversion(wrapped, choice=FormatChoice(None, listed)).run()
        assert len(done.events) == 1 and done.converter.malformed == 1
        assert any(text.startswith(f"{wrapped}, record 2: mapping member") for text in done.told)
    with pytest.raises(ConfigError, match="no record became an event"):
        Conversion(wrapped, choice=FormatChoice(None, PAGES)).run()


VICTIM = {**OWN, "who": "victim", "did": "stolen"}
LISTED = MappingSpec(members=MAPPING.members, records="items")
ITEMS: dict[str, tuple[list[Any], int]] = {
    "a record with a list of others": ([{**OWN, "items": [VICTIM]}], 1),
    "a record with an empty list": ([{**OWN, "items": []}], 1),
    "a page": ([{"items": [OWN, {**OWN, "did": "write"}]}], 2),
    "a page whose record has a list": ([{"items": [{**OWN, "items": [VICTIM]}]}], 1),
    "a page whose record names nobody and has a list": ([{"items": [{"note": 1, "items": [VICTIM]}, OWN]}], 1),
    "an array of pages": ([[{"items": [OWN, OWN]}]], 0),
    "pages and records": ([{"items": [OWN]}, OWN, {"items": [OWN, OWN]}], 4),
}


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("name", ITEMS)
def test_a_file_is_opened_as_the_service_opens_it(tmp_path: Path, name: str, indent: int | None) -> None:
    """Once, and only where an object is no record itself: lists inside of records are no events of others."""
    values, number = ITEMS[name]
    path = tmp_path / "own.json"
    path.write_text("\n".join(json.dumps(value, indent=indent) for value in values))
    live = [raw for value in values for raw in RecordMapping(LISTED)(json.dumps(value).encode(), {}).records]

    def natives() -> Iterator[dict[str, Any]]:
        for raw in live:
            with suppress(MalformedEvent):
                assert raw.to_native is not None
                yield json.loads(raw.to_native())

    expected = [(event["agent"]["id"], event["action"]) for event in natives()]
    assert len(expected) == number and ("victim", "stolen") not in expected
    done = Conversion(path, choice=FormatChoice(None, LISTED))
    if not number:
        with pytest.raises(ConfigError, match="no record became an event"):
            done.run()
        return
    assert [(event["agent"]["id"], event["action"]) for event in done.run().events] == expected
