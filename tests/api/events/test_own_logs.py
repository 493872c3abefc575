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


def native(minute: int, **more: Any) -> dict[str, Any]:
    at = f"2026-03-02T08:{minute:02}:00Z"
    return {"time": at, "agent": {"id": "a"}, "type": "other", "action": "x", "outcome": "success", **more}


def write_lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


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
    path = write_lines(tmp_path / "own.jsonl", *[{"n": n} for n in range(9)])
    service.most_lines = 3
    _, records = sent(service, path, "--format", "mapping")
    assert records == [{"n": n} for n in range(9)] and len(service.requests) == 4
    service.most_lines = 0
    done = run("ingest", path, "--format", "mapping", "--url", service.url)
    assert done.exit_code == 1
    assert "with --mapping FILE it is cut before it is sent" in done.output + str(done.exception)
