"""What gateways are answered: made once, sent as it is. A denial tells nothing but that it is one.

Allowed is exactly 200 with an empty body: Envoy takes any other status for a denial. Denied is 401 or 403 and nothing
else: NGINX turns any other status into 500. Envoy, Caddy and Traefik hand all headers of a denial to the client, so
there is none that tells why, how risky, or by whose rules.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from ...scoring.records import RiskLevel
from ..settings import GatewaySettings

RawHeader = tuple[bytes, bytes]

NO_STORE_HEADER: RawHeader = (b"cache-control", b"no-store")
JSON_HEADER: RawHeader = (b"content-type", b"application/json")
EMPTY_BODY_HEADER: RawHeader = (b"content-length", b"0")

STEP_UP_ERROR = "insufficient_user_authentication"
STEP_UP_SENTENCE = "a person must approve this first; try again later"


class GatewayResponse(NamedTuple):
    """One answer. `kind` is the word for it in metrics."""

    status: int
    headers: list[RawHeader]
    body: bytes
    kind: str


class GatewayResponses:
    """All answers to checks.

    Args:
        settings: of gateways.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        name = settings.risk_header
        told = {level: [] if name is None else [(name.lower().encode(), level.label.encode())] for level in RiskLevel}
        self._allowed = {
            level: GatewayResponse(200, [*told[level], NO_STORE_HEADER, EMPTY_BODY_HEADER], b"", "allowed")
            for level in RiskLevel
        }
        self.allowed_undecided = GatewayResponse(200, [NO_STORE_HEADER, EMPTY_BODY_HEADER], b"", "allowed_unjudged")
        """Allowed since we could not decide, and are set to fail open: no level is told."""

    def allowed(self, level: RiskLevel) -> GatewayResponse:
        """The call may go on."""
        return self._allowed[level]

    def denied(self, request_id: str, kind: str = "denied") -> GatewayResponse:
        """The call may not go on, whoever asks again; also where we can not decide and fail closed."""
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

    def challenge(self, error: str = "", sentence: str = "") -> bytes:
        """`WWW-Authenticate` (RFC 6750, RFC 9728)."""
        given = {
            "realm": self._settings.realm,
            "error": error,
            "error_description": sentence,
            "resource_metadata": self._settings.resource_metadata,
        }
        return (
            "Bearer " + ", ".join(f'{name}="{_quotable(value)}"' for name, value in given.items() if value)
        ).encode()


def _refusal_response(status: int, error: str, request_id: str, kind: str, *more: RawHeader) -> GatewayResponse:
    body = msgspec.json.encode({"error": error, "request_id": request_id})
    return GatewayResponse(
        status, [*more, JSON_HEADER, NO_STORE_HEADER, (b"content-length", b"%d" % len(body))], body, kind
    )


def _quotable(value: str) -> str:
    """Only the characters that RFC 6750 allows."""
    return "".join(sign if " " <= sign <= "~" and sign not in '"\\' else "'" for sign in value)
