"""Signing in and out."""

from __future__ import annotations

from typing import Annotated, Final

import structlog
from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import RedirectResponse, Response

from ..http.store_executor import StoreExecutor
from .console_sessions import ConsoleSession, matching_grant, new_development_session, new_session, redeem_login_code
from .openid_provider import SignInRefused
from .page_dependencies import (
    ConsoleContext,
    ConsoleDep,
    PageRequest,
    SignInNeeded,
    page_request_of,
    require_console_scope,
)

CONSOLE_HOME: Final = "/console/"
SIGN_IN_PATH: Final = "/console/sign-in"
CALLBACK_PATH: Final = "/console/callback"

_log = structlog.get_logger(__name__)

router = APIRouter()
ReturnPathParam = Annotated[str, Query(alias="next", max_length=4096)]
SignedInDep = Annotated[PageRequest, Depends(require_console_scope(""))]


def safe_return_path(back: str) -> str:
    """Return *back* if it is a page of the console, else the first page.

    >>> safe_return_path("/console/agents?level=high")
    '/console/agents?level=high'
    >>> safe_return_path("//evil.example"), safe_return_path("/console/\\\\evil")
    ('/console/', '/console/')
    """
    plain = all(" " < sign <= "~" for sign in back) and "\\" not in back and "//" not in back.partition("?")[0]
    return back if plain and back.startswith(CONSOLE_HOME) and not back.startswith(SIGN_IN_PATH) else CONSOLE_HOME


@router.get("/sign-in")
async def show_sign_in(
    request: Request, console: ConsoleDep, back: ReturnPathParam = CONSOLE_HOME, said: str = ""
) -> Response:
    """Show the ways to sign in; a person who is signed in is redirected."""
    try:
        await page_request_of(request)
    except SignInNeeded:
        return console.renderer.page(
            request,
            "sign_in.html",
            None,
            back=safe_return_path(back),
            oidc=console.provider is not None,
            development=console.runtime.settings.console.development_login,
            said=said,
        )
    return RedirectResponse(safe_return_path(back), 303)


@router.get("/sign-in/start")
async def start_sign_in(request: Request, console: ConsoleDep, back: ReturnPathParam = CONSOLE_HOME) -> Response:
    """Redirect to the provider."""
    if console.provider is None:
        raise SignInRefused("no sign-in server is configured")
    url, under_way = await console.provider.begin_sign_in(safe_return_path(back))
    console.sessions.write_sign_in(request, under_way)
    return RedirectResponse(url, 303)


@router.get("/callback")
async def complete_sign_in(request: Request, console: ConsoleDep) -> Response:
    """Complete the sign-in with the provider's answer, and begin a session."""
    if console.provider is None:
        raise SignInRefused("no sign-in server is configured")
    under_way = console.sessions.open_sign_in(request.cookies.get(console.sessions.sign_in_name, ""))
    console.sessions.write_sign_in(request, None)
    claims = await console.provider.finish_sign_in(dict(request.query_params), under_way)
    oidc = console.provider.settings
    grant = matching_grant(claims, oidc.grants)
    if grant is None or under_way is None:
        members = {"code": "console_no_grant", "subject": str(claims["sub"])[:200]}
        console.failed_sign_ins.write(_log.warning, "console sign-in without a grant", **members)
        raise SignInRefused("you are signed in, but you have no rights here; ask the operator of this service")
    session = new_session(claims, grant.name, oidc.name_claim, console.runtime.clock())
    _begin_session(request, console, session)
    return RedirectResponse(under_way.back, 303)


@router.get("/dev-login")
async def sign_in_by_link(
    request: Request, console: ConsoleDep, code: Annotated[str, Query(max_length=200)] = ""
) -> Response:
    """Sign in with the one-time link that was displayed on this machine."""
    services = console.runtime
    if not console.runtime.settings.console.development_login:
        raise SignInRefused("the development login is disabled")
    now_s = services.clock()
    if await console.services.get(StoreExecutor)(redeem_login_code, services.settings.data_dir, code, now_s):
        _begin_session(request, console, new_development_session(now_s))
        return RedirectResponse(CONSOLE_HOME, 303)
    try:
        await page_request_of(request)
    except SignInNeeded:
        raise SignInRefused("this link was used or has expired; `trustwatch console-link` prints another") from None
    return RedirectResponse(CONSOLE_HOME, 303)


@router.post("/sign-out")
async def sign_out(request: Request, console: ConsoleDep, visit: SignedInDep) -> Response:
    """End the session everywhere except at the provider, because other applications use that session too."""
    console.sessions.write(request, None)  # first: this browser forgets it even if the database fails
    saved = await console.ended.end(visit.session)
    _log.info("console session ended", code="console_sign_out", person=visit.caller.name)
    target = f"{SIGN_IN_PATH}?said={'out' if saved else 'out-here'}"
    return RedirectResponse(target, 303)


def _begin_session(request: Request, console: ConsoleContext, session: ConsoleSession) -> None:
    console.ended.note_begun(session)
    console.sessions.write(request, session)
    _log.info("console session begins", code="console_sign_in", person=session.name, grant=session.grant or None)
