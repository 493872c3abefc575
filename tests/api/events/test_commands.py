"""`trustwatch ingest` against a service that asks for pauses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from trustwatch.api.cli.main import make_app
from trustwatch.api.events import commands

from ...support.event_taker import EventTaker, running_event_taker

NOW_MS = 1_764_000_000_000


@pytest.fixture
def service() -> Iterator[EventTaker]:
    with running_event_taker() as taker:
        taker.pauses_once = True
        yield taker


@pytest.mark.parametrize(
    ("header", "pause_s"),
    [
        (None, 1.0),
        ("120", 30.0),
        ("Mon, 24 Nov 2025 16:00:20 GMT", 20.0),
    ],
)
def test_a_pause_is_kept_and_the_batch_sent_again(
    service: EventTaker,
    two_events: Path,
    pauses: list[float],
    monkeypatch: pytest.MonkeyPatch,
    header: str | None,
    pause_s: float,
) -> None:
    """`Retry-After` may be a number or a date; what says nothing of use is a second."""
    monkeypatch.setattr(commands.clock, "now_s", lambda: NOW_MS / 1000)
    service.retry_after = header

    result = CliRunner().invoke(make_app(), ["ingest", str(two_events), "--url", service.url, "--json"])

    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"accepted": 2, "duplicate": 0, "rejected": 0, "skipped": 0}
    assert pauses == [pause_s]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    kept: list[float] = []
    monkeypatch.setattr(commands.clock, "sleep", kept.append)
    return kept


@pytest.fixture
def two_events(tmp_path: Path) -> Path:
    events = tmp_path / "events.jsonl"
    events.write_text('{"id": "1"}\n{"id": "2"}\n')
    return events


def test_a_shipper_goes_on_where_a_service_that_has_answered_is_away(pauses: list[float], two_events: Path) -> None:
    """A server may close a connection that lay idle just when the next batch is on its way."""
    with running_event_taker() as service:
        service.most_lines, service.silent_at = 1, (2, 3)  # the first attempt is answered: too many lines
        result = CliRunner().invoke(make_app(), ["ingest", str(two_events), "--url", service.url, "--json"])

    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["accepted"] == 2
    assert "trying again" in result.stderr
    assert pauses == [1.0, 2.0]
    assert [lines for _, lines in service.requests] == [[b'{"id": "1"}']] * 3 + [[b'{"id": "2"}']]


@pytest.mark.parametrize(("silent_from", "said"), [(1, "is the service running?"), (2, "no answer to 30 attempts")])
def test_a_service_that_stays_away_ends_it_with_a_message(
    pauses: list[float], two_events: Path, silent_from: int, said: str
) -> None:
    """At once where it never answered: then its address is wrong."""
    with running_event_taker() as service:
        service.most_lines, service.silent_at = (1 if silent_from > 1 else None), range(silent_from, 100)
        result = CliRunner().invoke(make_app(), ["ingest", str(two_events), "--url", service.url])

    assert result.exit_code == 1
    assert said in result.stderr
    assert (sum(pauses) > 600) == (silent_from > 1)


def _event_at(time: str) -> str:
    agent = {"id": "reader", "issuer": "https://as.example"}
    made = {"time": time, "type": "tool.call", "agent": agent, "action": "read", "outcome": "success"}
    return json.dumps(made) + "\n"


@pytest.mark.parametrize(("time", "said"), [("2025-11-20T12:00:00Z", "events begin 4 days ago"), (None, "")])
def test_who_sends_a_history_to_a_running_service_is_told_what_to_do_instead(
    service: EventTaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, time: str | None, said: str
) -> None:
    """Whatever the first record is: an event of days ago makes it a history. What is of today is sent in silence."""
    monkeypatch.setattr(commands.clock, "sleep", lambda _seconds: None)
    monkeypatch.setattr(commands.clock, "utc_now", lambda: datetime.fromtimestamp(NOW_MS / 1000, UTC))
    events = tmp_path / "events.jsonl"
    events.write_text('{"id": "no event"}\n' + _event_at(time or "2025-11-24T10:00:00Z"))

    result = CliRunner().invoke(make_app(), ["ingest", str(events), "--url", service.url])

    assert result.exit_code == 0, result.output
    assert ("days ago" in result.output) == bool(said)
    assert said in result.output
    assert ("trustwatch train" in result.output) == bool(said)
