"""Checks for gateways on bare ASGI: `/ext-authz…` (Envoy), `/forward-auth` (all others), `/introspect`.

Every call of an agent waits for the answer, so it takes the short way that the risk answer takes (`api/http/front.py`).
The token is verified once and remembered; the verdict is asked for at every call, so that a token of an agent that has
just turned critical is refused at the very next one.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import NamedTuple

import structlog
from starlette.types import Receive, Scope, Send

from ...scoring.policy import LivePolicy
from ...scoring.policy.verdict import STEP_UP, UNDECIDED
from ..guard import Decided, Guard
from ..settings import GatewaySettings
from ..tokens import AuthenticationFailed, InvalidToken, MissingToken, UnknownKey
from .answers import Answer, Answers
from .asked import credential, forwarded_method, forwarded_target, header, request_id, target
from .holder import Holder
from .introspection import VIA, Identify, Introspection
from .issuers import GatewayIssuers
from .judging import Judging

EXT_AUTHZ, FORWARD_AUTH, INTROSPECT = b"/ext-authz", b"/forward-auth", b"/introspect"
ROUTES = {"ext_authz": "/ext-authz/{path}", "forward_auth": "/forward-auth", VIA: "/introspect"}

Meter = Callable[[str, str, int, str, float], None]
"""Told of every answer: way, route, status, kind of answer, seconds."""

_log = structlog.get_logger(__name__)


class Needs(NamedTuple):
    """What checks work with.

    Attributes:
        issuers: whose tokens agents present; started and closed by the application.
        guard: decides and records.
        policy: the book in force.
        identify: the caller of a request, by its access token.
        clock: seconds since 1970.
        monotonic: seconds, for durations.
        meter: told of every answer.
        new_id: text that never repeats.
    """

    issuers: GatewayIssuers
    guard: Guard
    policy: LivePolicy
    identify: Identify
    clock: Callable[[], float]
    monotonic: Callable[[], float]
    meter: Meter
    new_id: Callable[[], str]


class GatewayServer:
    """Answers gateways.

    Args:
        settings: of gateways.
        needs: what checks work with.
    """

    def __init__(self, settings: GatewaySettings, needs: Needs) -> None:
        self._needs = needs
        self._verifier = needs.issuers.verifier
        self._takes_dpop = settings.dpop == "gateway"
        self._answers = Answers(settings)
        self._judging = Judging(
            settings, needs.guard, needs.policy, needs.issuers.revoker, lambda: int(needs.clock() * 1000)
        )
        self._introspection = Introspection(settings, needs.issuers, self._judging, needs.identify)

    def way(self, path: bytes) -> str:
        """The way by which a path, percent-encoded as it came, asks; "" = it is none of ours.

        Envoy appends the path of the call to the prefix as it came, so whatever follows that prefix is a check: no
        `..`, `//` or `%2F` in it leads anywhere else.
        """
        if path.startswith(EXT_AUTHZ):
            return "ext_authz"
        if path in (FORWARD_AUTH, FORWARD_AUTH + b"/"):
            return "forward_auth"
        return VIA if path == INTROSPECT else ""

    async def __call__(self, way: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request that came by *way*."""
        start = self._needs.monotonic()
        try:
            answer = await (self._introspection.answer(scope, receive) if way == VIA else self._check(way, scope))
        except Exception as error:
            answer = self._failed(way, scope, error)
        if answer is None:
            return
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer.body})
        self._needs.meter(way, ROUTES[way], answer.status, answer.kind, self._needs.monotonic() - start)

    async def _check(self, way: str, scope: Scope) -> Answer:
        try:
            token, dpop = credential(scope)
            holder = await self._holder(token)
            self._check_scheme(holder, dpop=dpop)
        except MissingToken:
            return self._answers.unauthenticated(self._id(scope), "", "")
        except UnknownKey as unknown:
            if self._needs.issuers.jwks.keys(unknown.issuer) is None:
                self._judging.unverifiable(way, unknown.issuer)
                return self._answers.denied(self._id(scope), "no_keys")
            return self._unauthenticated(scope, unknown)
        except AuthenticationFailed as error:
            return self._unauthenticated(scope, error)
        method = scope["method"] if way == "ext_authz" else forwarded_method(scope)
        decided = self._judging.call(holder, token, method, way)
        if decided.verdict.allow and not self._judging.records_all:
            return self._allowed(decided)
        return self._noted(way, scope, holder, decided, method)

    async def _holder(self, token: bytes) -> Holder:
        try:
            return self._verifier.verified(token)
        except UnknownKey:
            return await self._verifier.verify(token)

    def _check_scheme(self, holder: Holder, *, dpop: bool) -> None:
        if dpop and not self._takes_dpop:
            raise InvalidToken("the scheme DPoP is not accepted here; present the token as Bearer")
        if holder.bound and not dpop:
            raise InvalidToken("the token is bound to a key and may not be presented as Bearer")

    def _allowed(self, decided: Decided) -> Answer:
        verdict = decided.verdict
        return self._answers.unjudged if verdict.reason == UNDECIDED else self._answers.allowed(verdict.level)

    def _noted(self, way: str, scope: Scope, holder: Holder, decided: Decided, method: str) -> Answer:
        if way == "ext_authz":
            called = target(header(scope, b"host"), scope["raw_path"][len(EXT_AUTHZ) :])
        else:
            called = forwarded_target(scope)
        self._judging.record(decided, holder.question, way, "api.call", method, called)
        verdict = decided.verdict
        if verdict.allow:
            return self._allowed(decided)
        if verdict.reason == STEP_UP:
            return self._answers.step_up(self._id(scope), decided.approval_id)
        return self._answers.denied(self._id(scope), "undecided" if verdict.reason == UNDECIDED else "denied")

    def _unauthenticated(self, scope: Scope, error: AuthenticationFailed) -> Answer:
        return self._answers.unauthenticated(self._id(scope), InvalidToken.code, str(error))

    def _id(self, scope: Scope) -> str:
        return request_id(scope) or self._needs.new_id()

    def _failed(self, way: str, scope: Scope, error: Exception) -> Answer:
        """Nothing before the guard may fail; where it does all the same, nobody passes: no token is verified yet."""
        self._needs.guard.failed(way, fails_open=False)
        trace = "".join(traceback.format_exception(error))  # no local variables: one of them is a token
        _log.error("gateway_failed", via=way, error=type(error).__name__, traceback=trace)
        return self._answers.denied(self._id(scope), "undecided")
