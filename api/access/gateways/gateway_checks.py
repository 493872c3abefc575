"""Checks of calls at gateways: the headers that each product sends, decisions, and the answers it accepts."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import msgspec
import structlog
from starlette.types import Scope

from trustwatch.scoring.delivery.actuators.token_revocation import TokenRevoker
from trustwatch.scoring.policy.access_evaluation import (
    NOT_NARROWED,
    OUTSIDE_BOUNDARY,
    STALE,
    STEP_UP,
    UNDECIDED,
    AccessRequest,
    Verdict,
)
from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.scoring.records.containment import Intervention
from trustwatch_client.events import MAX_ID_LENGTH

from ... import clock
from ...http.auth.proof_of_possession import ProofRefused, ShownProof
from ...http.problems import bearer_challenge, error_members, proof_challenge
from ...http.refused_callers import LineLimit
from ...settings.enforcement_settings import GatewaySettings
from ..approval_workflow import Outcome
from ..decision_point import TOOL_CALL, AccessDecision, PolicyDecisionPoint, refusal_members
from .gateway_issuers import TokenHolder

AUTHORIZATION_NAME = b"authorization"
METHOD_HEADERS = (b"x-forwarded-method", b"x-original-method")
"""Traefik, Caddy, APISIX; NGINX by its configuration."""
URI_HEADERS = (b"x-forwarded-uri", b"x-original-uri", b"x-original-url")
HOST_HEADERS = (b"x-forwarded-host", b"x-original-host")
SCHEME_HEADERS = (b"x-forwarded-proto",)
DPOP_NAME = b"dpop"
MCP_METHOD_NAME, MCP_NAME_NAME = b"mcp-method", b"mcp-name"
EXT_AUTHZ_PREFIX = b"/ext-authz"

MAX_TARGET_LENGTH = 512
"""Characters of a path that an audit event holds."""

_METHOD_PATTERN = re.compile(rb"[A-Za-z]{1,32}\Z")
_HOST_PATTERN = re.compile(rb"[A-Za-z0-9.:\[\]_-]{1,255}\Z")


def single_header(scope: Scope, *names: bytes) -> bytes | None:
    """Return the value of the first of the headers *names* that is present, or None if it is repeated, because one of
    the two may be the agent's.
    """
    for name in names:
        values: list[bytes] = [value for key, value in scope["headers"] if key == name]
        if values:
            return values[0] if len(values) == 1 else None
    return None


def agreed_header(scope: Scope, *names: bytes) -> bytes | None:
    """Return the common value of the headers *names* that are present, or None if two differ or one is repeated.

    A gateway sets its product's header and forwards the agent's others, so neither can be trusted.
    """
    value_by_name: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in names:
            if name in value_by_name:
                return None
            value_by_name[name] = value
    values = set(value_by_name.values())
    return values.pop() if len(values) == 1 else None


def forwarded_method(scope: Scope) -> str:
    """Return the method of the call that a subrequest is about; "" if unknown, which is never a safe method."""
    given = agreed_header(scope, *METHOD_HEADERS) or b""
    return given.decode().upper() if _METHOD_PATTERN.match(given) else ""


def shown_proof(way: str, scope: Scope, *, dpop: bool) -> ShownProof:
    """Read the proof that a call presents with its token, without the certificate.

    If two headers of gateways differ, the URL is unknown and no proof fits it. A gateway that does not state the
    scheme is assumed to be called by https.
    """
    scheme = agreed_header(scope, *SCHEME_HEADERS) or b"https"
    if way == "ext_authz":
        method, host, path = scope["method"], single_header(scope, b"host"), scope["raw_path"][len(EXT_AUTHZ_PREFIX) :]
    else:
        method = forwarded_method(scope)
        host, path = agreed_header(scope, *HOST_HEADERS), agreed_header(scope, *URI_HEADERS)
    is_known = host is not None and path is not None and _HOST_PATTERN.match(host) is not None
    url = b"%s://%s%s" % (scheme, host, path) if is_known else b""
    return ShownProof(
        dpop, tuple(value for name, value in scope["headers"] if name == DPOP_NAME), method, url.decode("latin-1")
    )


def mcp_action(scope: Scope) -> str:
    """Return the action of an MCP call from its headers: the tool, or the method; "" if it is not an MCP call.

    Servers of MCP refuse a request whose headers differ from its body.
    """
    methods = [value for name, value in scope["headers"] if name == MCP_METHOD_NAME]
    if not methods:
        return ""
    method = methods[0].decode("latin-1") if len(methods) == 1 else TOOL_CALL
    if method != TOOL_CALL:
        return method[:MAX_ID_LENGTH]
    value = single_header(scope, MCP_NAME_NAME) or b""
    try:
        if value.startswith(b"=?base64?") and value.endswith(b"?="):  # a name that is not plain ASCII
            value = base64.b64decode(value[len(b"=?base64?") : -len(b"?=")], validate=True)
        return value.decode()[:MAX_ID_LENGTH] or TOOL_CALL
    except (binascii.Error, UnicodeDecodeError):
        return TOOL_CALL


def forwarded_target(scope: Scope) -> str:
    """Return host and path of the call that a subrequest is about; ambiguous values are left out."""
    return call_target(agreed_header(scope, *HOST_HEADERS), agreed_header(scope, *URI_HEADERS) or b"")


def call_target(host: bytes | None, uri: bytes) -> str:
    """Return host and printable path, without the query because it may contain secrets."""
    path = uri.partition(b"?")[0].partition(b"#")[0]
    shown = "".join(sign if " " < sign <= "~" else f"%{ord(sign):02X}" for sign in path.decode("latin-1"))
    name = host.decode() if host is not None and _HOST_PATTERN.match(host) else ""
    return (name + shown)[:MAX_TARGET_LENGTH]


# Answers to gateways, made once and sent as they are. Allowed is exactly 200 with an empty body: Envoy takes any other
# status for a denial. Denied is 401 or 403 and nothing else: NGINX turns any other status into 500. Envoy, Caddy and
# Traefik hand all headers of a denial to the client, so no header states the reason, the risk or the policy.

RawHeader = tuple[bytes, bytes]

NO_STORE_HEADER: RawHeader = (b"cache-control", b"no-store")
JSON_HEADER: RawHeader = (b"content-type", b"application/json")
EMPTY_BODY_HEADER: RawHeader = (b"content-length", b"0")

REALM = "agents"
"""The realm of challenges."""
STEP_UP_ERROR = "insufficient_user_authentication"
STEP_UP_SENTENCE = "a person must approve this first; try again later"


class GatewayResponse(NamedTuple):
    """An answer to a check. `kind` is its name in metrics."""

    status: int
    headers: list[RawHeader]
    body: bytes
    kind: str


class GatewayResponses:
    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._allowed_undecided = GatewayResponse(200, [NO_STORE_HEADER, EMPTY_BODY_HEADER], b"", "allowed_unjudged")
        """Allowed since we could not decide, and are set to fail open: without the level."""
        self._allowed = {}
        for level in RiskLevel:
            headers = [NO_STORE_HEADER, EMPTY_BODY_HEADER]
            if settings.risk_header is not None:
                headers.insert(0, (settings.risk_header.lower().encode(), level.label.encode()))
            self._allowed[level] = GatewayResponse(200, headers, b"", "allowed")

    def allowed_by(self, verdict: Verdict) -> GatewayResponse:
        """Return the answer that lets the call continue."""
        return self._allowed_undecided if verdict.reason == UNDECIDED else self._allowed[verdict.level]

    def denied(self, request_id: str, kind: str = "denied") -> GatewayResponse:
        """Return the answer that stops the call. Also used if the service cannot decide and fails closed."""
        return _refusal_response(403, "access_denied", request_id, kind)

    def step_up(self, request_id: str, approval_id: str) -> GatewayResponse:
        """Return the answer that requires the approval of a person (RFC 9470)."""
        more = [(b"www-authenticate", self.challenge(STEP_UP_ERROR, STEP_UP_SENTENCE))]
        if approval_id and self._settings.tell_approval:
            more.append((b"x-approval-id", approval_id.encode("ascii", "ignore")))
        return _refusal_response(401, STEP_UP_ERROR, request_id, "step_up", *more)

    def unauthenticated(self, request_id: str, error: str, sentence: str) -> GatewayResponse:
        """Return the answer to a missing token (*error* is "") or an invalid one."""
        challenge = (b"www-authenticate", self.challenge(error, sentence if error else ""))
        return _refusal_response(401, error or "missing_token", request_id, error or "missing_token", challenge)

    def unproven(self, request_id: str, refused: ProofRefused) -> GatewayResponse:
        """Return the answer to a bound token without its proof (RFC 9449, RFC 8705)."""
        more = [(b"www-authenticate", proof_challenge(refused, REALM).encode())]
        if refused.nonce:
            more.append((b"dpop-nonce", refused.nonce.encode()))
        return _refusal_response(401, refused.error, request_id, refused.error, *more)

    def challenge(self, error: str = "", sentence: str = "") -> bytes:
        """Return the `WWW-Authenticate` header (RFC 6750, RFC 9728)."""
        metadata = self._settings.resource_metadata or ""
        return bearer_challenge(error, sentence, REALM, resource_metadata=metadata).encode()


def _refusal_response(status: int, error: str, request_id: str, kind: str, *more: RawHeader) -> GatewayResponse:
    return json_gateway_response(status, {"error": error, "request_id": request_id}, kind, *more)


def json_gateway_response(status: int, content: dict[str, Any], kind: str, *more: RawHeader) -> GatewayResponse:
    body = msgspec.json.encode(content)
    return GatewayResponse(
        status, [*more, JSON_HEADER, NO_STORE_HEADER, (b"content-length", b"%d" % len(body))], body, kind
    )


_log = structlog.get_logger(__name__)

GatewayConstraint = Callable[[Verdict], Verdict]


@dataclass(eq=False, repr=False)
class GatewayDecider:
    _settings: GatewaySettings
    _decision_point: PolicyDecisionPoint
    _revoker: TokenRevoker

    def __post_init__(self) -> None:
        self.records_all = self._settings.record == "all"
        self._refusals = LineLimit(clock.monotonic)

    async def decide_call(
        self, holder: TokenHolder, token: bytes, method: str, via: str, action: str = ""
    ) -> AccessDecision:
        """Return the verdict on a call. Never raises.

        Waits for the store only if the call needs an approval for one use.
        """
        fit = self._constrain_safe if method in self._settings.safe_methods else self._constrain_unsafe
        if action:
            question = holder.access_request
            holder = holder._replace(access_request=question._replace(actions=(action,), held=question.scopes))
            fit = partial(self._constrain_action, fit)
        if self._decision_point.any_for_one_use:
            holder = await self._spend_needed(holder, fit)
        return self._decide(holder, token, via, fit)

    async def _spend_needed(self, holder: TokenHolder, fit: GatewayConstraint) -> TokenHolder:
        """Spend the single-use approvals that the call of *holder* needs, and return it with them."""
        question, point = holder.access_request, self._decision_point

        def judge(spent: tuple[Intervention, ...]) -> Outcome:
            return Outcome(fit(point.policy_evaluator.evaluate(question._replace(spent=spent))[0]).allow)

        spent = await point.spend_needed((question.identity,), judge)
        return holder._replace(access_request=question._replace(spent=spent))

    def decide_introspection(self, holder: TokenHolder, token: bytes, via: str) -> AccessDecision:
        """Return the verdict on a token; its `scopes` are those that the token may be used for. Never raises."""
        return self._decide(holder, token, via, self._constrain_stale)

    def _decide(self, holder: TokenHolder, token: bytes, via: str, fit: GatewayConstraint) -> AccessDecision:
        question, point = holder.access_request, self._decision_point
        try:
            decided = point.decide(question, via, fit)
            if decided.verdict.revoke:
                self._revoker.revoke_in_background(token.decode("ascii"), holder.issuer)
        except Exception as error:
            opened = self._settings.on_failure == "open" or not point.may_enforce(question.tenant)
            point.count_failure(via, fails_open=opened)
            _log.error("gateway_failed", via=via, **error_members(error))
            return point.undecided(question, allow=opened)
        return decided

    def count_unverifiable(self, via: str, issuer: str) -> None:
        """Count a token that cannot be verified because the issuer's keys are unavailable. It never passes: any client
        can write a token that names that issuer."""
        self._decision_point.count_failure(via, fails_open=False)
        _log.warning("gateway_without_keys", via=via, issuer=issuer)

    def record(
        self, decided: AccessDecision, question: AccessRequest, via: str, kind: str, method: str, target: str
    ) -> None:
        """Record a denial, or every call if the settings require it, as an audit event. Never raises."""
        if decided.verdict.allow and not self.records_all and not decided.verdict.outside:
            return
        if not decided.verdict.allow:
            self._refusals.write(_log.info, "call refused", via=via, **refusal_members(question, decided))
        more = {"resource": {"id": target}} if target else {}
        self._decision_point.record_decision(decided, question, via, kind=kind, action=method or "unknown", more=more)

    def _constrain_action(self, of_method: GatewayConstraint, verdict: Verdict) -> Verdict:
        """Refuse an action outside of the declared boundary, or let a person decide, as the settings specify."""
        verdict = of_method(verdict)
        on_outside = self._decision_point.policy_evaluator.boundary.outside
        if not verdict.outside or on_outside == "record":
            return verdict
        if on_outside == "deny" and (verdict.would_allow or verdict.step_up):
            return _deny(verdict, OUTSIDE_BOUNDARY)
        if not verdict.would_allow:
            return verdict
        denied = _deny(verdict, OUTSIDE_BOUNDARY, step_up=True)
        return msgspec.structs.replace(denied, held_scopes=verdict.outside)

    def _constrain_stale(self, verdict: Verdict) -> Verdict:
        denied = verdict.stale and verdict.would_allow and self._settings.on_stale == "deny"
        return _deny(verdict, STALE) if denied else verdict

    def _constrain_unsafe(self, verdict: Verdict) -> Verdict:
        """Refuse the call if any scope of its token is refused: a gateway does not state which scopes a call uses."""
        verdict = self._constrain_stale(verdict)
        if not verdict.would_allow:
            return verdict
        if verdict.refused_scopes:
            return _deny(verdict, NOT_NARROWED)
        return _deny(verdict, STEP_UP, step_up=True) if verdict.step_up else verdict

    def _constrain_safe(self, verdict: Verdict) -> Verdict:
        """Allow a safe method if one scope remains. It needs none of the scopes that await approval, so none is
        requested.
        """
        if verdict.would_allow and verdict.step_up:
            verdict = msgspec.structs.replace(verdict, step_up=False)
        return self._constrain_unsafe(verdict)


def _deny(verdict: Verdict, reason: str, *, step_up: bool = False) -> Verdict:
    """Return a denial for a verdict that gateways cannot enforce. In shadow mode only the audit event shows it."""
    return msgspec.structs.replace(
        verdict, allow=not verdict.enforced, would_allow=False, reason=reason, scopes=None, step_up=step_up
    )


def narrow_scope_claims(members: Mapping[str, Any], verdict: Verdict) -> dict[str, Any]:
    """Return the members of an active introspection answer, with the currently valid scopes of the token."""
    narrowed = {name: value for name, value in members.items() if name not in ("scp", "scope")}
    given = members.get("scope", members.get("scp"))
    scopes = given.split() if isinstance(given, str) else given if isinstance(given, list) else []
    if scopes:
        left = scopes if verdict.scopes is None else [scope for scope in scopes if scope in verdict.scopes]
        narrowed["scope"] = " ".join(left)
    return narrowed
