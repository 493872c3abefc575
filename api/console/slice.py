"""The console, if it is enabled, and the page of the API: what the slice adds to the application."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import structlog
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trustwatch.ingest.errors import TrustwatchError, Unavailable

from ..http.dependencies import AnyCallerUnlessLocal, declared
from ..http.openapi_document import SCHEMA_REF_PREFIX
from ..http.problems import ProblemDetails, ProblemTable, internal_problem, invalid_request
from ..http.refused_callers import LineLimit, RefusedCallers
from ..http.request_traces import FASTAPI_TELEMETRY_OFF
from ..http.runtime import Runtime
from ..http.slice import MountedApplication, ServiceRegistry, Slice
from . import live_updates, sign_in
from .activity import ActivitySampler
from .console_sessions import COOKIES_STATE_KEY, ConsoleSessions, EndedSessions, session_key
from .openid_provider import OpenIdProvider, ProviderUnavailable, SignInRefused
from .page_dependencies import ConsoleContext, PageRequest, SignInNeeded, page_request_of
from .pages import MENU, PAGE_MODULES
from .rendering import IMMUTABLE_CACHE_CONTROL, PageRenderer, StaticAssets, template_environment
from .sign_in import SIGN_IN_PATH

_log = structlog.get_logger(__name__)


async def _sign_in_needed(console: ConsoleContext, request: Request, _: Exception) -> Response:
    part, stream = "hx-request" in request.headers, "text/event-stream" in request.headers.get("accept", "")
    if request.method == "GET" and not part and not stream:
        back = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"{SIGN_IN_PATH}?{urlencode({'next': back})}", 303)
    problem = ProblemDetails(401, SignInNeeded.code, "Signed out", "Your session has ended. Sign in and repeat this.")
    answer = await _problem_page(console, request, problem)
    if part:
        answer.headers["HX-Redirect"] = SIGN_IN_PATH
    return answer


async def _failed(console: ConsoleContext, request: Request, error: Exception) -> Response:
    """Return the page about an error, without internal detail."""
    problem: ProblemDetails | None = None
    match error:
        case SignInRefused():
            problem = ProblemDetails(403, error.code, "Sign-in failed", _as_sentence(error))
        case ProviderUnavailable():
            members = {"code": error.code, "error": str(error)}
            console.failed_sign_ins.write(_log.warning, "console sign-in is not possible", **members)
            effect = "People cannot sign in until then; those who are signed in stay signed in."
            problem = ProblemDetails(503, error.code, "Sign-in is not possible now", f"{_as_sentence(error)} {effect}")
        case TrustwatchError():
            problem = console.services.get(ProblemTable).problem_of(error)
            console.services.get(RefusedCallers).tell_of(request.scope, problem.code, problem.detail)
        case RequestValidationError():
            problem = invalid_request(error)
        case HTTPException(status_code=404):
            detail = "The link may be old, or its object is no longer kept."
            problem = ProblemDetails(404, "http", "Page not found", detail, dict(error.headers or {}))
        case HTTPException(status_code=status):
            title, headers = HTTPStatus(status).phrase, dict(error.headers or {})
            problem = ProblemDetails(status, "http", title, str(error.detail), headers)
    if problem is None or (isinstance(error, TrustwatchError) and problem.status == 500):
        error_id = console.runtime.new_id()
        trace = "".join(traceback.format_exception(error))  # no local variables: one of them may be a cookie
        _log.error("request_failed", error_id=error_id, error=type(error).__name__, traceback=trace)
        problem = internal_problem(error_id)
    return await _problem_page(console, request, problem)


async def _problem_page(console: ConsoleContext, request: Request, problem: ProblemDetails) -> Response:
    visit: PageRequest | None = getattr(request.state, "visit", None)
    if visit is None:  # of a page that does not exist: the menu stays for people who are signed in
        with suppress(SignInNeeded, Unavailable):
            visit = await page_request_of(request, quiet=True)
    answer = console.renderer.page(request, "problem.html", visit, problem.status, problem=problem)
    for name, value in problem.headers.items():
        if name.lower() != "www-authenticate":  # people sign in by pages, not by headers
            answer.headers[name] = value
    return answer


def _as_sentence(error: TrustwatchError) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
"""Nothing from elsewhere, nothing inline."""


@dataclass(eq=False, repr=False)
class SecurityHeadersMiddleware:
    """Adds security headers to the console's answers."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
                headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
                headers.setdefault("Cache-Control", "no-store")
                for cookie in scope.get("state", {}).get(COOKIES_STATE_KEY, ()):
                    headers.append("Set-Cookie", cookie)
            await send(message)

        await self.app(scope, receive, headed)


CONSOLE_ROOT: Final = "/console"


