"""`convert`, `mapping try` and `ingest` on logs as other programs write them, as a person at a terminal sees it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from trustwatch.api.cli.main import make_app

from ...support.event_taker import EventTaker, running_event_taker
from ...support.format_samples import LINES, audit_log_records

CLOUDTRAIL = LINES / "aws_cloudtrail.json"
OWN = {"when": "2026-03-02T08:00:00Z", "who": "svc-1", "did": "read", "ok": True, "token": "SECRET"}
MAPPING = """
members:
  time: when
  agent.id: who
  type: "'api.call'"
  action: did
  outcome: "ok && 'success' || 'error'"
  attributes.note: note
"""


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(make_app(), [str(argument) for argument in arguments], input=stdin)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps({**OWN, "did": did}) + "\n" for did in ("read", "write")))
    return path


@pytest.fixture
def mapping(tmp_path: Path) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text(MAPPING)
    return path


def test_an_export_becomes_native_events(tmp_path: Path) -> None:
    """In a folder, packed or not; the format is told, and what was no event; equal input gives equal bytes."""
    logs, out, packed = tmp_path / "logs", tmp_path / "out.jsonl", tmp_path / "out.jsonl.gz"
    logs.mkdir()
    (logs / "a.json.gz").write_bytes(gzip.compress(CLOUDTRAIL.read_bytes()))

    done = run("convert", logs, "--out", out)
    again = run("convert", CLOUDTRAIL, "--out", packed, "--json")

    assert done.exit_code == again.exit_code == 0, done.output
    assert "format: aws-cloudtrail (detected)" in done.stderr
    assert "8 events" in done.stderr and "2 skipped (no audit events of an agent)" in done.stderr
    assert json.loads(again.stdout) == {"out": str(packed), "events": 8, "malformed": 0, "mended": 0, "skipped": 2}
    assert gzip.decompress(packed.read_bytes()) == out.read_bytes()
    events = [json.loads(line) for line in out.read_bytes().splitlines()]
    assert [event["time"] for event in events] == sorted(event["time"] for event in events)
    assert b"SECRET" not in out.read_bytes()


def test_native_events_are_converted_to_themselves(tmp_path: Path) -> None:
    """In their order; what is none is told, foreign outcomes are mended, and standard input is a history."""
    good = b'{"time":"2026-03-02T08:00:00Z","agent":{"id":"a"},"type":"other","action":"x","outcome":"success"}'
    foreign = good.replace(b'"success"', b'"AccessDenied"')
    done = run("convert", "-", "--out", "-", stdin=good + b"\nnone\n" + foreign + b"\n")
    first, second = done.stdout_bytes.splitlines()
    assert done.exit_code == 0 and first == good
    assert json.loads(second)["outcome"] == "denied"
    assert "record 2: " in done.stderr and "malformed: 1" in done.stderr and "mended: 1" in done.stderr


def native(minute: int, **more: Any) -> dict[str, Any]:
    at = f"2026-03-02T08:{minute:02}:00Z"
    return {"time": at, "agent": {"id": "a"}, "type": "other", "action": "x", "outcome": "success", **more}


def write_lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_what_came_out_of_order_is_brought_into_it_and_told(tmp_path: Path) -> None:
    """Within a file and over files; what is in order is read as it lies there."""
    first = write_lines(tmp_path / "a.jsonl", native(10), native(2), native(30))
    second = write_lines(tmp_path / "b.jsonl", native(20))
    third = write_lines(tmp_path / "c.jsonl", native(40), native(41))
    out = tmp_path / "out.jsonl"

    done = run("convert", first, second, third, "--out", out)
    times = [json.loads(line)["time"][14:16] for line in out.read_bytes().splitlines()]
    assert done.exit_code == 0 and times == ["02", "10", "20", "30", "40", "41"]
    assert "2 of 6 events are out of order, by up to 0:10:00; they are read in the order of time" in done.stderr
    assert "out of order" not in run("convert", second, third, "--out", out).stderr
    assert "1 of 3 events are out of order" in run("convert", third, second, "--out", out).stderr

    write_lines(second, native(20), {"time": "2026-03-02T08:21:00Z"}, native(22))
    done = run("convert", first, second, "--out", out)
    assert len(out.read_bytes().splitlines()) == 5
    assert f"{second}, record 2: " in done.stderr and "malformed: 1" in done.stderr


@pytest.mark.parametrize("name", ["logs.json", "folder"])
def test_a_log_is_never_overwritten(tmp_path: Path, name: str) -> None:
    path = tmp_path / "logs.json"
    path.write_bytes(CLOUDTRAIL.read_bytes())
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link.json").symlink_to(path)
    done = run("convert", tmp_path / name, "--out", path)
    assert done.exit_code == 2 and "would be overwritten" in done.output
    assert path.read_bytes() == CLOUDTRAIL.read_bytes()


def test_a_mapping_is_tried_member_by_member(own: Path, mapping: Path) -> None:
    """What each became and by which expression, what has no value, what is not read."""
    done = run("mapping", "try", mapping, own, "--records", 1)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == f"record 1 of {own}: an event"
    assert ["agent.id", "svc-1", "<-", "who"] in [line.split() for line in lines]
    assert lines[-2:] == ["    no value: attributes.note", "    not read: token"]

    mapping.write_text(MAPPING.replace("time: when", "time: at"))
    wrong = run("mapping", "try", mapping, own, "--json")
    assert wrong.exit_code == 1 and "none of these records becomes an event" in wrong.stderr
    first, _ = map(json.loads, wrong.stdout.splitlines())
    assert (first["state"], first["event"]) == ("refused", None)
    assert first["members"][0] == {"name": "time", "expression": "at", "value": None, "problem": "has no value"}
    assert first["unread"] == ["when", "token"]


def test_a_format_is_tried_by_its_name(own: Path) -> None:
    done = run("mapping", "try", "aws-cloudtrail", CLOUDTRAIL, "--records", 9)
    assert done.exit_code == 0 and "record 1 of" in done.stdout
    assert "record 7 of" in done.stdout and ": skipped: `when` gives nothing" in done.stdout
    keycloak = run("mapping", "try", "keycloak", LINES / "keycloak_26.7.3.log")
    assert "skipped: it is not an audit event of an agent" in keycloak.stdout
    piped = run("mapping", "try", "kong", "-", stdin=b'{"a": 1}\nnone\n')
    assert piped.exit_code == 1 and "record 2 of standard input: refused: not a JSON object" in piped.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("mapping", "try", "awss", "own.jsonl"), "awss: no such file, and no format of that name"),
        (("mapping", "try", "native", "own.jsonl"), "records of the format `native` need no mapping"),
        (("mapping", "try", "own.yaml", "missing"), "missing: No such file"),
        (("convert", "own.jsonl", "--out", "x"), "record 1 is an object with `when`, `who`"),
        (("convert", "own.jsonl", "--format", "aws", "--out", "x"), "no format `aws`"),
        (("convert", "own.jsonl", "--mapping", "part.yaml", "--out", "x"), "part.yaml has no `agent.id`"),
        (("convert", "own.jsonl", "--mapping", "missing.yaml", "--out", "x"), "missing.yaml: cannot be read"),
        (("convert", "empty", "--out", "x"), "no events in empty"),
        (("convert", "-", "--format", "envoy", "--out", "x"), "no record became an event, 1 malformed"),
        (
            ("train", "kafka://h:1", "--format", "envoy", "--model", "x"),
            "holds native events; --format and --mapping are",
        ),
    ],
)
def test_what_is_meant_wrongly_is_told(
    own: Path, mapping: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], told: str
) -> None:
    monkeypatch.chdir(own.parent)
    Path("part.yaml").write_text(MAPPING.replace("agent.id: who", "tenant: who"))
    Path("empty").touch()
    done = run(*arguments, stdin=b"nothing\n")
    assert done.exit_code == 1, done.output
    assert told in str(done.exception or "") + done.stderr


@pytest.fixture
def service() -> Iterator[EventTaker]:
    with running_event_taker() as taker:
        yield taker


def sent(service: EventTaker, *arguments: object, stdin: bytes | None = None) -> tuple[list[str | None], list[Any]]:
    service.requests.clear()
    done = run("ingest", *arguments, "--url", service.url, stdin=stdin)
    assert done.exit_code == 0, done.output
    return [name for name, _ in service.requests], [json.loads(line) for _, lines in service.requests for line in lines]


def test_an_export_is_cut_here_and_mapped_there(service: EventTaker, tmp_path: Path) -> None:
    """Records one a line, under the format that they show: the service knows what the caller's settings change."""
    records = audit_log_records("aws-cloudtrail")
    packed = tmp_path / "a.json.gz"
    packed.write_bytes(gzip.compress(CLOUDTRAIL.read_bytes()))
    lines = "".join(json.dumps(record) + "\n" for record in records).encode()
    for argument in (CLOUDTRAIL, packed):
        assert sent(service, argument) == (["aws-cloudtrail"], records)
    for stdin in (CLOUDTRAIL.read_bytes(), lines):
        assert sent(service, "-", stdin=stdin) == (["aws-cloudtrail"], records)
    assert sent(service, CLOUDTRAIL, "--format", "mapping") == (["mapping"], [json.loads(CLOUDTRAIL.read_bytes())])


