"""A plain HTTP server on loopback, for tests of what asks others or is pushed to."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Endpoint:
    """An HTTP server on a thread: what a gateway asks or guards, or what an authorization server asks.

    Attributes:
        seen: (method, path, headers in lower case, body) of each request.
        answer: from one of those to (status, headers, body); may be replaced at any time.
    """

    Request = tuple[str, str, dict[str, str], bytes]
    Answer = tuple[int, dict[str, str], bytes]

    def __init__(self, answer: Callable[[Request], Answer], port: int = 0) -> None:
        self.seen: list[Endpoint.Request] = []
        self.answer = answer
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.port = self._server.server_port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Nobody answers at `url` from now on."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self.close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65537)
                if not self.raw_requestline or not self.parse_request():
                    self.close_connection = True
                    return
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = (self.command, self.path, headers, body)
                endpoint.seen.append(request)
                status, more, content = endpoint.answer(request)
                with contextlib.suppress(ConnectionError):  # whoever asked may have left
                    self.send_response(status)
                    for name, value in more.items():
                        self.send_header(name, value)
                    if status != 204:
                        self.send_header("content-length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Nothing: pytest shows what matters."""

        return Handler
