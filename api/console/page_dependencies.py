"""Dependencies of every page: the console, and the person with the scope it needs. Unsafe requests prove their origin.

`require(scope)` is the only way to a caller. It checks the form token of every request except GET, so that no route can
forget it.
"""
# No postponed annotations: FastAPI cannot resolve them in these objects.

import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import parse_qsl, urlsplit

from fastapi import Depends, Query, Request
from starlette.responses import Response

from trustwatch.ingest.errors import TrustwatchError
from trustwatch.scoring.store.read_scope import restrict_reads

from ..http.auth.callers import SCOPE_ADMIN, SCOPE_FEEDBACK, SCOPE_SCORE_READ, AuthenticatedCaller
from ..http.problems import ProblemDetails, ProblemError, invalid_value_error
from ..http.refused_callers import CALLER_OF_REQUEST, LineLimit
from ..http.runtime import Runtime
from ..http.slice import ServiceRegistry
from .activity import ActivitySampler
from .console_sessions import ConsoleSession, ConsoleSessions, EndedSessions, session_caller
from .openid_provider import OpenIdProvider
from .rendering import PageRenderer

T = TypeVar("T")
Cursor = Annotated[str, Query(max_length=8192)]
Text = Annotated[str, Query(max_length=2048)]
TimeText = Annotated[str, Query(max_length=64)]  # Parameters of pages

FORM_TOKEN: Final = "csrf_token"  # noqa: S105 - the name of a field
FORM_HEADER: Final = "x-csrf-token"
MAX_FORM_SIZE = 64 * 1024
MAX_FORM_FIELDS = 100
SAFE_METHODS = ("GET", "HEAD")
BACKGROUND_HEADER: Final = "x-console-live"
"""Header of requests that a page makes automatically: they do not count as use of a session. Nor does its live stream,
which a browser opens again whenever it breaks, and which can have no header."""


class SignInNeeded(TrustwatchError):
    """Raised for a request without a session; pages redirect to the sign-in."""

    code = "sign_in_needed"


@dataclass(frozen=True)
class ConsoleContext:
    """Dependencies of pages; in `app.state.console`."""

    services: ServiceRegistry
    sessions: ConsoleSessions
    ended: EndedSessions
    provider: OpenIdProvider | None
    renderer: PageRenderer
    activity: ActivitySampler
    failed_sign_ins: LineLimit  # limits their log lines: any client can cause them
    streams: dict[object, str] = field(default_factory=dict)  # open streams of changes, and whose they are

    @property
    def runtime(self) -> Runtime:
        return self.services.get(Runtime)


@dataclass(frozen=True)
class PageRequest:
    """A request of a signed-in person. `form_token` goes into every form."""

    request: Request
    console: ConsoleContext
    runtime: Runtime
    session: ConsoleSession
    caller: AuthenticatedCaller
    form_token: str

    @property
    def is_part(self) -> bool:
        """Whether a script requests a part of a page."""
        return "hx-request" in self.request.headers

    def has(self, scope: str) -> bool:
        """Return whether the person has *scope*."""
        return scope in self.caller.scopes

    def get(self, kind: type[T]) -> T:
        """Return the service of that type. Raises MissingService."""
        return self.console.services.get(kind)

    def find(self, kind: type[T]) -> T | None:
        """Return the service of that type, or None if this process has none."""
        return self.console.services.find(kind)

    def render(self, template: str, status: int = 200, **values: Any) -> Response:
        """Render a template as an answer; see `PageRenderer.page`."""
        return self.console.renderer.page(self.request, template, self, status, **values)


def console_of(request: Request) -> ConsoleContext:
    """Return the console that serves *request*."""
    console = request.app.state.console
    assert isinstance(console, ConsoleContext)
    return console


async def read_form(request: Request) -> Mapping[str, str]:
    """Read the form in the request body once. If a field occurs twice, the first value counts.

    Raises ProblemError (413).
    """
    parsed: Mapping[str, str] | None = getattr(request.state, "form", None)
    if parsed is not None:
        return parsed
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_SIZE:
            raise ProblemError(
                ProblemDetails(413, "body_too_large", "Too large", f"a form may have {MAX_FORM_SIZE} bytes")
            )
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_FORM_FIELDS)
    except ValueError:
        raise ProblemError(ProblemDetails(400, "invalid_form", "Invalid form", "the form cannot be read")) from None
    form: dict[str, str] = {}
    for name, value in pairs:
        form.setdefault(name, value)
    request.state.form = form
    return form


def number_of_form(form: Mapping[str, str], name: str, default: str = "") -> float:
    """Return a number from a form. Raises ProblemError (422)."""
    try:
        return float(form.get(name, default))
    except ValueError:
        raise invalid_value_error(name, "is not a number") from None


async def page_request_of(request: Request, *, quiet: bool = False) -> PageRequest:
    """Return the request of the signed-in person; a *quiet* one is not an action of the person.

    Raises SignInNeeded, Unavailable.
    """
    console = console_of(request)
    session = console.sessions.read(request)
    caller = None if session is None else session_caller(session, console.runtime.settings.console)
    if session is None or caller is None or await console.ended.has_ended(session):
        raise SignInNeeded("no person is signed in")
    if not quiet and BACKGROUND_HEADER not in request.headers:
        renewed = console.sessions.renew(session)
        if renewed is not None:
            console.sessions.write(request, renewed)
            session = renewed
    visit = PageRequest(request, console, console.runtime, session, caller, console.sessions.form_token(session))
    request.state.visit = visit
    request.scope[CALLER_OF_REQUEST] = caller
    restrict_reads(caller.read_scope)
    return visit


async def check_form_origin(request: Request, visit: PageRequest) -> None:
    """Raise ProblemError (403) unless an unsafe request comes from a page of this session."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    own = f"{request.url.scheme}://{request.headers.get('host', '')}"
    public = "{0.scheme}://{0.netloc}".format(urlsplit(console_of(request).runtime.settings.listen.url()))
    elsewhere = site != "same-origin" if site is not None else origin not in (None, own, public)
    given = request.headers.get(FORM_HEADER) or (await read_form(request)).get(FORM_TOKEN, "")
    if elsewhere or not hmac.compare_digest(given.encode(errors="replace"), visit.form_token.encode()):
        detail = "the request does not come from a page of this session; load the page again, then repeat it"
        raise ProblemError(ProblemDetails(403, "form_token", "Not from this page", detail))


def require_console_scope(scope: str, *, quiet: bool = False) -> Callable[[Request], Awaitable[PageRequest]]:
    """Dependency: the request of a person with *scope* ("" = any signed-in person).

    *quiet* as for `page_request_of`.
    """

    async def visit(request: Request) -> PageRequest:
        page_request = await page_request_of(request, quiet=quiet)
        if request.method not in SAFE_METHODS:
            await check_form_origin(request, page_request)
        if scope:
            page_request.caller.require(scope)
        return page_request

    return visit


ConsoleDep = Annotated[ConsoleContext, Depends(console_of)]
FormDep = Annotated[Mapping[str, str], Depends(read_form)]
PageReaderDep = Annotated[PageRequest, Depends(require_console_scope(SCOPE_SCORE_READ))]
PageReviewerDep = Annotated[PageRequest, Depends(require_console_scope(SCOPE_FEEDBACK))]
PageAdministratorDep = Annotated[PageRequest, Depends(require_console_scope(SCOPE_ADMIN))]
