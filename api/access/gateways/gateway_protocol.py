"""Protocols of gateways: the headers that each product is known to send, and the answers it takes."""

from __future__ import annotations

import base64
import binascii
import re
from typing import NamedTuple

import msgspec
from starlette.types import Scope

from trustwatch.scoring.records.agents import RiskLevel
from trustwatch_client.events import MAX_ID_LENGTH

from ...http.auth.proof_of_possession import ProofRefused, ShownProof
from ...http.problems import bearer_challenge, proof_challenge
from ...settings.enforcement_settings import GatewaySettings
from ..decision_point import TOOL_CALL

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
    """The value of the first of the headers *names* that is present; None if it is repeated: one may be the agent's."""
    for name in names:
        values: list[bytes] = [value for key, value in scope["headers"] if key == name]
        if values:
            return values[0] if len(values) == 1 else None
    return None


def agreed_header(scope: Scope, *names: bytes) -> bytes | None:
    """The common value of the headers *names* that are present; None if two differ, or one is repeated.

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
    """The method of the call of a subrequest; "" if unknown, which is never a safe method."""
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
    """The action of a call by MCP, as its headers name it: the tool, or the method; "" if it is not a call by MCP.

    Servers of MCP refuse a request whose headers differ from its body.
    """
    methods = [value for name, value in scope["headers"] if name == MCP_METHOD_NAME]
    if not methods:
        return ""
    method = methods[0].decode("latin-1") if len(methods) == 1 else TOOL_CALL
    if method != TOOL_CALL:
        return method[:MAX_ID_LENGTH]
    return _decode_mcp_name(single_header(scope, MCP_NAME_NAME) or b"")[:MAX_ID_LENGTH] or TOOL_CALL


def _decode_mcp_name(value: bytes) -> str:
    """A name that is not plain ASCII comes as base64 between `=?base64?` and `?=`; "" if it cannot be read."""
    try:
        if value.startswith(b"=?base64?") and value.endswith(b"?="):
            value = base64.b64decode(value[len(b"=?base64?") : -len(b"?=")], validate=True)
        return value.decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""


def forwarded_target(scope: Scope) -> str:
    """Host and path of the call that a sub-request is about, as the gateway names them; no word that is in doubt."""
    return call_target(agreed_header(scope, *HOST_HEADERS), agreed_header(scope, *URI_HEADERS) or b"")


def call_target(host: bytes | None, uri: bytes) -> str:
    """Host and path, printable, without query: that may hold secrets."""
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
    """One answer. `kind` is the word for it in metrics."""

    status: int
    headers: list[RawHeader]
    body: bytes
    kind: str


class GatewayResponses:
    """All answers to checks."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        name = settings.risk_header
        level_headers = {
            level: [] if name is None else [(name.lower().encode(), level.label.encode())] for level in RiskLevel
        }
        self._allowed = {
            level: GatewayResponse(200, [*level_headers[level], NO_STORE_HEADER, EMPTY_BODY_HEADER], b"", "allowed")
            for level in RiskLevel
        }
        self.allowed_undecided = GatewayResponse(200, [NO_STORE_HEADER, EMPTY_BODY_HEADER], b"", "allowed_unjudged")
        """Allowed since we could not decide, and are set to fail open: without the level."""

    def allowed(self, level: RiskLevel) -> GatewayResponse:
        """The call may continue."""
        return self._allowed[level]

    def denied(self, request_id: str, kind: str = "denied") -> GatewayResponse:
        """The call may not continue. Also used if the service cannot decide and fails closed."""
        return _refusal_response(403, "access_denied", request_id, kind)

    def step_up(self, request_id: str, approval_id: str) -> GatewayResponse:
        """A person must approve first (RFC 9470)."""
        more = [(b"www-authenticate", self.challenge(STEP_UP_ERROR, STEP_UP_SENTENCE))]
        if approval_id and self._settings.tell_approval:
            more.append((b"x-approval-id", approval_id.encode("ascii", "ignore")))
        return _refusal_response(401, STEP_UP_ERROR, request_id, "step_up", *more)

    def unauthenticated(self, request_id: str, error: str, sentence: str) -> GatewayResponse:
        """No token (*error* is ""), or one that is refused."""
        challenge = (b"www-authenticate", self.challenge(error, sentence if error else ""))
        return _refusal_response(401, error or "missing_token", request_id, error or "missing_token", challenge)

    def unproven(self, request_id: str, refused: ProofRefused) -> GatewayResponse:
        """A bound token came without its proof (RFC 9449, RFC 8705)."""
        more = [(b"www-authenticate", proof_challenge(refused, REALM).encode())]
        if refused.nonce:
            more.append((b"dpop-nonce", refused.nonce.encode()))
        return _refusal_response(401, refused.error, request_id, refused.error, *more)

    def challenge(self, error: str = "", sentence: str = "") -> bytes:
        """`WWW-Authenticate` (RFC 6750, RFC 9728)."""
        metadata = self._settings.resource_metadata or ""
        return bearer_challenge(error, sentence, REALM, resource_metadata=metadata).encode()


def _refusal_response(status: int, error: str, request_id: str, kind: str, *more: RawHeader) -> GatewayResponse:
    body = msgspec.json.encode({"error": error, "request_id": request_id})
    return GatewayResponse(
        status, [*more, JSON_HEADER, NO_STORE_HEADER, (b"content-length", b"%d" % len(body))], body, kind
    )
