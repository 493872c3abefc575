"""Problem documents (RFC 9457) and authentication challenges (RFC 6750).

`problem_of` maps the errors that every part of the service knows to HTTP; a slice adds its own (`Slice.problems`). It
needs no framework, so that the bare ASGI routes answer with the same text; `install_problem_handlers` gives it to
FastAPI or Starlette.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

import msgspec
import structlog
from fastapi.exceptions import RequestValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Scope, Send

from trustwatch.ingest.errors import Fenced, MalformedEvent, SourceNotAllowed, TrustwatchError, Unavailable

from .auth.callers import InsufficientScope, TenantNotAllowed
from .auth.proof_of_possession import DPOP_ALGORITHMS, ProofRefused
from .auth.token_verification import AuthenticationFailed, BadAuthorization, InvalidToken, MissingToken
from .refused_callers import RefusedCallers

CONTENT_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:trustwatch:problem:"
REALM = "trustwatch"
RETRY_AFTER_S = 1
CLIENT_CLOSED_REQUEST = 499
"""Status, only in metrics, of a request whose client disconnected before its body was complete."""

_log = structlog.get_logger(__name__)


class MissingService(Unavailable):
    """This process does not have the service that a request needs. Answered with 503."""


class SignedAnswersMissing(TrustwatchError):
    """The client accepts only a signed answer, and the service has no keys. Answered with 406."""

    code = "not_acceptable"


class ProblemDetails(msgspec.Struct, frozen=True):
    """An error answer. `members` are extension members of RFC 9457."""

    status: int
    code: str
    title: str
    detail: str
    headers: Mapping[str, str] = {}
    members: Mapping[str, Any] = {}

    def body(self) -> bytes:
        """Return the document as JSON. Extension members never replace a member of RFC 9457."""
        fixed = {
            "type": TYPE_PREFIX + self.code,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        return msgspec.json.encode({**self.members, **fixed})


class ProblemError(TrustwatchError):
    """A route answers with a specific problem (not found, too large, too many requests, …)."""

    def __init__(self, problem: ProblemDetails) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.code = problem.code


def invalid_value_error(name: str, reason: str) -> ProblemError:
    """Return a 422 for one invalid value, in the form that `invalid_request` uses for a body."""
    errors = [{"path": f"$.{name}", "reason": reason}]
    detail = f"{name}: {reason}"
    return ProblemError(ProblemDetails(422, "invalid_request", "Invalid request", detail, members={"errors": errors}))


ProblemMaker = Callable[[Any], ProblemDetails]
"""The answer to an error of one type."""


class ProblemTable:
    """Maps errors to answers: those of slices first, then those of the whole service."""

    def __init__(self, makers: Mapping[type[TrustwatchError], ProblemMaker] = MappingProxyType({})) -> None:
        self._makers = makers

    def problem_of(self, error: TrustwatchError) -> ProblemDetails:
        for kind in type(error).__mro__:
            if (maker := self._makers.get(kind)) is not None:
                return maker(error)
        return problem_of(error)


def bearer_challenge(error: str = "", description: str = "", realm: str = REALM, **more: str) -> str:
    """Return the value of WWW-Authenticate (RFC 6750 section 3). Without *error* it is the bare challenge for a missing
    token."""
    return "Bearer " + _parameters(realm=realm, error=error, error_description=description, **more)


def proof_challenge(error: ProofRefused, realm: str) -> str:
    """Return the value of WWW-Authenticate for a bound token without its proof (RFC 9449 section 7.1, RFC 8705)."""
    algorithms = " ".join(DPOP_ALGORITHMS) if error.scheme == "DPoP" else ""
    given = _parameters(realm=realm, error=error.error, error_description=str(error), algs=algorithms)
    return f"{error.scheme} {given}"


def _parameters(**given: str) -> str:
    """Return the parameters that are not empty, with only the characters that RFC 6750 allows."""
    allowed = {
        name: "".join(sign if " " <= sign <= "~" and sign not in '"\\' else "'" for sign in value)
        for name, value in given.items()
        if value
    }
    return ", ".join(f'{name}="{value}"' for name, value in allowed.items())


def problem_of(error: TrustwatchError) -> ProblemDetails:
    """Return the answer to *error*. Internal errors give no detail: their text is for the log."""
    match error:
        case ProblemError():
            return error.problem
        case AuthenticationFailed():
            return _authentication_problem(error)
        case InsufficientScope():
            headers = {"WWW-Authenticate": bearer_challenge(error.code, str(error), scope=error.scope)}
            return ProblemDetails(403, error.code, "Insufficient scope", str(error), headers, {"scope": error.scope})
        case SignedAnswersMissing():
            return ProblemDetails(406, error.code, "Not acceptable", str(error))
        case TenantNotAllowed():
            return ProblemDetails(403, error.code, "Tenant not allowed", str(error))
        case SourceNotAllowed():
            return ProblemDetails(403, error.code, "Source not allowed", error.reason, members={"path": error.path})
        case MalformedEvent():
            return ProblemDetails(400, error.code, "Malformed event", error.reason, members={"path": error.path})
        case MissingService():
            return ProblemDetails(503, Unavailable.code, "Unavailable", str(error))
        case Unavailable() | Fenced():
            detail = "the service cannot answer now; nothing was changed, try again"
            return ProblemDetails(503, Unavailable.code, "Unavailable", detail, {"Retry-After": str(RETRY_AFTER_S)})
        case _:
            return internal_problem()


def _authentication_problem(error: AuthenticationFailed) -> ProblemDetails:
    match error:
        case MissingToken():
            headers = {"WWW-Authenticate": bearer_challenge()}
            return ProblemDetails(401, error.code, "Authentication required", str(error), headers)
        case BadAuthorization():
            headers = {"WWW-Authenticate": bearer_challenge(error.code, str(error))}
            return ProblemDetails(400, error.code, "Invalid request", str(error), headers)
        case ProofRefused():
            headers = {"WWW-Authenticate": proof_challenge(error, REALM)}
            headers |= {"DPoP-Nonce": error.nonce} if error.nonce else {}
            return ProblemDetails(401, error.error, "Invalid proof", str(error), headers)
        case _:
            headers = {"WWW-Authenticate": bearer_challenge(InvalidToken.code, str(error))}
            return ProblemDetails(401, InvalidToken.code, "Invalid token", str(error), headers)


def internal_problem(error_id: str = "") -> ProblemDetails:
    """Return a 500 without any internal detail; *error_id* finds the log line."""
    detail = "the service failed to answer" + (f"; quote {error_id} to its operator" if error_id else "")
    members = {"error_id": error_id} if error_id else {}
    return ProblemDetails(500, TrustwatchError.code, "Internal error", detail, members=members)


def problem_of_failure(
    error: Exception, route: str, new_error_id: Callable[[], str], scope: Scope, refused_callers: RefusedCallers
) -> ProblemDetails:
    """Return the answer to an error of *route*. An unexpected error is logged under an ID, and the answer has only the
    ID."""
    problem = problem_of(error) if isinstance(error, TrustwatchError) else internal_problem()
    refused_callers.tell_of(scope, problem.code, problem.detail)
    if problem.status != HTTPStatus.INTERNAL_SERVER_ERROR:
        return problem
    return _logged_failure(error, new_error_id, route=route)


def error_members(error: Exception) -> dict[str, str]:
    """Return the members of a log line about an unexpected error. Local variables are left out: one of them may be a
    token."""
    return {"error": type(error).__name__, "traceback": "".join(traceback.format_exception(error))}


def _logged_failure(error: Exception, new_error_id: Callable[[], str], **members: str) -> ProblemDetails:
    error_id = new_error_id()
    _log.error("request_failed", error_id=error_id, **members, **error_members(error))
    return internal_problem(error_id)


def problem_response(problem: ProblemDetails) -> Response:
    """Return the problem as a Starlette response."""
    return Response(problem.body(), problem.status, dict(problem.headers), media_type=CONTENT_TYPE)


async def send_problem(problem: ProblemDetails, send: Send, *, with_body: bool) -> None:
    """Answer an ASGI request with *problem*, without a body if only the head was requested."""
    body = problem.body()
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in problem.headers.items()]
    headers += [
        (b"content-type", CONTENT_TYPE.encode()),
        (b"cache-control", b"no-store"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body if with_body else b""})


def encode_http_problem(problem: ProblemDetails) -> bytes:
    """Encode a whole HTTP answer that closes the connection, for requests that never reach the application."""
    body = problem.body()
    head = (
        f"HTTP/1.1 {problem.status} {problem.title}\r\nContent-Type: {CONTENT_TYPE}\r\nCache-Control: no-store\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode("latin-1") + body


def install_problem_handlers(
    app: Starlette, problems: ProblemTable, new_error_id: Callable[[], str], refused_callers: RefusedCallers
) -> None:
    """Answer every failure of *app* with a problem document."""

    async def ours(request: Request, error: Any) -> Response:
        problem = problems.problem_of(error)
        refused_callers.tell_of(request.scope, problem.code, problem.detail)
        failed = problem.status == HTTPStatus.INTERNAL_SERVER_ERROR
        return problem_response(_logged_failure(error, new_error_id) if failed else problem)

    async def invalid(_: Request, error: Any) -> Response:
        return problem_response(invalid_request(error))

    async def refused(_: Request, error: Any) -> Response:
        phrase = HTTPStatus(error.status_code).phrase
        code = phrase.lower().replace(" ", "_").replace("-", "_")
        headers = dict(error.headers or {})
        return problem_response(ProblemDetails(error.status_code, code, phrase, str(error.detail), headers))

    async def gone(_: Request, __: Exception) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)

    async def unexpected(_: Request, error: Exception) -> Response:
        return problem_response(_logged_failure(error, new_error_id))

    app.add_exception_handler(TrustwatchError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(Exception, unexpected)


def invalid_request(error: RequestValidationError) -> ProblemDetails:
    """Return a 422 with the place and reason of each invalid part. The input is not repeated."""
    errors = []
    for item in error.errors():
        # `("body", "agents", 0, "id")` is `$.agents[0].id`; parameters keep their kind: `query.tenant`.
        kind, *steps = item["loc"] or ("body",)
        path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
        errors.append({"path": ("$" if kind == "body" else str(kind)) + path, "reason": item["msg"]})
    first = errors[0] if errors else {"path": "$", "reason": "is not valid"}
    detail = f"{first['path']}: {first['reason']}"
    return ProblemDetails(422, "invalid_request", "Invalid request", detail, members={"errors": errors})
