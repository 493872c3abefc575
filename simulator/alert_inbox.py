"""The demo's receiver of alerts: a stand-in for a user's program, on this machine's loopback.

It checks each signature as the Standard Webhooks specification says and keeps nothing but a count.
"""

from __future__ import annotations

import secrets
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

from trustwatch.scoring.delivery.notifiers.webhook_notifier import verify_signature

MAX_ALERT_BYTES = 1024 * 1024


class AlertInbox:
    """Takes alerts from its making until `close`.

    Attributes:
        url: to post alerts to.
        secret: with which they are to be signed, `whsec_…`.
        received: alerts whose signature was right.
        refused: bodies without one.
    """

    def __init__(self) -> None:
        self.secret = "whsec_" + b64encode(secrets.token_bytes(24)).decode()
        self.received = self.refused = 0
        self._lock = Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _make_handler(self))
        self._thread = Thread(target=self._server.serve_forever, name="demo-inbox", daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/alerts"

    def receive(self, body: bytes, headers: dict[str, str]) -> bool:
        """Count a body; returns whether its signature is right."""
        right = verify_signature(self.secret, body, headers)
        with self._lock:
            if right:
                self.received += 1
            else:
                self.refused += 1
        return right

    def close(self) -> None:
        """Stop receiving alerts."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _make_handler(inbox: AlertInbox) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            if not 0 < length <= MAX_ALERT_BYTES:
                self._answer(413)
                return
            headers = {name.lower(): value for name, value in self.headers.items()}
            self._answer(204 if inbox.receive(self.rfile.read(length), headers) else 401)

        def _answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing: the demo prints its own lines."""

    return Handler
