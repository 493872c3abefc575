"""`trustwatch train`, `replay` and `simulate` on small files: outputs, counts, exit statuses, and helpful errors."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner, Result

from trustwatch.api.cli.main import make_app
from trustwatch.models.concerns import CONCERNS
from trustwatch.models.detector import ONE_QUESTION, DetectorSettings
from trustwatch.models.model_persistence import load_trained_model

MEMBERS = ["id", "agent_id", "time", "anomaly_score", "p_value", "risk_score", "risk_level", "reasons", "concerns"]


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(make_app(), [str(argument) for argument in arguments], input=stdin)


def process(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trustwatch", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


class History(NamedTuple):
    """A simulated week of few agents, split in two files, and a model of the first."""

    past: Path
    day: Path
    model: Path
    summary: dict[str, Any]


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    folder = tmp_path_factory.mktemp("history")
    made = run(
        "simulate", "--out", folder / "all.jsonl", "--agents", 6, "--hours", 96, "--events-per-day", 90, "--json"
    )
    assert made.exit_code == 0, made.output
    lines = (folder / "all.jsonl").read_bytes().splitlines(keepends=True)
    assert json.loads(made.stdout)["events"] == len(lines)
    cut = len(lines) * 3 // 4
    past, day, model = folder / "past.jsonl.gz", folder / "day.jsonl", folder / "model"
    past.write_bytes(gzip.compress(b"".join(lines[:cut])))
    day.write_bytes(b"".join(lines[cut:]))
    trained = run("train", past, "--model", model, "--json", "--version", "test-1")
    assert trained.exit_code == 0, trained.output
    return History(past, day, model, json.loads(trained.stdout))


def replayed(history: History, *arguments: object, stdin: bytes | None = None) -> tuple[Result, list[dict[str, Any]]]:
    out = history.model.parent / "scores.jsonl"
    result = run("replay", *arguments, "--model", history.model, "--out", out, stdin=stdin)
    assert result.exit_code == 0, result.output
    return result, [json.loads(line) for line in out.read_bytes().splitlines()]


def test_train_says_what_it_learned(history: History) -> None:
    with gzip.open(history.past) as file:
        events = [json.loads(line) for line in file]
    assert history.summary["events"] == len(events)
    assert history.summary["malformed"] == 0
    assert history.summary["agents"] == len({(e["tenant"], e["agent"]["id"]) for e in events})
    model = load_trained_model(history.model)
    assert history.summary["version"] == model.version == "test-1"
    assert history.summary["rehearsed_events"] == int(model.detector.familiar.sizes[:1].sum())
    expected = history.summary["expected_challenges"]
    assert expected["calls"] == model.challenges.rehearsed["all"].calls
    assert expected["advisory"] is True and expected["budget"] == 10.0  # six agents show nothing


def test_the_detector_of_before_concerns_can_be_had_and_compared(history: History, tmp_path: Path) -> None:
    single = tmp_path / "single"
    trained = run("train", history.past, "--model", single, "--one-question")
    assert trained.exit_code == 0
    assert "calls that wait if no person answers, of 1,000: " in trained.stderr + trained.stdout
    assert load_trained_model(single).detector.budget_shares == ONE_QUESTION
    assert load_trained_model(history.model).detector.budget_shares == DetectorSettings().budget_shares

    compared = run("backtest", history.day, "--model", history.model, "--compare", single, "--json", "--jobs", 1)
    assert compared.exit_code == 0, compared.output
    for side in json.loads(compared.stdout)["sides"]:
        rises = {one["concern"]: one["rises"] for one in side["concerns"]}
        assert list(rises) == list(CONCERNS)
        for alerts in side["alerts"]:
            assert sum(of[alerts["level"]] for of in rises.values()) <= alerts["alerts"]
    said = run("backtest", history.day, "--model", single, "--jobs", 1)
    assert "rises of a level were about: " in said.stderr + said.stdout


def test_retraining_keeps_the_salt(history: History, tmp_path: Path) -> None:
    salts = set()
    for _ in range(2):
        assert run("train", history.day, "--model", tmp_path / "one").exit_code == 0
        salts.add(load_trained_model(tmp_path / "one").salt)
    assert len(salts) == 1 and load_trained_model(history.model).salt not in salts
    assert run("train", history.day, "--model", tmp_path / "two", "--salt", "00ff").exit_code == 0
    assert load_trained_model(tmp_path / "two").salt == b"\x00\xff"


def test_replay_writes_one_line_per_event_in_order(history: History) -> None:
    events = [json.loads(line) for line in history.day.read_bytes().splitlines()]
    _, lines = replayed(history, history.day)
    assert [line["id"] for line in lines] == [event["id"] for event in events]
    assert [line["agent_id"] for line in lines] == [event["agent"]["id"] for event in events]
    for line in lines:
        assert list(line) == MEMBERS
        assert line["time"].endswith("Z")
        assert 0 <= line["anomaly_score"] <= 1
        assert 0 < line["p_value"] <= 1
        assert 0 <= line["risk_score"] <= 1
        assert line["risk_level"] in ("unknown", "low", "medium", "high", "critical")


def test_no_learn_scores_against_the_model_alone(history: History) -> None:
    template = json.loads(history.day.read_bytes().splitlines()[-1])
    lines = []
    for number in range(120):
        event = {**template, "id": f"again-{number}", "action": "never_seen_before", "session": f"s-{number}"}
        event["agent"] = {**template["agent"], "id": "newcomer"}
        event["time"] = f"2026-02-{1 + number // 24:02d}T{number % 24:02d}:30:00Z"
        lines.append(json.dumps(event).encode())
    body = b"\n".join(lines)
    frozen = replayed(history, "-", "--no-learn", stdin=body)[1]
    learned = replayed(history, "-", "--learn", stdin=body)[1]
    assert len(frozen) == len(learned) == 120
    learned_from, frozen_from, learned_to, frozen_to = (
        lines[at]["anomaly_score"] for at in (0, -1) for lines in (learned, frozen)
    )
    assert learned_from == frozen_from == pytest.approx(frozen_to, abs=0.05)
    assert learned_to < frozen_to - 0.01
    assert any("never_seen_before" in reason["observed"] for reason in frozen[-1]["reasons"])


def test_malformed_lines_are_counted_and_told(history: History, tmp_path: Path) -> None:
    good = history.day.read_bytes().splitlines()[:4]
    lacking = json.loads(good[0])
    lacking |= {"id": "lacking", "agent": {}}
    body = b"\n".join([good[0], b"not json", good[1], json.dumps(lacking).encode(), good[2]]) + b"\n"
    result, lines = replayed(history, "-", "--json", stdin=body)
    assert len(lines) == 3
    assert json.loads(result.stdout)["malformed"] == 2
    assert "record 2: " in result.stderr
    assert "record 4: " in result.stderr
    assert "$.agent.id" in result.stderr
    trained = run("train", "-", "--model", tmp_path / "model", "--json", stdin=history.day.read_bytes() + b"{}\n")
    assert json.loads(trained.stdout)["malformed"] == 1


def test_failures_are_one_line_and_status_1(history: History, tmp_path: Path) -> None:
    damaged, empty, noise, text = (tmp_path / name for name in ("damaged.gz", "empty", "noise", "text"))
    damaged.write_bytes(history.past.read_bytes()[:5000])
    empty.write_bytes(b"\n\n")
    out = ("--out", tmp_path / "out")
    cases = [
        (("train", tmp_path / "missing.jsonl", "--model", tmp_path / "m"), "missing.jsonl"),
        (("train", damaged, "--model", tmp_path / "m"), "damaged.gz"),
        (("train", empty, "--model", tmp_path / "m"), "nothing to learn"),
        (("replay", history.day, "--model", tmp_path / "m", *out), str(tmp_path / "m")),
        (("replay", history.day, "--model", history.model, "--out", tmp_path / "no" / "dir"), "no/dir"),
        (("replay", noise, "--model", history.model, *out), "neither text in UTF-8 nor gzip"),
        (("replay", text, "--format", "native", "--model", history.model, *out), "no record of it is an audit event"),
    ]
    noise.write_bytes(b"\x00\x01\n" * 20)
    text.write_bytes(b"all is well\n" * 20)
    for arguments, word in cases:
        result = process(*arguments)
        assert result.returncode == 1, (arguments, result.stderr)
        assert word in result.stderr, (arguments, result.stderr)
        assert "Traceback" not in result.stderr, (arguments, result.stderr)
        assert result.stdout == ""
    assert not (tmp_path / "m").exists()


def test_a_history_is_never_overwritten_by_its_scores(history: History, tmp_path: Path) -> None:
    link, kept = tmp_path / "day.jsonl", tmp_path / "scores.jsonl"
    link.symlink_to(history.day)
    before = history.day.read_bytes()
    for out in (history.day, link):
        result = run("replay", history.day, "--model", history.model, "--out", out)
        assert result.exit_code == 2 and "would be overwritten" in result.output
    assert history.day.read_bytes() == before
    kept.write_bytes(b"kept")
    assert run("replay", tmp_path / "missing", "--model", history.model, "--out", kept).exit_code == 1
    assert kept.read_bytes() == b"kept"


@pytest.mark.parametrize(
    "arguments",
    [
        ("unheard",),
        ("train",),
        ("train", "x"),
        ("replay", "x", "--model", "m"),
        ("simulate", "--seed", "q"),
        ("simulate", "--out", "x", "--attack", "unheard_of"),
        ("simulate", "--out", "x", "--agents", "0"),
        ("simulate", "--out", "x", "--hours", "nan"),
        ("simulate", "--out", "x", "--hours", "1e300"),
        ("simulate", "--out", "x", "--rate", "inf"),
        ("simulate", "--out", "x", "--seed", "-1"),
        ("demo", "--seconds", "1"),
        ("pin", "a"),
        ("train", "-", "--model", "m", "--salt", "xyz"),
    ],
    ids=" ".join,
)
def test_usage_errors_are_status_2(arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    line = b'{"time":"2026-01-01T00:00:00Z","agent":{"id":"a"},"type":"other","action":"a","outcome":"success"}'
    result = run(*arguments, stdin=line)
    assert result.exit_code == 2, result.output
    assert list(tmp_path.iterdir()) == []


def test_broken_pipe_ends_quietly(history: History) -> None:
    command = [sys.executable, "-m", "trustwatch", "replay", str(history.past), "--model", str(history.model)]
    replay = subprocess.Popen([*command, "--out", "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert replay.stdout is not None
    assert replay.stderr is not None
    assert json.loads(replay.stdout.readline())["id"]
    replay.stdout.close()
    message = replay.stderr.read().decode()
    assert replay.wait(60) in (0, 1)
    assert "Traceback" not in message
    assert "Exception" not in message
    replay.stderr.close()


def test_bounds_of_a_replay(history: History) -> None:
    _, whole = replayed(history, history.day)
    times = [line["time"] for line in whole]
    since, until = times[len(times) // 3], times[2 * len(times) // 3]
    result, lines = replayed(history, history.day, "--from", since[:19], "--to", until[:19], "--json")
    wanted = [line for line in whole if since[:19] <= line["time"][:19] < until[:19]]
    assert lines == wanted and 0 < len(lines) < len(whole)
    summary = json.loads(result.stdout)
    assert summary["written"] == len(lines)
    assert summary["events"] == len([line for line in whole if line["time"][:19] < until[:19]])
    _, cold = replayed(history, history.day, "--from", since[:19], "--warm-up", 0)
    assert [line["id"] for line in cold] == [line["id"] for line in whole if line["time"][:19] >= since[:19]]
    refused = run("replay", history.day, "--model", history.model, "--out", "-", "--warm-up", 1)
    assert refused.exit_code == 2 and "--from" in refused.output


def test_a_history_of_another_shape_is_the_same_history(history: History, tmp_path: Path) -> None:
    events = [json.loads(line) for line in history.day.read_bytes().splitlines()][:300]
    plain, folder, mapping = tmp_path / "plain.jsonl", tmp_path / "logs", tmp_path / "own.yaml"
    plain.write_text("".join(json.dumps(event) + "\n" for event in events))
    folder.mkdir()
    export = json.dumps({"kind": "Export", "items": [*events[100:], {"agent": {}}, *events[:100]]}).encode()
    (folder / "export.json.gz").write_bytes(gzip.compress(export))
    mapping.write_text("members: {" + ", ".join(f"{name}: {name}" for name in ("time", "agent.id", "type")) + "}")

    _, expected = replayed(history, plain)
    for result, lines in (replayed(history, folder, "--json"), replayed(history, "-", "--json", stdin=export)):
        assert lines == expected
        assert json.loads(result.stdout)["malformed"] == 1
        assert "record 201: " in result.stderr and "format: native (detected)" in result.stderr
    trained = run("train", folder, "--model", tmp_path / "model", "--json")
    assert (json.loads(trained.stdout)["events"], json.loads(trained.stdout)["malformed"]) == (300, 1)
    tested = run("backtest", folder, "--model", history.model, "--jobs", 1, "--json")
    side = json.loads(tested.stdout)["sides"][0]
    assert (side["events"], side["malformed"]) == (300, 1), tested.output
    wrong = process("backtest", folder, "--model", history.model, "--mapping", mapping)
    assert wrong.returncode == 1 and "takes no `mapping`" in wrong.stderr
