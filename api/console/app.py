"""The console as an application of its own, mounted at `/console`: pages for people instead of problem documents."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp

from ..http.gate import Parts
from . import live, signin
from .assets import FOREVER, Assets
from .cookies import Cookies
from .faults import install
from .figures import Figures
from .gate import Console
from .headers import Shielded
from .oidc import Provider
from .pages import navigation, routers
from .render import Renderer
from .sessions import Sessions, session_key

PATH: Final = "/console"


class ConsoleApp:
    """The console, and what runs beside its pages.

    Args:
        parts: of the application that it is mounted in.

    Raises:
        ConfigError: its key can not be read.
    """

    def __init__(self, parts: Parts) -> None:
        self._desk = make_console(parts)
        self._figures: asyncio.Task[None] | None = None
        self.app: ASGIApp = Shielded(_application(self._desk), self._form_targets)

    async def start(self) -> None:
        """Begin to sample."""
        self._figures = asyncio.create_task(self._desk.figures.run())

    async def close(self) -> None:
        """End what runs, close connections."""
        if self._figures is not None:
            self._figures.cancel()
            with suppress(asyncio.CancelledError):
                await self._figures
        if self._desk.provider is not None:
            await self._desk.provider.close()

    def _form_targets(self) -> list[str]:
        """Signing out is a form, which may lead to the provider."""
        return [] if self._desk.provider is None else self._desk.provider.form_targets()


def make_console(parts: Parts) -> Console:
    """The console of an application. Raises ConfigError."""
    services = parts.services
    settings, listen = services.settings.console, services.settings.listen
    sessions = Sessions(session_key(settings, services.settings.data_dir), settings, services.clock)
    provider = None
    if settings.oidc is not None:
        redirect_uri = listen.url() + signin.CALLBACK
        provider = Provider(
            settings.oidc, services.settings.verification, redirect_uri, services.clock, services.new_id
        )
    cookies = Cookies(sessions, secure=listen.url().startswith("https:"), port=listen.port)
    renderer = Renderer(Assets(), navigation(), services.now_ms)
    return Console(parts, sessions, cookies, provider, renderer, Figures(services))


def _application(desk: Console) -> FastAPI:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.state.console = desk
    app.state.parts = desk.parts
    assets = Assets()

    @app.get("/static/{path:path}")
    async def static(path: str, v: str = "") -> Response:
        asset = assets.get(path)
        if asset is None:
            raise HTTPException(404)
        keep = FOREVER if v == asset.digest else "no-cache"
        return Response(asset.body, media_type=asset.media_type, headers={"Cache-Control": keep})

    for router in (signin.router, live.router, *routers()):
        app.include_router(router)
    install(app, desk)
    return app
