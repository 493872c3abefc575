"""A server that takes events as the service does, and remembers what came."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlsplit


class EventTaker(ThreadingHTTPServer):
    """Takes every record; may ask for a pause first, or refuse all.

    Attributes:
        requests: format and lines of each that was taken.
        attempts: all requests.
        pauses_once: whether the first is told to come again.
        retry_after: header of that answer; None = it has none.
        rejects: whether every record is refused.
        most_lines: of a request; None = any number.
        silent_at: attempts, from 1, at which the connection ends without an answer; the records were taken.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[tuple[str | None, list[bytes]]] = []
        self.attempts = 0
        self.pauses_once = False
        self.retry_after: str | None = None
        self.rejects = False
        self.most_lines: int | None = None
        self.silent_at: Container[int] = ()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: EventTaker

    def do_POST(self) -> None:
        lines = self.rfile.read(int(self.headers["content-length"])).splitlines()
        self.server.attempts += 1
        if self.server.pauses_once and self.server.attempts == 1:
            self._answer(429, {"title": "Too many requests"}, self.server.retry_after)
            return
        if self.server.most_lines is not None and len(lines) > self.server.most_lines:
            self._answer(413, {"title": "Too many events"}, None)
            return
        asked = parse_qs(urlsplit(self.path).query).get("format")
        self.server.requests.append((asked[0] if asked else None, lines))
        if self.server.attempts in self.server.silent_at:
            self.close_connection = True
            return
        rejected = len(lines) if self.server.rejects else 0
        counts = {"accepted": len(lines) - rejected, "duplicate": 0, "rejected": rejected, "skipped": 0}
        rejections = [{"index": 0, "reason": "no", "path": "$"}] * min(rejected, 1)
        self._answer(202, {**counts, "rejections": rejections}, None)

    def _answer(self, status: int, answer: object, retry_after: str | None) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        if retry_after is not None:
            self.send_header("retry-after", retry_after)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 (the name is the base class's)
        """Nothing on stderr."""


@contextmanager
def running_event_taker() -> Iterator[EventTaker]:
    with EventTaker() as taker:
        thread = Thread(target=taker.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield taker
        taker.shutdown()
        thread.join()
