"""Pages for errors: a page with what to do, or a notice where a part of a page was asked for."""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from trustwatch.ingest.errors import TrustwatchError, Unavailable

from ..http.problems import ProblemDetails, ProblemTable, internal_problem, invalid_request
from ..http.refused_callers import RefusedCallers
from .openid_provider import ProviderUnavailable, SignInRefused
from .page_dependencies import ConsoleContext, PageRequest, SignInNeeded, page_request_of
from .sign_in import SIGN_IN_PATH

_log = structlog.get_logger(__name__)

ErrorPageHandler = Callable[[ConsoleContext, Request, Any], Awaitable[Response]]


async def _sign_in_needed(console: ConsoleContext, request: Request, _: SignInNeeded) -> Response:
    part, stream = "hx-request" in request.headers, "text/event-stream" in request.headers.get("accept", "")
    if request.method == "GET" and not part and not stream:
        back = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"{SIGN_IN_PATH}?{urlencode({'next': back})}", 303)
    problem = ProblemDetails(401, SignInNeeded.code, "Signed out", "Your session has ended. Sign in and repeat this.")
    answer = await _problem_page(console, request, problem)
    if part:
        answer.headers["HX-Redirect"] = SIGN_IN_PATH
    return answer


async def _sign_in_refused(console: ConsoleContext, request: Request, error: SignInRefused) -> Response:
    problem = ProblemDetails(403, error.code, "Sign-in failed", _as_sentence(str(error)))
    return await _problem_page(console, request, problem)


async def _provider_unavailable(console: ConsoleContext, request: Request, error: ProviderUnavailable) -> Response:
    members = {"code": error.code, "error": str(error)}
    console.failed_sign_ins.write(_log.warning, "console sign-in is not possible", **members)
    detail = f"{_as_sentence(str(error))} Nobody can sign in until it does; who is signed in stays so."
    return await _problem_page(console, request, ProblemDetails(503, error.code, "Sign-in is not possible now", detail))


async def _known_error(console: ConsoleContext, request: Request, error: TrustwatchError) -> Response:
    problem = console.services.get(ProblemTable).problem_of(error)
    console.services.get(RefusedCallers).tell_of(request.scope, problem.code, problem.detail)
    if problem.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return await _unexpected(console, request, error)
    return await _problem_page(console, request, problem)


async def _invalid_request(console: ConsoleContext, request: Request, error: RequestValidationError) -> Response:
    return await _problem_page(console, request, invalid_request(error))


async def _http_error(console: ConsoleContext, request: Request, error: HTTPException) -> Response:
    title, detail = HTTPStatus(error.status_code).phrase, str(error.detail)
    if error.status_code == HTTPStatus.NOT_FOUND:
        title = "There is no such page"
        detail = "What you followed may be old, or what it was about is no longer kept."
    problem = ProblemDetails(error.status_code, "http", title, detail, dict(error.headers or {}))
    return await _problem_page(console, request, problem)


async def _unexpected(console: ConsoleContext, request: Request, error: Exception) -> Response:
    error_id = console.runtime.new_id()
    trace = "".join(traceback.format_exception(error))  # no local variables: one of them may be a cookie
    _log.error("request_failed", error_id=error_id, error=type(error).__name__, traceback=trace)
    return await _problem_page(console, request, internal_problem(error_id))


_HANDLERS: dict[type[Exception], ErrorPageHandler] = {
    SignInNeeded: _sign_in_needed,
    SignInRefused: _sign_in_refused,
    ProviderUnavailable: _provider_unavailable,
    TrustwatchError: _known_error,
    RequestValidationError: _invalid_request,
    HTTPException: _http_error,
    Exception: _unexpected,
}


def install_error_pages(app: FastAPI, console: ConsoleContext) -> None:
    """Have every failure of *app* answered for people."""
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, partial(handler, console))


async def _problem_page(console: ConsoleContext, request: Request, problem: ProblemDetails) -> Response:
    visit: PageRequest | None = getattr(request.state, "visit", None)
    if visit is None:  # of a page that there is not: the way on stays for who is signed in
        with suppress(SignInNeeded, Unavailable):
            visit = await page_request_of(request, quiet=True)
    answer = console.render_page(request, "problem.html", visit, problem.status, problem=problem)
    for name, value in problem.headers.items():
        if name.lower() != "www-authenticate":  # people sign in by pages, not by headers
            answer.headers[name] = value
    return answer


def _as_sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."
