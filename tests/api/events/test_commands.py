"""`trustwatch ingest` against a service that asks for pauses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from trustwatch.api.cli.main import make_app
from trustwatch.api.events import commands
from typer.testing import CliRunner

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
    service: EventTaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: str | None, pause_s: float
) -> None:
    """`Retry-After` may be a number or a date; what says nothing of use is a second."""
    pauses: list[float] = []
    monkeypatch.setattr(commands.clock, "sleep", pauses.append)
    monkeypatch.setattr(commands.clock, "now_ms", lambda: NOW_MS)
    service.retry_after = header
    events = tmp_path / "events.jsonl"
    events.write_text('{"id": "1"}\n{"id": "2"}\n')

    result = CliRunner().invoke(make_app(), ["ingest", str(events), "--url", service.url, "--json"])

    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"accepted": 2, "duplicate": 0, "rejected": 0, "skipped": 0}
    assert pauses == [pause_s]
