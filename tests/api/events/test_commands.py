"""`trustwatch ingest` against a service that asks for pauses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from trustwatch.api.cli.main import make_app
from trustwatch.api.events import commands
from typer.testing import CliRunner

NOW_MS = 1_764_000_000_000


class Service(ThreadingHTTPServer):
    """Takes events at the second attempt; says `Retry-After` at the first."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.retry_after: str | None = None
        self.attempts = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Service

    def do_POST(self) -> None:
        lines = self.rfile.read(int(self.headers["content-length"])).splitlines()
        self.server.attempts += 1
        taken = self.server.attempts > 1
        answer = {"accepted": len(lines), "duplicate": 0, "rejected": 0, "skipped": 0, "rejections": []}
        body = json.dumps(answer if taken else {"title": "Too many requests"}).encode()
        self.send_response(202 if taken else 429)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        if not taken and self.server.retry_after is not None:
            self.send_header("retry-after", self.server.retry_after)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 (the name is the base class's)
        """Nothing on stderr."""


@pytest.fixture
def service() -> Iterator[Service]:
    """A service on a free port."""
    with Service() as running:
        thread = Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


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
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: str | None, pause_s: float
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
