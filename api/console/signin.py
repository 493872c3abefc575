"""Signing in and out."""

from __future__ import annotations

from typing import Annotated, Final

import structlog
from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import RedirectResponse, Response

from .gate import Console, Desk, SignInNeeded, Visit, require, visit_of
from .links import use_code
from .oidc import SignInRefused
from .people import development_session, granted, session_of
from .sessions import Session

HOME: Final = "/console/"
SIGN_IN: Final = "/console/sign-in"
CALLBACK: Final = "/console/callback"

_log = structlog.get_logger(__name__)

router = APIRouter()
Back = Annotated[str, Query(alias="next", max_length=4096)]
Anybody = Annotated[Visit, Depends(require(""))]


def safe_path(back: str) -> str:
    """A page of the console to go back to; whatever is none becomes the first one.

    >>> safe_path("/console/agents?level=high"), safe_path("//evil.example"), safe_path("/console/\\\\evil")
    ('/console/agents?level=high', '/console/', '/console/')
    """
    plain = all(" " < sign <= "~" for sign in back) and "\\" not in back and "//" not in back.partition("?")[0]
    return back if plain and back.startswith(HOME) and not back.startswith(SIGN_IN) else HOME


@router.get("/sign-in")
async def sign_in(request: Request, desk: Desk, back: Back = HOME, said: str = "") -> Response:
    """How to sign in; who has is sent on."""
    try:
        visit_of(request)
    except SignInNeeded:
        return desk.page(
            request,
            "sign_in.html",
            None,
            back=safe_path(back),
            oidc=desk.provider is not None,
            development=_development(desk),
            said=said,
        )
    return RedirectResponse(safe_path(back), 303)


@router.get("/sign-in/start")
async def start(request: Request, desk: Desk, back: Back = HOME) -> Response:
    """Off to the provider."""
    if desk.provider is None:
        raise SignInRefused("no sign-in server is configured")
    url, under_way = await desk.provider.begin(safe_path(back))
    desk.cookies.write_sign_in(request, under_way)
    return RedirectResponse(url, 303)


@router.get("/callback")
async def callback(request: Request, desk: Desk) -> Response:
    """Back from the provider."""
    if desk.provider is None:
        raise SignInRefused("no sign-in server is configured")
    under_way = desk.cookies.read_sign_in(request)
    desk.cookies.write_sign_in(request, None)
    claims = await desk.provider.finish(dict(request.query_params), under_way)
    oidc = desk.provider.settings
    grant = granted(claims, oidc.grants)
    if grant is None or under_way is None:
        _log.warning("console sign-in without a grant", code="console_no_grant", subject=str(claims["sub"])[:200])
        raise SignInRefused("you are known, but nothing here is granted to you; ask the operator of this service")
    session = session_of(claims, grant.name, oidc.name_claim, desk.parts.services.clock())
    _begin(request, desk, session)
    return RedirectResponse(under_way.back, 303)


@router.get("/dev-login")
async def dev_login(request: Request, desk: Desk, code: Annotated[str, Query(max_length=200)] = "") -> Response:
    """Sign in by a one-time link that a person on this machine was shown."""
    services = desk.parts.services
    if not _development(desk):
        raise SignInRefused("the development login is switched off")
    now_s = services.clock()
    if await desk.parts.read(use_code, services.settings.data_dir, code, now_s):
        _begin(request, desk, development_session(now_s))
        return RedirectResponse(HOME, 303)
    try:
        visit_of(request)
    except SignInNeeded:
        raise SignInRefused(
            "that link was used already, or is too old; `trustwatch console-link` prints another"
        ) from None
    return RedirectResponse(HOME, 303)


@router.post("/sign-out")
async def sign_out(request: Request, desk: Desk, visit: Anybody) -> Response:
    """End the session here, and at the provider where the settings say so."""
    desk.sessions.end(visit.session)
    desk.cookies.write(request, None)
    _log.info("console session ended", code="console_sign_out", person=visit.caller.name)
    target = f"{SIGN_IN}?said=out"
    if desk.provider is not None and visit.session.grant:
        target = await desk.provider.end_session_url(desk.parts.services.settings.listen.url() + SIGN_IN) or target
    return RedirectResponse(target, 303)


def _development(desk: Console) -> bool:
    return desk.parts.services.settings.console.development_login


def _begin(request: Request, desk: Console, session: Session) -> None:
    """A new session with an id of its own, whatever cookie the browser had before."""
    desk.cookies.write(request, session)
    _log.info("console session begins", code="console_sign_in", person=session.name, grant=session.grant or None)
