"""What every ordinary route depends on: the parts of the application, and the caller with the scope it needs."""
# No postponed annotations here: FastAPI reads them from objects that are no functions.

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Final, ParamSpec, TypeVar

import anyio
import anyio.to_thread
from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer

from ...ingest.errors import Unavailable
from ...scoring.store.interface import BadCursor
from ..agents.risk_answer_cache import RiskAnswerCache
from ..events.intake import EventIntake
from ..events.source_silence import SilenceDetector
from .auth.callers import SCOPE_ADMIN, SCOPE_FEEDBACK, SCOPE_INGEST, SCOPE_SCORE_READ, AuthenticatedCaller
from .auth.token_verification import MissingToken
from .fast_path import authenticate_request
from .problems import ProblemDetails, ProblemError
from .prometheus_metrics import ServiceMetrics
from .runtime import Runtime

P = ParamSpec("P")
T = TypeVar("T")

STORE_THREADS = 4
"""Threads that read the store for the API: lists may wait for each other, not hold up the pipeline."""

STORE_TIMEOUT_S = 15.0
"""Longest time that a request waits for the store."""

_FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-real-ip", "via")

bearer_scheme = HTTPBearer(
    auto_error=False, bearerFormat="JWT", description="access token (RFC 9068) of a configured issuer"
)


class StoreExecutor:
    """Calls the store in threads, a few at a time, and waits only so long."""

    def __init__(self, threads: int = STORE_THREADS, wait_s: float = STORE_TIMEOUT_S) -> None:
        self._limiter = anyio.CapacityLimiter(threads)
        self._wait_s = wait_s

    async def __call__(self, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of *read*.

        Raises:
            Unavailable: the store does not answer in time.
            ProblemError: 400, the cursor is none of ours.
        """
        call = partial(read, *args, **kwargs)
        try:
            with anyio.fail_after(self._wait_s):
                return await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._limiter)
        except TimeoutError:
            raise Unavailable("the store does not answer in time") from None
        except BadCursor as error:
            raise ProblemError(ProblemDetails(400, error.code, "Invalid cursor", str(error))) from None


@dataclass(frozen=True)
class ApplicationContext:
    """What routes work with; one per application, in `app.state.parts`."""

    runtime: Runtime
    risk_answers: RiskAnswerCache
    event_intake: EventIntake
    metrics: ServiceMetrics
    call_store: StoreExecutor
    silence_watch: SilenceDetector


def application_context_of(request: Request) -> ApplicationContext:
    """The parts of the application that serves *request*."""
    parts = request.app.state.parts
    assert isinstance(parts, ApplicationContext)
    return parts


class RequireScope:
    """A dependency: the caller, whose token must have *scope* ("" = any token that is valid)."""

    def __init__(self, scope: str) -> None:
        self.scope = scope

    async def __call__(self, request: Request, _: Annotated[Any, Security(bearer_scheme)]) -> AuthenticatedCaller:
        caller = await authenticate_request(application_context_of(request).runtime.verifier, request.scope)
        if self.scope:
            caller.require(self.scope)
        return caller


class RequireScopeUnlessLocal:
    """A dependency: requests from this machine pass, others need a token with *scope* ("" = any).

    A request that a proxy has passed on is not from this machine, wherever the proxy runs.
    """

    def __init__(self, scope: str) -> None:
        self._require_scope = RequireScope(scope)

    async def __call__(self, request: Request, credentials: Annotated[Any, Security(bearer_scheme)]) -> None:
        try:
            await self._require_scope(request, credentials)
        except MissingToken:
            if not _is_local(request):
                raise


def _is_local(request: Request) -> bool:
    if request.client is None or any(name in request.headers for name in _FORWARDED):
        return False
    try:
        return ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False


ContextDep = Annotated[ApplicationContext, Depends(application_context_of)]
ReaderDep = Annotated[AuthenticatedCaller, Depends(RequireScope(SCOPE_SCORE_READ))]
SenderDep = Annotated[AuthenticatedCaller, Depends(RequireScope(SCOPE_INGEST))]
ReviewerDep = Annotated[AuthenticatedCaller, Depends(RequireScope(SCOPE_FEEDBACK))]
AdministratorDep = Annotated[AuthenticatedCaller, Depends(RequireScope(SCOPE_ADMIN))]
