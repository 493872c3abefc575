"""A receiver of security event tokens (RFC 8935), which notes when it was told that an agent's sessions are revoked."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt

from trustwatch.scoring.delivery.shared_signals.event_types import SESSION_REVOKED


class SetReceiver:
    """Takes every push; `close` ends it."""

    def __init__(self) -> None:
        self.told_s: dict[str, float] = {}
        """Seconds since 1970 at which a revocation arrived, by the decision that it follows from."""
        self.agents: set[str] = set()
        """Whose sessions are revoked, as far as it was told."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/events"

    def _handler(receiver) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                token = self.rfile.read(int(self.headers["content-length"])).decode()
                now = time.time()
                self.send_response(202)
                self.send_header("content-length", "0")
                self.end_headers()
                claims = jwt.decode(token, options={"verify_signature": False})
                if SESSION_REVOKED in claims["events"]:
                    receiver.told_s.setdefault(claims["txn"], now)
                    receiver.agents.add(claims["sub_id"]["sub"])

            def log_message(self, *_: object) -> None:
                """Quiet."""

        return Handler

    def close(self) -> None:
        """Take no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
