"""The console as an application of its own, mounted at `/console`: pages for people instead of problem documents."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp

from ..http.gate import ApplicationContext
from . import live, signin
from .assets import IMMUTABLE_CACHE_CONTROL, StaticAssets
from .cookies import SessionCookies
from .faults import install_error_pages
from .figures import ActivitySampler
from .gate import ConsoleContext
from .headers import SecurityHeadersMiddleware
from .oidc import OpenIdProvider
from .pages import menu_entries, page_routers
from .render import PageRenderer
from .sessions import ConsoleSessions, session_key

CONSOLE_ROOT: Final = "/console"


class ConsoleApplication:
    """The console, and what runs beside its pages.

    Args:
        parts: of the application that it is mounted in.

    Raises:
        ConfigError: its key can not be read.
    """

    def __init__(self, parts: ApplicationContext) -> None:
        self._console = build_console(parts)
        self._sampling: asyncio.Task[None] | None = None
        self.app: ASGIApp = SecurityHeadersMiddleware(_build_application(self._console), self._form_targets)

    async def start(self) -> None:
        """Begin to sample."""
        self._sampling = asyncio.create_task(self._console.activity.run())

    async def close(self) -> None:
        """End what runs, close connections."""
        if self._sampling is not None:
            self._sampling.cancel()
            with suppress(asyncio.CancelledError):
                await self._sampling
        if self._console.provider is not None:
            await self._console.provider.close()

    def _form_targets(self) -> list[str]:
        """Signing out is a form, which may lead to the provider."""
        return [] if self._console.provider is None else self._console.provider.form_targets()


def build_console(parts: ApplicationContext) -> ConsoleContext:
    """The console of an application. Raises ConfigError."""
    services = parts.runtime
    settings, listen = services.settings.console, services.settings.listen
    sessions = ConsoleSessions(session_key(settings, services.settings.data_dir), settings, services.clock)
    provider = None
    if settings.oidc is not None:
        redirect_uri = listen.url() + signin.CALLBACK_PATH
        provider = OpenIdProvider(
            settings.oidc, services.settings.verification, redirect_uri, services.clock, services.new_id
        )
    cookies = SessionCookies(sessions, secure=listen.url().startswith("https:"), port=listen.port)
    renderer = PageRenderer(StaticAssets(), menu_entries(), services.now_ms)
    return ConsoleContext(parts, sessions, cookies, provider, renderer, ActivitySampler(services))


def _build_application(desk: ConsoleContext) -> FastAPI:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.state.console = desk
    app.state.parts = desk.application
    assets = StaticAssets()

    @app.get("/static/{path:path}")
    async def static(path: str, v: str = "") -> Response:
        asset = assets.get(path)
        if asset is None:
            raise HTTPException(404)
        keep = IMMUTABLE_CACHE_CONTROL if v == asset.digest else "no-cache"
        return Response(asset.body, media_type=asset.media_type, headers={"Cache-Control": keep})

    for router in (signin.router, live.router, *page_routers()):
        app.include_router(router)
    install_error_pages(app, desk)
    return app