@dataclass(eq=False, repr=False)
class ConsoleApplication:
    """Runs the console of an application and its background tasks. Raises ConfigError if its key cannot be read."""

    services: ServiceRegistry

    path = CONSOLE_ROOT

    def __post_init__(self) -> None:
        self._console = console = _build_console(self.services)
        self._tasks: list[asyncio.Task[None]] = []
        app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, telemetry=FASTAPI_TELEMETRY_OFF)
        app.state.console, app.state.services = console, console.services

        @app.get("/static/{path:path}")
        async def static(path: str, v: str = "") -> Response:
            asset = console.renderer.assets.get(path)
            if asset is None:
                raise HTTPException(404)
            keep = IMMUTABLE_CACHE_CONTROL if v == asset.digest else "no-cache"
            return Response(asset.body, media_type=asset.media_type, headers={"Cache-Control": keep})

        for router in (sign_in.router, live_updates.router, *(page.router for page in PAGE_MODULES)):
            app.include_router(router)
        app.add_exception_handler(SignInNeeded, partial(_sign_in_needed, console))
        for kind in (TrustwatchError, RequestValidationError, HTTPException, Exception):
            app.add_exception_handler(kind, partial(_failed, console))
        self.app: ASGIApp = SecurityHeadersMiddleware(app)

    async def start(self) -> None:
        """Start sampling, and retrying failed writes."""
        self._tasks = [asyncio.create_task(run()) for run in (self._console.activity.run, self._console.ended.run)]

    async def close(self) -> None:
        """Stop sampling, write what is pending, and close connections."""
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self._console.ended.save_waiting()
        if self._console.provider is not None:
            await self._console.provider.close()


def _build_console(services: ServiceRegistry) -> ConsoleContext:
    runtime = services.get(Runtime)
    settings, listen = runtime.settings.console, runtime.settings.listen
    sessions = ConsoleSessions(
        session_key(settings, runtime.settings.data_dir),
        runtime.clock,
        secure=listen.url().startswith("https:"),
        port=listen.port,
    )
    provider = None
    if settings.oidc is not None:
        rules, ca_file = runtime.settings.verification, runtime.settings.outgoing.ca_file
        clocks = runtime.clock, runtime.new_id, runtime.monotonic
        provider = OpenIdProvider(settings.oidc, rules, listen.url() + sign_in.CALLBACK_PATH, *clocks, ca_file)
    return ConsoleContext(
        services,
        sessions,
        EndedSessions(runtime.store.metadata, runtime.clock),
        provider,
        PageRenderer(StaticAssets(), MENU, runtime.now_ms),
        ActivitySampler(runtime),
        LineLimit(runtime.monotonic),
    )


router = APIRouter(include_in_schema=False)

_environment = template_environment()
_rendering = threading.Lock()
_STYLE = (Path(__file__).parent / "templates" / "api.css").read_text(encoding="utf-8")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'sha256-"
    f"{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@router.get("/docs", dependencies=[declared(AnyCallerUnlessLocal)])
def get_docs(request: Request) -> HTMLResponse:
    """From this machine, or with any valid token, as `/openapi.json`. Rendered once: the document does not change."""
    state = request.app.state
    with _rendering:
        if not hasattr(state, "docs_page"):
            state.docs_page = _render_docs(request.app.openapi()).encode()
    return HTMLResponse(state.docs_page, headers=_HEADERS)


def _render_docs(document: dict[str, Any]) -> str:
    """Render the page of an OpenAPI document: operations by group, then schemas."""
    groups: dict[str, list[dict[str, Any]]] = {tag["name"]: [] for tag in document["tags"]}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            groups[operation["tags"][0]].append({**operation, "method": method.upper(), "path": path})
    return _environment.get_template("api.html").render(
        info=document["info"],
        style=_STYLE,
        tags={tag["name"]: tag["description"] for tag in document["tags"]},
        groups=groups,
        schemas=document["components"]["schemas"],
        proofs=document["components"]["securitySchemes"],
        kind=_kind_of,
        named=_schema_name,
        as_json=lambda value: json.dumps(value, indent=2, ensure_ascii=False),
    )


def _schema_name(schema: dict[str, Any]) -> str:
    """Return the name of the schema, or of its items or first alternative; "" if it has none."""
    if "$ref" in schema:
        return str(schema["$ref"]).removeprefix(SCHEMA_REF_PREFIX)
    for below in (schema.get("items"), *schema.get("anyOf", ()), *schema.get("oneOf", ())):
        if isinstance(below, dict) and (name := _schema_name(below)):
            return name
    return ""


def _kind_of(schema: dict[str, Any]) -> str:
    """Describe a schema in a few words.

    >>> _kind_of({"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]})
    'array of string or null'
    """
    if "$ref" in schema:
        return _schema_name(schema)
    for name in ("anyOf", "oneOf"):
        if name in schema:
            return " or ".join(dict.fromkeys(map(_kind_of, schema[name])))
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if schema.get("type") == "array":
        return f"array of {_kind_of(schema.get('items') or {})}"
    return str(schema.get("type", "any"))


def _applications(services: ServiceRegistry) -> Sequence[MountedApplication]:
    enabled = services.get(Runtime).settings.console.enabled
    return (ConsoleApplication(services),) if enabled else ()


SLICE = Slice("console", routers=(router,), applications=_applications)
