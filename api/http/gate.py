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
from ...scoring.store import BadCursor
from ..callers import ADMIN, FEEDBACK, INGEST, SCORE_READ, Caller
from ..edge import Door
from ..edge.silence import SilenceWatch
from ..problems import Problem, ProblemError
from ..tokens import MissingToken
from .answers import RiskAnswers
from .front import caller_of
from .metrics import Metrics
from .services import Services

P = ParamSpec("P")
T = TypeVar("T")

READERS = 4
"""Threads that read the store for the API: lists may wait for each other, not hold up the pipeline."""

READ_S = 15.0
"""Longest time that a request waits for the store."""

_FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-real-ip", "via")

bearer = HTTPBearer(auto_error=False, bearerFormat="JWT", description="access token (RFC 9068) of a configured issuer")


class StoreReader:
    """Calls the store in threads, a few at a time, and waits only so long."""

    def __init__(self, threads: int = READERS, wait_s: float = READ_S) -> None:
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
            raise ProblemError(Problem(400, error.code, "Invalid cursor", str(error))) from None


@dataclass(frozen=True)
class Parts:
    """What routes work with; one per application, in `app.state.parts`."""

    services: Services
    answers: RiskAnswers
    door: Door
    metrics: Metrics
    read: StoreReader
    silence: SilenceWatch


def parts_of(request: Request) -> Parts:
    """The parts of the application that serves *request*."""
    parts = request.app.state.parts
    assert isinstance(parts, Parts)
    return parts


class Requires:
    """A dependency: the caller, whose token must have *scope* ("" = any token that is valid)."""

    def __init__(self, scope: str) -> None:
        self.scope = scope

    async def __call__(self, request: Request, _: Annotated[Any, Security(bearer)]) -> Caller:
        caller = await caller_of(parts_of(request).services.verifier, request.scope)
        if self.scope:
            caller.require(self.scope)
        return caller


class LocalOr:
    """A dependency: requests from this machine pass, others need a token with *scope* ("" = any).

    A request that a proxy has passed on is not from this machine, wherever the proxy runs.
    """

    def __init__(self, scope: str) -> None:
        self._requires = Requires(scope)

    async def __call__(self, request: Request, credentials: Annotated[Any, Security(bearer)]) -> None:
        try:
            await self._requires(request, credentials)
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


Part = Annotated[Parts, Depends(parts_of)]
Reader = Annotated[Caller, Depends(Requires(SCORE_READ))]
Sender = Annotated[Caller, Depends(Requires(INGEST))]
Judge = Annotated[Caller, Depends(Requires(FEEDBACK))]
Admin = Annotated[Caller, Depends(Requires(ADMIN))]
