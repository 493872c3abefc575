"""The console as an application: its routes, security headers, and cookies that a request has renewed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..http.line_limit import LineLimit
from ..http.request_traces import FASTAPI_TELEMETRY_OFF
from ..http.runtime import Runtime
from ..http.service_registry import ServiceRegistry
from . import live_updates, sign_in
from .activity import ActivitySampler
from .console_sessions import COOKIES_STATE_KEY, ConsoleSessions, SessionCookies, session_key
from .ended_sessions import EndedSessions
from .error_pages import install_error_pages
from .openid_provider import OpenIdProvider
from .page_dependencies import ConsoleContext
from .pages import MENU, page_routers
from .rendering import IMMUTABLE_CACHE_CONTROL, PageRenderer, StaticAssets

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def content_security_policy(form_targets: Collection[str] = ()) -> str:
    """Value of Content-Security-Policy: nothing from elsewhere, nothing inline.

    *form_targets* are URLs that a form may lead to by a redirect; browsers check those too.
    """
    origins = sorted({"{0.scheme}://{0.netloc}".format(urlsplit(url)) for url in form_targets})
    return "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' data:",
            "connect-src 'self'",
            "font-src 'self'",
            " ".join(("form-action 'self'", *origins)),
            "frame-ancestors 'none'",
            "base-uri 'none'",
        )
    )


@dataclass(eq=False, repr=False)
class SecurityHeadersMiddleware:
    """The console with its headers; *form_targets* is called for each answer, see `content_security_policy`."""

    app: ASGIApp
    form_targets: Callable[[], Collection[str]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request with the headers added."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
                headers["Content-Security-Policy"] = content_security_policy(self.form_targets())
                headers.setdefault("Cache-Control", "no-store")
                for cookie in scope.get("state", {}).get(COOKIES_STATE_KEY, ()):
                    headers.append("Set-Cookie", cookie)
            await send(message)

        await self.app(scope, receive, headed)


CONSOLE_ROOT: Final = "/console"


@dataclass(eq=False, repr=False)
class ConsoleApplication:
    """The console of an application, and what runs beside its pages. Raises ConfigError: its key can not be read."""

    services: ServiceRegistry

    path = CONSOLE_ROOT

    def __post_init__(self) -> None:
        self._console = build_console(self.services)
        self._tasks: list[asyncio.Task[None]] = []
        self.app: ASGIApp = SecurityHeadersMiddleware(_build_application(self._console), self._form_targets)

    async def start(self) -> None:
        """Start sampling, and writing what the database did not take."""
        self._tasks = [asyncio.create_task(run()) for run in (self._console.activity.run, self._console.ended.run)]

    async def close(self) -> None:
        """Stop sampling, write what waits, and close connections."""
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self._console.ended.save_waiting()
        if self._console.provider is not None:
            await self._console.provider.close()

    def _form_targets(self) -> list[str]:
        """Signing out is a form, which may lead to the provider."""
        return [] if self._console.provider is None else self._console.provider.form_targets()


def build_console(services: ServiceRegistry) -> ConsoleContext:
    """The console of an application. Raises ConfigError."""
    runtime = services.get(Runtime)
    settings, listen = runtime.settings.console, runtime.settings.listen
    sessions = ConsoleSessions(session_key(settings, runtime.settings.data_dir), settings, runtime.clock)
    provider = None
    if settings.oidc is not None:
        rules, ca_file = runtime.settings.verification, runtime.settings.outgoing.ca_file
        clocks = runtime.clock, runtime.new_id, runtime.monotonic
        provider = OpenIdProvider(settings.oidc, rules, listen.url() + sign_in.CALLBACK_PATH, *clocks, ca_file)
    return ConsoleContext(
        services,
        sessions,
        EndedSessions(runtime.store.metadata, runtime.clock),
        SessionCookies(sessions, secure=listen.url().startswith("https:"), port=listen.port),
        provider,
        PageRenderer(StaticAssets(), MENU, runtime.now_ms),
        ActivitySampler(runtime),
        LineLimit(runtime.monotonic),
    )


def _build_application(console: ConsoleContext) -> FastAPI:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, telemetry=FASTAPI_TELEMETRY_OFF)
    app.state.console = console
    app.state.services = console.services
    assets = StaticAssets()

    @app.get("/static/{path:path}")
    async def static(path: str, v: str = "") -> Response:
        asset = assets.get(path)
        if asset is None:
            raise HTTPException(404)
        keep = IMMUTABLE_CACHE_CONTROL if v == asset.digest else "no-cache"
        return Response(asset.body, media_type=asset.media_type, headers={"Cache-Control": keep})

    for router in (sign_in.router, live_updates.router, *page_routers()):
        app.include_router(router)
    install_error_pages(app, console)
    return app
