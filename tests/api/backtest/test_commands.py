"""`trustwatch backtest` on simulated history: figures, policies side by side, the report, and helpful errors."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sklearn.metrics import average_precision_score, roc_auc_score
from typer.testing import CliRunner, Result

from trustwatch.api.cli.main import make_app

HOSTILE = "<script>alert(1)</script>&\"'"
VOID = {"meta", "br", "rect", "line", "circle", "polyline"}


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(make_app(), [str(argument) for argument in arguments], input=stdin)


class History(NamedTuple):
    """A model of three simulated days, and two days with attacks after them."""

    day: Path
    labels: Path
    model: Path
    policy: Path


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    folder = tmp_path_factory.mktemp("backtest")
    size = ("--agents", 12, "--events-per-day", 90, "--seed", 5)
    assert run("simulate", "--out", folder / "past.jsonl", "--hours", 72, *size).exit_code == 0
    made = run(
        "simulate",
        "--out",
        folder / "all.jsonl",
        "--labels",
        folder / "all.labels",
        "--hours",
        120,
        *size,
        "--attacks-per-day",
        2,
    )
    assert made.exit_code == 0, made.output
    events, labels = ((folder / name).read_bytes().splitlines(keepends=True) for name in ("all.jsonl", "all.labels"))
    first = next(at for at, line in enumerate(events) if json.loads(line)["time"] >= "2026-01-08")
    day, kept, model, policy = (folder / name for name in ("day.jsonl", "day.labels", "model", "policy.yaml"))
    stranger = json.loads(events[-1])
    stranger |= {
        "id": "hostile",
        "action": HOSTILE,
        "agent": {**stranger["agent"], "id": HOSTILE},
        "tenant": "acme-corp",
    }
    day.write_bytes(b"".join(events[first:]) + _odd(stranger))
    kept.write_bytes(b"".join(labels[first:]))
    policy.write_text("{version: strict, mode: enforce, levels: {unknown: {allow: false, revoke: true}}}")
    trained = run("train", folder / "past.jsonl", "--model", model)
    assert trained.exit_code == 0, trained.output
    return History(day, kept, model, policy)


def _odd(event: dict[str, Any]) -> bytes:
    """An agent that is refused again and again, under a name that is HTML."""
    rows = [
        {
            **event,
            "id": f"odd-{at}",
            "type": "api.call",
            "action": f"{HOSTILE}{at}",
            "outcome": "denied",
            "resource": {"id": f"evil-{at}", "external": True},
        }
        for at in range(80)
    ]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def told(*arguments: object) -> dict[str, Any]:
    result = run("backtest", *arguments, "--json")
    assert result.exit_code == 0, result.output
    value: dict[str, Any] = json.loads(result.stdout)
    return value


def judged(labels: Path, scores: Path) -> tuple[list[int], list[float]]:
    told = {line["id"]: line["anomaly_score"] for line in map(json.loads, scores.read_bytes().splitlines())}
    rows = [json.loads(line) for line in labels.read_bytes().splitlines()]
    return [row["event_label"] for row in rows], [told[row["id"]] for row in rows]


def test_figures_with_labels(history: History, tmp_path: Path) -> None:
    value = told(history.day, "--model", history.model, "--labels", history.labels, "--jobs", 1)
    (side,) = value["sides"]
    assert side["counted"] == len(history.day.read_bytes().splitlines())
    assert [row["level"] for row in side["alerts"]] == ["medium", "high", "critical"]
    assert all(row["rate"] == pytest.approx(row["alerts"] * 1000 / side["agent_days"]) for row in side["alerts"])
    assert [row[0]["budget"] for row in side["sweep"]] == [2.0, 4.0, 10.0, 20.0, 40.0, 100.0, 200.0]
    found = side["evaluation"]
    assert found["without_label"] == 80 and found["without_event"] == 0
    assert run("replay", history.day, "--model", history.model, "--out", tmp_path / "scores.jsonl").exit_code == 0
    bad, scores = judged(history.labels, tmp_path / "scores.jsonl")
    assert found["by_event"]["bad"] == sum(bad) > 0
    assert found["by_event"]["roc_auc"] == pytest.approx(roc_auc_score(bad, scores))
    assert found["by_event"]["average_precision"] == pytest.approx(average_precision_score(bad, scores))
    assert sum(one["events"] for one in side["bins"]) == side["counted"]
    words = run("backtest", history.day, "--model", history.model, "--labels", history.labels, "--jobs", 1)
    assert re.search(r"sessions: \d+ bad of \d+, ROC-AUC 0\.\d+", words.stderr)
    assert re.search(r"critical: \d+ alerts, .* budget 1\n", words.stderr)
    assert re.search(
        r"calls of good sessions \(write\): \d+ of \d+ wait, .* of 1,000 \(.*\), budget 10: \w+", words.stderr
    )
    assert re.search(r"challenged: \d+ of \d+ sessions, \d+ of \d+ agents", words.stderr)


def test_what_would_have_been_revoked(history: History) -> None:
    value = told(history.day, "--model", history.model, "--compare-policy", history.policy, "--jobs", 1)
    a, b = (side["policy"] for side in value["sides"])
    assert b["version"] == "strict" and a["version"] != "strict"
    assert b["totals"]["denied"] >= a["totals"]["denied"]
    assert sum(a["totals"].values()) == sum(row for one in a["asked"] for row in one["outcomes"].values())
    assert value["comparison"]["figures"]
    assert {"tenant", "agent_id", "at", "reasons", "later_events", "enforced"} <= set(a["revoked"][0])
    loose = told(history.day, "--model", history.model, "--budget", "900,800,700", "--jobs", 1)["sides"][0]
    assert [row["budget"] for row in loose["alerts"]] == [900, 800, 700]
    assert loose["peaks"]["critical"] >= value["sides"][0]["peaks"]["critical"]


class Page(HTMLParser):
    """Whether elements are closed in order, and what the page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.outside += [f"{name}={value}" for name, value in attrs if name in ("src", "href") or name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def test_the_report_stands_by_itself(history: History, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    given = ("--model", history.model, "--labels", history.labels, "--compare-policy", history.policy)
    value = told(history.day, *given, "--report", report, "--jobs", 1)
    text = report.read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert page.open == [] and page.outside == []
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'\"" in text and page.seen.count("script") == 1
    assert text.count("data-figure=") == page.seen.count("figure") >= 6
    assert HOSTILE not in text and "&lt;script&gt;alert(1)" in text
    assert "http:" not in text.replace("http://agents", "") and "url(" not in text and "@import" not in text
    assert "prefers-color-scheme: dark" in text and "@media print" in text
    waiting = [kind["action"] for kind in value["sides"][0]["calls"]["kinds"] if "<" not in kind["action"]]
    assert "Calls that would have waited for a person" in text and all(f"<code>{name}" in text for name in waiting)
    for one in value["sides"][0]["policy"]["revoked"]:
        if "<" not in one["agent_id"]:
            assert one["agent_id"] in text


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("--budget", "1,2"), 2, "MEDIUM,HIGH,CRITICAL"),
        (("--budget", "1,2,3"), 2, "critical <= high <= medium"),
        (("--from", "2026-01-09", "--to", "2026-01-08"), 2, "must be before --to"),
        (("--labels", "/nowhere.jsonl"), 1, "/nowhere.jsonl: no such file"),
    ],
)
def test_errors_say_what_to_do(history: History, arguments: tuple[object, ...], status: int, said: str) -> None:
    command = ["backtest", history.day, "--model", history.model, "--jobs", 1, *arguments]

    done = subprocess.run(
        [sys.executable, "-m", "trustwatch", *map(str, command)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "200"},
    )

    assert done.returncode == status, done.stderr
    assert said in done.stderr
