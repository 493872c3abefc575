"""`trustwatch ingest` against a service that asks for pauses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from trustwatch.api.cli.main import make_app
from trustwatch.api.events import commands

from ...support.event_taker import EventTaker, running_event_taker

NOW_MS = 1_764_000_000_000


@pytest.fixture
def service() -> Iterator[EventTaker]:
    """Takes events at the second attempt; says `Retry-After` at the first."""
    with running_event_taker() as taker:
        taker.pauses_once = True
        yield taker


@pytest.mark.parametrize(
    ("header", "pause_s"),
    [
        (None, 1.0),
        ("7", 7.0),
        ("120", 30.0),
        ("Mon, 24 Nov 2025 16:00:20 GMT", 20.0),
        ("Mon, 24 Nov 2025 15:00:00 GMT", 0.0),
        ("soon", 1.0),
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
    with running_event_taker() as service:
        service.most_lines, service.silent_at = (1 if silent_from > 1 else None), range(silent_from, 100)
        result = CliRunner().invoke(make_app(), ["ingest", str(two_events), "--url", service.url])

    assert result.exit_code == 1
    assert said in result.stderr
    assert (sum(pauses) > 600) == (silent_from > 1)
