"""What every page depends on: the console, and the person with the scope it needs. Unsafe requests prove their origin.

`require(scope)` is the only way to a caller, and it checks the form token of everything that is no GET: a route can not
forget it.
"""
# No postponed annotations here: FastAPI reads them from objects that are no functions.

import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from fastapi import Depends, Request
from starlette.responses import Response

from ...ingest.errors import TrustwatchError
from ..callers import ADMIN, FEEDBACK, SCORE_READ, Caller
from ..http.gate import Parts
from ..problems import Problem, ProblemError
from .cookies import Cookies
from .figures import Figures
from .oidc import Provider
from .people import caller_of
from .render import Renderer
from .sessions import Session, Sessions

FORM_TOKEN: Final = "csrf_token"  # noqa: S105 - the name of a field
FORM_HEADER: Final = "x-csrf-token"
MOST_FORM = 64 * 1024
MOST_FIELDS = 100
SAFE = ("GET", "HEAD")
QUIET: Final = "x-console-live"
"""Header of requests that a page makes by itself: they do not count as use of a session. Nor does its live stream,
which a browser opens again whenever it breaks, and which can have no header."""


class SignInNeeded(TrustwatchError):
    """Nobody is signed in: pages lead to the sign-in."""

    code = "sign_in_needed"


class Visit(NamedTuple):
    """One request of a person who is signed in. `form_token` goes into every form."""

    session: Session
    caller: Caller
    form_token: str


@dataclass(frozen=True)
class Console:
    """What pages work with; in `app.state.console`."""

    parts: Parts
    sessions: Sessions
    cookies: Cookies
    provider: Provider | None
    renderer: Renderer
    figures: Figures
    streams: set[object] = field(default_factory=set)

    def page(self, request: Request, template: str, visit: Visit | None, status: int = 200, **values: Any) -> Response:
        """A template as an answer; see `Renderer.page`."""
        return self.renderer.page(request, template, visit, status, **values)


def console_of(request: Request) -> Console:
    """The console that serves *request*."""
    console = request.app.state.console
    assert isinstance(console, Console)
    return console


async def form_of(request: Request) -> Mapping[str, str]:
    """The form in the body of a request, read once; of a field that comes twice the first counts.

    Raises:
        ProblemError: 413 or 400, it is too large or no form.
    """
    known: Mapping[str, str] | None = getattr(request.state, "form", None)
    if known is not None:
        return known
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_FORM:
            raise ProblemError(Problem(413, "body_too_large", "Too large", f"a form may have {MOST_FORM} bytes"))
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS)
    except ValueError:
        raise ProblemError(Problem(400, "invalid_form", "Invalid form", "the form can not be read")) from None
    form: dict[str, str] = {}
    for name, value in pairs:
        form.setdefault(name, value)
    request.state.form = form
    return form


def visit_of(request: Request, *, quiet: bool = False) -> Visit:
    """The visit of the person who is signed in, whatever it may do; *quiet* is none that a person made.

    Raises:
        SignInNeeded: nobody is signed in.
    """
    console = console_of(request)
    session = console.cookies.read(request)
    caller = None if session is None else caller_of(session, console.parts.services.settings.console)
    if session is None or caller is None:
        raise SignInNeeded("nobody is signed in")
    if not quiet and QUIET not in request.headers:
        renewed = console.sessions.renewed(session)
        if renewed is not None:
            console.cookies.write(request, renewed)
            session = renewed
    visit = Visit(session, caller, console.sessions.form_token(session))
    request.state.visit = visit
    return visit


async def check_form(request: Request, visit: Visit) -> None:
    """Raise ProblemError (403) unless an unsafe request comes from a page of this session."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    own = f"{request.url.scheme}://{request.headers.get('host', '')}"
    public = "{0.scheme}://{0.netloc}".format(urlsplit(console_of(request).parts.services.settings.listen.url()))
    elsewhere = site != "same-origin" if site is not None else origin not in (None, own, public)
    given = request.headers.get(FORM_HEADER) or (await form_of(request)).get(FORM_TOKEN, "")
    if elsewhere or not hmac.compare_digest(given.encode(errors="replace"), visit.form_token.encode()):
        detail = "the request does not come from a page of this session; load the page again, then repeat it"
        raise ProblemError(Problem(403, "form_token", "Not from this page", detail))


def require(scope: str, *, quiet: bool = False) -> Callable[[Request], Awaitable[Visit]]:
    """A dependency: the visit of a person with *scope* ("" = anybody who is signed in); *quiet* as for `visit_of`."""

    async def visit(request: Request) -> Visit:
        made = visit_of(request, quiet=quiet)
        if request.method not in SAFE:
            await check_form(request, made)
        if scope:
            made.caller.require(scope)
        return made

    return visit


Desk = Annotated[Console, Depends(console_of)]
Form = Annotated[Mapping[str, str], Depends(form_of)]
Looking = Annotated[Visit, Depends(require(SCORE_READ))]
Judging = Annotated[Visit, Depends(require(FEEDBACK))]
Administering = Annotated[Visit, Depends(require(ADMIN))]