def test_records_are_sent_in_the_order_of_time(service: EventTaker, tmp_path: Path) -> None:
    """Native ones, and those of a folder in the format of the product; the service could not sort over requests."""
    events = [native(3), native(1), native(2)]
    path = write_lines(tmp_path / "a.jsonl", *events)
    assert sent(service, path) == ([None], [events[1], events[2], events[0]])
    assert sent(service, write_lines(path, *events[1:])) == ([None], events[1:])
    folder = tmp_path / "trail"
    folder.mkdir()
    records = audit_log_records("aws-cloudtrail")
    write_lines(folder / "eu.json", *records[4:])
    write_lines(folder / "us.json", *records[:4])
    assert sent(service, folder) == (["aws-cloudtrail"], records)
    service.rejects = True
    done = run("ingest", folder, "--url", service.url)
    assert "are out of order, by up to" in done.stderr and f"{folder}/us.json, record 1: no" in done.stderr
    done = run("ingest", path, write_lines(tmp_path / "b.jsonl", native(0)), "--url", service.url)
    assert f"{tmp_path}/b.jsonl, record 1: no" in done.stderr


def test_what_is_too_much_at_once_is_sent_by_halves(service: EventTaker, tmp_path: Path) -> None:
    """One line may hold many events; one alone that is too large is told with what to do."""
    path = write_lines(tmp_path / "own.jsonl", *[{"n": n} for n in range(9)])
    service.most_lines = 3
    _, records = sent(service, path, "--format", "mapping")
    assert records == [{"n": n} for n in range(9)] and len(service.requests) == 4
    service.most_lines = 0
    done = run("ingest", path, "--format", "mapping", "--url", service.url)
    assert done.exit_code == 1
    assert "with --mapping FILE it is cut before it is sent" in done.output + str(done.exception)


