"""Checks for gateways on bare ASGI: `/ext-authz…` (Envoy), `/forward-auth` (all others), `/introspect`.

Every call of an agent waits for the answer, so it takes the short way that the risk answer takes
(`api/http/fast_path.py`). The token is verified once and remembered; the verdict is evaluated for every call, so that
the next call of an agent that has just become critical is refused.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import parse_qs, unquote_plus

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from trustwatch.api import clock
from trustwatch.ingest.errors import TrustwatchError
from trustwatch.ingest.settings import Secret
from trustwatch.scoring.policy.access_evaluation import OUTSIDE_BOUNDARY, STEP_UP, UNDECIDED

from ...events.audit_sink import ProofReports
from ...http.auth.bearer_tokens import authorization_header, presented_token
from ...http.auth.callers import SCOPE_DECIDE, AuthenticatedCaller
from ...http.auth.proof_of_possession import ProofRefused, ProofVerifier, ShownProof
from ...http.auth.token_verification import (
    MAX_TOKEN_BYTES,
    UNBOUND,
    AuthenticationFailed,
    InvalidToken,
    MissingToken,
    TokenBinding,
    UnknownKey,
    unverified_issuer,
)
from ...http.dependencies import authenticate_request
from ...http.fast_path import RequestBodyTooLong, read_request_body, request_id_of
from ...http.problems import error_members, problem_of
from ...http.prometheus_metrics import ServiceMetrics
from ...http.refused_callers import LineLimit, RefusedCallers
from ...http.runtime import Runtime
from ...http.slice import ServiceRegistry
from ...settings.access_settings import ANY_NAME
from ...settings.enforcement_settings import GatewayClientSettings, GatewaySettings
from ..decision_point import AccessDecision, PolicyDecisionPoint
from .gateway_checks import (
    AUTHORIZATION_NAME,
    EXT_AUTHZ_PREFIX,
    GatewayDecider,
    GatewayResponse,
    GatewayResponses,
    RawHeader,
    call_target,
    forwarded_method,
    forwarded_target,
    json_gateway_response,
    mcp_action,
    narrow_scope_claims,
    shown_proof,
    single_header,
)
from .gateway_issuers import GatewayIssuers, IntrospectionUnreachable, TokenHolder

_log = structlog.get_logger(__name__)

INTROSPECTION_ROUTE = "introspection"
MAX_FORM_BYTES = 64 * 1024
PROOF_FIELDS = ("dpop", "htm", "htu")
"""Fields of a form that holds a DPoP proof: the proof, and method and URL of the call that it came with."""
FORM_MEDIA_TYPE = b"application/x-www-form-urlencoded"
BASIC_CHALLENGE: RawHeader = (b"www-authenticate", b'Basic realm="introspection"')

_NOBODYS_SECRET = Secret(secrets.token_hex(32))
"""Compared with if no client has the given name."""


class IntrospectionClientRefused(TrustwatchError):
    """Raised if the client that requests introspection is not a configured gateway."""

    code = "invalid_client"


class UnreadableIntrospectionRequest(TrustwatchError):
    """Raised if the request does not conform to RFC 7662."""

    code = "invalid_request"


@dataclass(eq=False, repr=False)
class IntrospectionEndpoint:
    _settings: GatewaySettings
    _issuers: GatewayIssuers
    _decider: GatewayDecider
    _identify: Callable[[Scope], Awaitable[AuthenticatedCaller]]
    _proofs: ProofVerifier
    _proof_reports: ProofReports
    _refused_callers: RefusedCallers

    def __post_init__(self) -> None:
        self._tenant_of = {
            issuer.issuer: issuer.tenant if issuer.tenant_claim is None else None for issuer in self._settings.issuers
        }
        """Tenant by issuer; None if its tokens name it."""
        self._refusals = LineLimit(clock.monotonic)
        self._clients = {client.client_id: client for client in self._settings.clients}

    async def answer(self, scope: Scope, receive: Receive) -> GatewayResponse | None:
        """Return the answer to one request, or None if the client disconnected early."""
        if scope["method"] != "POST":
            return json_gateway_response(405, {"error": "invalid_request"}, "unreadable", (b"allow", b"POST"))
        try:
            tenants = await self._client_tenants(scope)
            fields = await _read_form(scope, receive)
            if fields is None:
                return None
            tokens = fields.get("token", ())
            if len(tokens) != 1 or not tokens[0]:
                raise UnreadableIntrospectionRequest("the form must have one `token`")
            return await self._answer(tokens[0].encode(), tenants, _proof_of_form(fields))
        except IntrospectionClientRefused as error:
            self._refusals.write(
                _log.warning, "a client may not introspect", code="introspection_client", why=str(error)
            )
            return json_gateway_response(401, {"error": "invalid_client"}, "unauthorized", BASIC_CHALLENGE)
        except UnreadableIntrospectionRequest as error:
            return json_gateway_response(400, {"error": error.code, "error_description": str(error)}, "unreadable")
        except IntrospectionUnreachable:
            if self._settings.on_unreachable == "inactive":
                return INACTIVE_RESPONSE._replace(kind="unreachable")
            retry_after = (b"retry-after", b"1")
            return json_gateway_response(503, {"error": "temporarily_unavailable"}, "unreachable", retry_after)
        except TrustwatchError as error:
            problem = problem_of(error)
            self._refused_callers.tell_of(scope, problem.code, problem.detail)
            headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in problem.headers.items()]
            return json_gateway_response(problem.status, {"error": problem.code}, "unauthorized", *headers)

    async def _client_tenants(self, scope: Scope) -> Collection[str]:
        """Return the tenants whose tokens the client may introspect. Raises IntrospectionClientRefused."""
        given = single_header(scope, AUTHORIZATION_NAME) or b""
        scheme, _, credentials = given.partition(b" ")
        if scheme.lower() == b"basic":
            tenants = self._authenticate_client(credentials.strip(b" ")).tenants
            return (ANY_NAME,) if tenants is None else tenants
        caller = await self._identify(scope)
        caller.require(SCOPE_DECIDE)
        return caller.tenants

    def _authenticate_client(self, credentials: bytes) -> GatewayClientSettings:
        """Return the client of `client_secret_basic`; both halves are form-encoded (RFC 6749, 2.3.1)."""
        try:
            user, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise IntrospectionClientRefused("the credentials are malformed") from None
        client = self._clients.get(unquote_plus(user))
        # Always compared, so that the time reveals no names of clients.
        right = (_NOBODYS_SECRET if client is None else client.secret).matches(unquote_plus(password).encode())
        if client is None or not right:
            raise IntrospectionClientRefused("the client is unknown, or its secret is wrong")
        return client

    async def _answer(self, token: bytes, tenants: Collection[str], shown: ShownProof | None) -> GatewayResponse:
        try:
            holder = await self._token_holder(token, tenants)
        except InvalidToken:
            return INACTIVE_RESPONSE
        question = holder.access_request
        if question.tenant not in tenants and ANY_NAME not in tenants:
            return INACTIVE_RESPONSE
        if shown is not None:
            name = question.issuer, question.agent_id
            try:
                self._proofs.check(TokenBinding(holder.bound_to.jkt), token, shown, name)
            except ProofRefused as refused:
                self._proof_reports.report(INTROSPECTION_ROUTE, question.tenant, *name, refused)
                return INACTIVE_RESPONSE
        decided = self._decider.decide_introspection(holder, token, INTROSPECTION_ROUTE)
        self._decider.record(decided, question, INTROSPECTION_ROUTE, "token.introspect", "introspect", "")
        if not decided.verdict.allow:
            return INACTIVE_RESPONSE._replace(kind="denied")
        members: dict[str, Any] = {**narrow_scope_claims(holder.decode_claims(), decided.verdict), "active": True}
        if holder.bound_to.jkt:
            members["token_type"] = "DPoP"  # noqa: S105 - a word of RFC 9449
        if self._settings.risk_claims and decided.verdict.policy_version:
            members |= decided.risk_claims()
        return json_gateway_response(200, members, "active")

    async def _token_holder(self, token: bytes, tenants: Collection[str]) -> TokenHolder:
        if len(token) > MAX_TOKEN_BYTES or not token.isascii():
            raise InvalidToken("the token is too long")
        try:
            issuer = unverified_issuer(token.decode())
        except InvalidToken:
            return await self._introspect_opaque(token, tenants)
        try:
            holder = await self._issuers.verifier.verify(token)
        except UnknownKey:
            if issuer in self._issuers.issuer_names and self._issuers.jwks.keys(issuer) is None:
                self._decider.count_unverifiable(INTROSPECTION_ROUTE, issuer)
                raise IntrospectionUnreachable("the issuer's keys are unavailable") from None
            raise
        client = self._issuers.introspection_clients.get(issuer)
        if client is None or client.settings.tokens != "all":
            return holder
        return self._issuers.holder_factory.from_introspection(
            issuer, {**holder.decode_claims(), **await client.introspect(token)}
        )

    async def _introspect_opaque(self, token: bytes, tenants: Collection[str]) -> TokenHolder:
        """Ask the issuers about an opaque token until one reports it as active.

        Only those of tenants that the client is authorized for: a live token must not reach another tenant's server.
        """
        unreachable: IntrospectionUnreachable | None = None
        for issuer, server in self._issuers.introspection_clients.items():
            tenant = self._tenant_of[issuer]
            if tenant is not None and tenant not in tenants and ANY_NAME not in tenants:
                continue
            try:
                return self._issuers.holder_factory.from_introspection(issuer, await server.introspect(token))
            except InvalidToken:
                continue
            except IntrospectionUnreachable as error:
                unreachable = error
        raise unreachable or InvalidToken("the token is not active")


async def _read_form(scope: Scope, receive: Receive) -> dict[str, list[str]] | None:
    """Return the fields of a form, or None if the client disconnected. Raises UnreadableIntrospectionRequest."""
    kind = (single_header(scope, b"content-type") or b"").partition(b";")[0].strip().lower()
    if kind != FORM_MEDIA_TYPE:
        raise UnreadableIntrospectionRequest("the body must be application/x-www-form-urlencoded")
    try:
        form = await read_request_body(receive, MAX_FORM_BYTES)
        if form is None:
            return None
        return parse_qs(form.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=16)
    except RequestBodyTooLong:
        raise UnreadableIntrospectionRequest(f"the body may have {MAX_FORM_BYTES} bytes") from None
    except ValueError:
        raise UnreadableIntrospectionRequest("the body is not a valid form") from None


def _proof_of_form(fields: Mapping[str, list[str]]) -> ShownProof | None:
    """Return the proof in a form and the call that it is for, or None if the form has no proof.

    Not of RFC 7662: for gateways that verify no DPoP themselves. Raises UnreadableIntrospectionRequest.
    """
    given = [fields.get(name, []) for name in PROOF_FIELDS]
    if not any(given):
        return None
    if any(len(values) != 1 for values in given):
        raise UnreadableIntrospectionRequest(f"the form must have {', '.join(PROOF_FIELDS)} once each, or none of them")
    proof, method, url = (values[0] for values in given)
    return ShownProof(True, (proof.encode(),), method, url)


INACTIVE_RESPONSE = json_gateway_response(200, {"active": False}, "inactive")


FORWARD_AUTH_PATH, INTROSPECT_PATH = b"/forward-auth", b"/introspect"
GATEWAY_ROUTES = {"ext_authz": "/ext-authz/{path}", "forward_auth": "/forward-auth", INTROSPECTION_ROUTE: "/introspect"}


class GatewayServer:
    """ASGI handler for gateway checks. The application starts and closes the issuers."""

    def __init__(
        self, services: ServiceRegistry, issuers: GatewayIssuers, proofs: ProofVerifier, proof_reports: ProofReports
    ) -> None:
        runtime = services.get(Runtime)
        settings = runtime.settings.gateway
        self._issuers, self._verifier = issuers, issuers.verifier
        self._proofs, self._proof_reports = proofs, proof_reports
        self._monotonic, self._new_id = runtime.monotonic, runtime.new_id
        self._decision_point = services.get(PolicyDecisionPoint)
        self._refused_callers = services.get(RefusedCallers)
        self._count_answer = services.get(ServiceMetrics).count_gateway_answer
        self._dpop, self._verifies_certificates = settings.dpop, settings.mtls == "verify"
        self._responses = GatewayResponses(settings)
        self._decider = GatewayDecider(settings, self._decision_point, issuers.revoker)
        identify = partial(authenticate_request, runtime.verifier)
        self._introspection = IntrospectionEndpoint(
            settings, issuers, self._decider, identify, proofs, proof_reports, self._refused_callers
        )

    def route_of(self, path: bytes) -> str:
        """Return the way that a percent-encoded path belongs to; "" if the path is not served here.

        Envoy appends the path of the call to the prefix as it came, so whatever follows that prefix is a check: no
        `..`, `//` or `%2F` in it leads anywhere else.
        """
        if path.startswith(EXT_AUTHZ_PREFIX):
            return "ext_authz"
        if path in (FORWARD_AUTH_PATH, FORWARD_AUTH_PATH + b"/"):
            return "forward_auth"
        return INTROSPECTION_ROUTE if path == INTROSPECT_PATH else ""

    def find_handler(self, path: bytes) -> ASGIApp | None:
        """Return this server, for the protocol of *path*, or None if the path is not a gateway's."""
        way = self.route_of(path)
        return partial(self, way) if way else None

    def template(self, path: bytes) -> str:
        return GATEWAY_ROUTES[self.route_of(path)]

    async def __call__(self, way: str, scope: Scope, receive: Receive, send: Send) -> None:
        start = self._monotonic()
        try:
            answer = await (
                self._introspection.answer(scope, receive) if way == INTROSPECTION_ROUTE else self._check(way, scope)
            )
        except Exception as error:  # refused: a failure before the decision means that no token is verified yet
            self._decision_point.count_failure(way, fails_open=False)
            _log.error("gateway_failed", via=way, **error_members(error))
            answer = self._responses.denied(self._request_id(scope), "undecided")
        if answer is None:
            return
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer.body})
        self._count_answer(way, GATEWAY_ROUTES[way], answer.status, answer.kind, self._monotonic() - start)

    async def _check(self, way: str, scope: Scope) -> GatewayResponse:
        try:
            token, dpop = presented_token(authorization_header(scope) or None)
            holder = await self._token_holder(token)
            self._check_binding(way, scope, holder, token, dpop=dpop)
        except ProofRefused as refused:
            return self._responses.unproven(self._request_id(scope), refused)
        except MissingToken:
            return self._responses.unauthenticated(self._request_id(scope), "", "")
        except AuthenticationFailed as error:
            if isinstance(error, UnknownKey) and self._issuers.jwks.keys(error.issuer) is None:
                self._decider.count_unverifiable(way, error.issuer)
                return self._responses.denied(self._request_id(scope), "no_keys")
            self._refused_callers.tell_of_token(way, str(error))
            return self._responses.unauthenticated(self._request_id(scope), InvalidToken.code, str(error))
        method = scope["method"] if way == "ext_authz" else forwarded_method(scope)
        action = mcp_action(scope)
        decided = await self._decider.decide_call(holder, token, method, way, action)
        if decided.verdict.allow and not self._decider.records_all and not decided.verdict.outside:
            return self._responses.allowed_by(decided.verdict)
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
        proofs = self._proofs
        certificate = proofs.certificate_of(scope["headers"], (scope.get("client") or ("",))[0])
        agent = holder.access_request
        try:
            proofs.check(checked, token, shown._replace(certificate=certificate), (agent.issuer, agent.agent_id))
        except ProofRefused as refused:
            self._proof_reports.report(way, agent.tenant, agent.issuer, agent.agent_id, refused)
            raise

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
            return self._responses.allowed_by(verdict)
        if verdict.step_up and verdict.reason in (STEP_UP, OUTSIDE_BOUNDARY):
            return self._responses.step_up(self._request_id(scope), decided.approval_id)
        return self._responses.denied(self._request_id(scope), "undecided" if verdict.reason == UNDECIDED else "denied")

    def _request_id(self, scope: Scope) -> str:
        return request_id_of(scope, self._new_id)
