"""The bare ASGI layer in front of FastAPI: answers what cannot wait itself, and lets in who may come in.

FastAPI's routing and dependencies cost several times what an answer from memory costs, and that answer is asked for
while a token is being issued or a call waits. FastAPI also reads and parses a body before a dependency asks for a
token, so this layer asks first: of a request that may have a body nothing is read before its caller is known.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trustwatch.ingest.errors import TrustwatchError
from trustwatch.scoring.store.read_scope import NOBODY, reads_of

from .allowed_hosts import UNCHECKED_PATHS, AllowedHosts
from .auth.bearer_tokens import TokenVerifier
from .auth.callers import AuthenticatedCaller
from .auth.proof_of_possession import ProofRefused
from .auth.token_verification import AuthenticationFailed
from .connection_guard import ConnectionGuard
from .dependencies import authenticate_request, presents_bearer
from .problems import ProblemDetails, ProblemError, problem_of, send_problem
from .prometheus_metrics import ServiceMetrics
from .request_body import declared_body_length, limit_body
from .request_ids import identify_request
from .slice import FastRoute

MAX_REQUEST_BYTES = 64 * 1024
"""Bytes of a request body, where its slice says nothing else."""

BODILESS_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods of routes that read no body."""


class RequestAdmission:
    """Decides which requests FastAPI may read and answer."""

    def __init__(
        self,
        verifier: TokenVerifier[AuthenticatedCaller],
        hosts: AllowedHosts,
        body_limits: Mapping[str, int],
        own_sign_in: Collection[str],
        guard: ConnectionGuard | None,
    ) -> None:
        self._verifier = verifier
        self._hosts = hosts
        self._body_limits = body_limits
        self._own_sign_in = tuple(f"{path}/" for path in own_sign_in)
        self._guard = guard

    def body_limit(self, path: str) -> int:
        """Bytes that the body of a request to *path* may have."""
        return self._body_limits.get(path, MAX_REQUEST_BYTES)

    async def admit(self, scope: Scope) -> None:
        """Raise unless the request may go on. Raises ProblemError (400, 421), AuthenticationFailed."""
        path = scope["path"]
        if path not in UNCHECKED_PATHS:
            await self._check_host(scope)
        if scope["method"] in BODILESS_METHODS or path.startswith(self._own_sign_in):
            return
        await authenticate_request(self._verifier, scope)
        if self._guard is not None:
            self._guard.admit(scope["client"])

    async def _check_host(self, scope: Scope) -> None:
        """Raise unless the request names this service, or comes with a valid token, whatever else it has for one."""
        try:
            self._hosts.check(scope)
        except ProblemError as misdirected:
            if not presents_bearer(scope):
                raise
            try:
                await authenticate_request(self._verifier, scope)
            except ProofRefused:  # of a token that is valid: its client learns what the proof lacks
                raise
            except AuthenticationFailed:
                raise misdirected from None


class FastPath:
    """The application that the server runs."""

    def __init__(
        self,
        app: ASGIApp,
        routes: Sequence[FastRoute],
        streamed_paths: Collection[str],
        admission: RequestAdmission,
        metrics: ServiceMetrics,
        monotonic: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self.app = app
        self._routes = tuple(routes)
        self._streamed_paths = frozenset(streamed_paths)
        self._admission = admission
        self._metrics = metrics
        self._monotonic = monotonic
        self._new_id = new_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the lifespan of the application.

        No request reads anything of a tenant from the store before somebody has said whose it is.
        """
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope.get("raw_path") or b""
        send = identify_request(scope, send, self._new_id)
        with reads_of(NOBODY):
            for route in self._routes:
                if (handler := route.find_handler(path)) is not None:
                    await handler(scope, receive, send)
                    return
            await self._forward(scope, receive, send)

    def route_template(self, scope: Scope) -> str:
        """The route that a request took."""
        path = scope.get("raw_path") or b""
        for route in self._routes:
            if route.find_handler(path) is not None:
                return route.template(path)
        return route_template(scope)

    async def _forward_admitted(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path in self._streamed_paths:
            await self.app(scope, receive, send)
            return
        try:
            await self._admission.admit(scope)
        except TrustwatchError as error:
            await send_problem(problem_of(error), send, with_body=scope["method"] != "HEAD")
            return
        most = self._admission.body_limit(path)
        if declared_body_length(scope) > most:
            detail = f"the body may have {most} bytes"
            await send_problem(ProblemDetails(413, "body_too_large", "Body too large", detail), send, with_body=True)
        else:
            await self.app(scope, limit_body(receive, most), send)

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = self._monotonic()
        status = 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if status == 307:
                    message["headers"] = [_without_origin(*header) for header in message["headers"]]
            await send(message)

        try:
            await self._forward_admitted(scope, receive, counted)
        finally:
            route = route_template(scope)
            self._metrics.counter("trustwatch_http_requests_total", route, str(status)).inc()
            self._metrics.histogram("trustwatch_http_request_seconds", route).observe(self._monotonic() - start)


def route_template(scope: Scope) -> str:
    """The route that FastAPI found for a request; (none) where it found none."""
    route = getattr(scope.get("route"), "path_format", "")
    return scope.get("root_path", "") + route if route else "(none)"


def _without_origin(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """A header as it came; `Location`, which Starlette makes of the request's Host for a path with a slash too many or
    too few, without scheme and host."""
    if name != b"location":
        return name, value
    parts = urlsplit(value)
    path = b"/" + parts.path.lstrip(b"/")  # `//name` would be a host again
    return name, path + (b"?" + parts.query if parts.query else b"")