def test_a_pipe_of_records_with_lists_is_sent_as_it_comes(service: EventTaker) -> None:
    """The service's mapping says what wraps records, and no vendor's page is looked for."""
    line = json.dumps({"who": "a", "value": [{"a": 1}]}).encode() + b"\n"
    assert sent(service, "-", "--format", "mapping", stdin=line * 2)[1] == [json.loads(line)] * 2


def test_a_damaged_file_does_not_keep_the_others_back(service: EventTaker, tmp_path: Path) -> None:
    """What can be read is sent, and the damage told behind it."""
    good = write_lines(tmp_path / "a.jsonl", native(3), native(1))
    damaged = tmp_path / "b.jsonl.gz"
    more = write_lines(tmp_path / "more", *[native(number % 60, id=str(number)) for number in range(8_000)])
    damaged.write_bytes(gzip.compress(more.read_bytes())[:-12])
    done = run("ingest", good, damaged, "--url", service.url)
    assert done.exit_code == 1 and "b.jsonl.gz" in str(done.exception)
    assert sum(len(lines) for _, lines in service.requests) >= 2


def test_what_only_this_side_knows_is_mapped_here(service: EventTaker, own: Path, mapping: Path) -> None:
    """A mapping file, and tables whose columns are members: native events are sent."""
    names, events = sent(service, own, "--mapping", mapping)
    assert names == ["native"] and [event["action"] for event in events] == ["read", "write"]
    assert "SECRET" not in json.dumps(events)
    table = own.with_suffix(".csv")
    table.write_text("time,agent.id,type,action,outcome\n2026-03-02T08:00:00Z,a,other,x,success\n")
    names, events = sent(service, table)
    assert names == ["native"] and events[0]["agent"] == {"id": "a"}


def test_lines_of_no_known_format_go_as_they_are(service: EventTaker, own: Path) -> None:
    """The caller's settings may know them. Where they do not, the answer says what else there is."""
    lines = own.read_bytes()
    assert sent(service, own) == ([None], list(map(json.loads, lines.splitlines())))
    assert sent(service, "-", stdin=lines)[0] == [None]
    native = json.dumps({"agent": {"id": "a"}, "action": "x"}).encode()
    assert sent(service, "-", stdin=native) == ([None], [json.loads(native)])
    service.rejects = True
    for argument in (own, "-"):
        done = run("ingest", argument, "--url", service.url, stdin=lines)
        assert done.exit_code == 1
        assert "record 1: no" in done.stderr and "record 1 is an object with `when`" in done.stderr


def test_large_records_go_in_several_requests(service: EventTaker, tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    path.write_text((json.dumps({"agent": {"id": "a"}, "action": "x" * 200_000}) + "\n") * 100)
    assert len(sent(service, path)[0]) == 3


def test_a_history_that_no_token_vouches_for_is_told_with_what_to_do(tmp_path: Path) -> None:
    """Traces of agents alone teach nothing, until somebody says that nobody else can write them."""
    path = write_lines(tmp_path / "runs.jsonl", *audit_log_records("langsmith"))
    done = run("train", path, "--model", tmp_path / "model")
    assert done.exit_code != 0 and "members: {agent.self_asserted" in str(done.exception)
