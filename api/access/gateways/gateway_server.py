"""Checks for gateways on bare ASGI: `/ext-authz…` (Envoy), `/forward-auth` (all others), `/introspect`.

Every call of an agent waits for the answer, so it takes the short way that the risk answer takes
(`api/http/fast_path.py`). The token is verified once and remembered; the verdict is asked for at every call, so that a
token of an agent that has just turned critical is refused at the very next one.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from trustwatch.scoring.policy.access_evaluation import OUTSIDE_BOUNDARY, STEP_UP, UNDECIDED
from trustwatch.scoring.policy.book import LivePolicy

from ...events.audit_sink import ProofReports
from ...http.auth.proof_of_possession import UNBOUND, ProofRefused, ProofVerifier
from ...http.auth.token_verification import AuthenticationFailed, InvalidToken, MissingToken, UnknownKey
from ...http.refused_callers import RefusedCallers
from ...http.request_ids import request_id_of
from ...settings.enforcement_settings import GatewaySettings
from ..decision_point import AccessDecision, PolicyDecisionPoint
from .gateway_decider import GatewayDecider
from .gateway_issuers import GatewayIssuers, TokenHolder
from .gateway_protocol import (
    EXT_AUTHZ_PREFIX,
    GatewayResponse,
    GatewayResponses,
    call_target,
    forwarded_method,
    forwarded_target,
    mcp_action,
    presented_token,
    shown_proof,
    single_header,
)
from .introspection import INTROSPECTION_ROUTE, IdentifyIntrospectionCaller, IntrospectionEndpoint

FORWARD_AUTH_PATH, INTROSPECT_PATH = b"/forward-auth", b"/introspect"
GATEWAY_ROUTES = {"ext_authz": "/ext-authz/{path}", "forward_auth": "/forward-auth", INTROSPECTION_ROUTE: "/introspect"}

GatewayMeter = Callable[[str, str, int, str, float], None]
"""Counts an answer: way, route, status, kind of answer, seconds."""

_log = structlog.get_logger(__name__)


class GatewayServerDependencies(NamedTuple):
    """Dependencies of the checks of gateways.

    Attributes:
        issuers: whose tokens agents present; started and closed by the application.
        decision_point: decides and records.
        live_policy: the book in force.
        identify: the caller of a request, by its access token.
        clock: seconds since 1970.
        monotonic: seconds, for durations.
        meter: counts every answer.
        new_id: text that never repeats.
        proofs: judges proofs of possession, where the settings want that here.
        proof_reports: told of those that fail.
        refused_callers: told of tokens that are not accepted, and of callers that reach beyond their entry.
    """

    issuers: GatewayIssuers
    decision_point: PolicyDecisionPoint
    live_policy: LivePolicy
    identify: IdentifyIntrospectionCaller
    clock: Callable[[], float]
    monotonic: Callable[[], float]
    meter: GatewayMeter
    new_id: Callable[[], str]
    proofs: ProofVerifier
    proof_reports: ProofReports
    refused_callers: RefusedCallers


class GatewayServer:
    """ASGI handler of the checks of gateways."""

    def __init__(self, settings: GatewaySettings, dependencies: GatewayServerDependencies) -> None:
        self._dependencies = dependencies
        self._verifier = dependencies.issuers.verifier
        self._dpop, self._verifies_certificates = settings.dpop, settings.mtls == "verify"
        self._responses = GatewayResponses(settings)
        self._decider = GatewayDecider(
            settings,
            dependencies.decision_point,
            dependencies.live_policy,
            dependencies.issuers.revoker,
            lambda: int(dependencies.clock() * 1000),
        )
        self._introspection = IntrospectionEndpoint(
            settings,
            dependencies.issuers,
            self._decider,
            dependencies.identify,
            dependencies.proofs,
            dependencies.proof_reports,
            dependencies.refused_callers,
        )

    def route_of(self, path: bytes) -> str:
        """The way by which a path, percent-encoded as it came, asks; "" = it is none of ours.

        Envoy appends the path of the call to the prefix as it came, so whatever follows that prefix is a check: no
        `..`, `//` or `%2F` in it leads anywhere else.
        """
        if path.startswith(EXT_AUTHZ_PREFIX):
            return "ext_authz"
        if path in (FORWARD_AUTH_PATH, FORWARD_AUTH_PATH + b"/"):
            return "forward_auth"
        return INTROSPECTION_ROUTE if path == INTROSPECT_PATH else ""

    def find_handler(self, path: bytes) -> ASGIApp | None:
        """This server by the way that *path* asks; None where it asks nothing of a gateway."""
        way = self.route_of(path)
        return partial(self, way) if way else None

    def template(self, path: bytes) -> str:
        """See `FastRoute`."""
        return GATEWAY_ROUTES[self.route_of(path)]

    async def __call__(self, way: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request that came by *way*."""
        start = self._dependencies.monotonic()
        try:
            answer = await (
                self._introspection.answer(scope, receive) if way == INTROSPECTION_ROUTE else self._check(way, scope)
            )
        except Exception as error:
            answer = self._failure_response(way, scope, error)
        if answer is None:
            return
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer.body})
        self._dependencies.meter(
            way, GATEWAY_ROUTES[way], answer.status, answer.kind, self._dependencies.monotonic() - start
        )

    async def _check(self, way: str, scope: Scope) -> GatewayResponse:
        try:
            token, dpop = presented_token(scope)
            holder = await self._token_holder(token)
            self._check_binding(way, scope, holder, token, dpop=dpop)
        except ProofRefused as refused:
            return self._responses.unproven(self._request_id(scope), refused)
        except MissingToken:
            return self._responses.unauthenticated(self._request_id(scope), "", "")
        except UnknownKey as unknown:
            if self._dependencies.issuers.jwks.keys(unknown.issuer) is None:
                self._decider.count_unverifiable(way, unknown.issuer)
                return self._responses.denied(self._request_id(scope), "no_keys")
            return self._unauthenticated_response(way, scope, unknown)
        except AuthenticationFailed as error:
            return self._unauthenticated_response(way, scope, error)
        method = scope["method"] if way == "ext_authz" else forwarded_method(scope)
        action = mcp_action(scope)
        decided = await self._decider.decide_call(holder, token, method, way, action)
        if decided.verdict.allow and not self._decider.records_all and not decided.verdict.outside:
            return self._allowed_response(decided)
        done = action if decided.verdict.outside else method
        return self._recorded_response(way, scope, holder, decided, done)

    async def _token_holder(self, token: bytes) -> TokenHolder:
        try:
            return self._verifier.verify_now(token)
        except UnknownKey:
            return await self._verifier.verify(token)

    def _check_binding(self, way: str, scope: Scope, holder: TokenHolder, token: bytes, *, dpop: bool) -> None:
        """Raise InvalidToken unless the call has everything that its token is bound to, as far as we check that."""
        if dpop and self._dpop == "refuse":
            raise InvalidToken("the scheme DPoP is not accepted here; present the token as Bearer")
        bound, verifies = holder.bound_to, self._dpop == "verify"
        if bound.jkt and not dpop and not verifies:
            raise InvalidToken("the token is bound to a key and may not be presented as Bearer")
        checked = bound._replace(
            jkt=bound.jkt if verifies else "", x5t=bound.x5t if self._verifies_certificates else ""
        )
        shown = shown_proof(way, scope, dpop=dpop and verifies)
        if checked == UNBOUND and not shown.is_dpop:
            return
        proofs = self._dependencies.proofs
        certificate = proofs.certificate_of(scope["headers"], (scope.get("client") or ("",))[0])
        agent = holder.access_request
        try:
            proofs.check(checked, token, shown._replace(certificate=certificate), (agent.issuer, agent.agent_id))
        except ProofRefused as refused:
            self._dependencies.proof_reports.report(way, agent.tenant, agent.issuer, agent.agent_id, refused)
            raise

    def _allowed_response(self, decided: AccessDecision) -> GatewayResponse:
        verdict = decided.verdict
        return (
            self._responses.allowed_undecided if verdict.reason == UNDECIDED else self._responses.allowed(verdict.level)
        )

    def _recorded_response(
        self, way: str, scope: Scope, holder: TokenHolder, decided: AccessDecision, action: str
    ) -> GatewayResponse:
        if way == "ext_authz":
            called = call_target(single_header(scope, b"host"), scope["raw_path"][len(EXT_AUTHZ_PREFIX) :])
        else:
            called = forwarded_target(scope)
        self._decider.record(decided, holder.access_request, way, "api.call", action, called)
        verdict = decided.verdict
        if verdict.allow:
            return self._allowed_response(decided)
        if verdict.step_up and verdict.reason in (STEP_UP, OUTSIDE_BOUNDARY):
            return self._responses.step_up(self._request_id(scope), decided.approval_id)
        return self._responses.denied(self._request_id(scope), "undecided" if verdict.reason == UNDECIDED else "denied")

    def _unauthenticated_response(self, way: str, scope: Scope, error: AuthenticationFailed) -> GatewayResponse:
        self._dependencies.refused_callers.tell_of_token(way, str(error))
        return self._responses.unauthenticated(self._request_id(scope), InvalidToken.code, str(error))

    def _request_id(self, scope: Scope) -> str:
        return request_id_of(scope, self._dependencies.new_id)

    def _failure_response(self, way: str, scope: Scope, error: Exception) -> GatewayResponse:
        """Nothing before the decision may fail; where it does all the same, nobody passes: no token is verified yet."""
        self._dependencies.decision_point.count_failure(way, fails_open=False)
        trace = "".join(traceback.format_exception(error))  # no local variables: one of them is a token
        _log.error("gateway_failed", via=way, error=type(error).__name__, traceback=trace)
        return self._responses.denied(self._request_id(scope), "undecided")
