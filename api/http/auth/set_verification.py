"""Verification of received security event tokens (RFC 8417), and the error codes of RFC 8935 for those refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeGuard

import jwt

from trustwatch.ingest.errors import TrustwatchError

from ...settings.access_settings import IssuerSettings
from .token_verification import (
    LEEWAY_S,
    MAX_KEY_ID_LENGTH,
    SIGNATURE_ALGORITHMS,
    InvalidToken,
    KeySet,
    unverified_issuer,
)

SetErrorCode = Literal[
    "invalid_request",
    "invalid_key",
    "invalid_issuer",
    "invalid_audience",
    "authentication_failed",
    "access_denied",
    "invalid_state",
]
"""Errors of RFC 8935, section 2.4, and of SSF 1.0, section 8.1.4."""

SET_TYPE: Final = "secevent+jwt"
MAX_SET_BYTES: Final = 64 * 1024
MAX_JTI_LENGTH: Final = 1024
MAX_AHEAD_S: Final = 3_600.0
"""A transmitter whose clock is this far ahead is requested to send again. Its SETs are valid."""
_MAX_TIME_S: Final = 1e12
_REQUIRED: Final = ["iss", "iat", "jti", "aud", "events", "sub_id"]


class SetRefused(TrustwatchError):
    """A SET is refused. The description does not quote the SET."""

    code = "set_refused"

    def __init__(self, err: SetErrorCode, description: str) -> None:
        super().__init__(description)
        self.err = err
        self.description = description


class SetKeyUnknown(SetRefused):
    """No known key fits. Fetching the keys may help, also if a key was replaced under the same `kid`."""

    def __init__(self, description: str = "the SET is signed with a key that its issuer does not publish") -> None:
        super().__init__("invalid_key", description)


class SetEarly(SetRefused):
    """The time of the SET is slightly in the future: it will become valid."""

    def __init__(self) -> None:
        super().__init__("invalid_request", "the claim iat is in the future")


def verify_security_event(token: str, transmitter: IssuerSettings, keys: KeySet, now: float) -> dict[str, Any]:
    """Return the claims of a SET with exactly one event. Raises SetKeyUnknown, SetEarly, SetRefused."""
    kid, alg = _check_header(token)
    try:
        issuer = unverified_issuer(token)  # before a key is looked up: no key of another issuer is held
    except (InvalidToken, RecursionError):
        raise SetRefused("invalid_request", "the body is not a SET in compact form") from None
    if issuer != transmitter.issuer:
        raise SetRefused("invalid_issuer", "the issuer of the SET is not the one expected here")
    key = keys.find(kid, alg)
    if key is None:
        raise SetKeyUnknown
    unverified = dict.fromkeys(("verify_exp", "verify_nbf", "verify_iat", "verify_sub"), False)
    options: Any = {"require": _REQUIRED, **unverified}
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=SIGNATURE_ALGORITHMS,
            audience=transmitter.audiences,
            issuer=transmitter.issuer,
            options=options,
        )
    except jwt.InvalidAudienceError:
        raise SetRefused("invalid_audience", "the SET is meant for another audience") from None
    except jwt.InvalidSignatureError:
        raise SetKeyUnknown("the signature of the SET is wrong") from None
    except jwt.MissingRequiredClaimError as error:
        if error.claim == "aud":
            raise SetRefused("invalid_audience", "the SET names no audience") from None
        raise SetRefused("invalid_request", f"the SET lacks the claim {error.claim}") from None
    except (jwt.PyJWTError, RecursionError):
        raise SetRefused("invalid_request", "the SET is malformed") from None
    _check_claims(claims, now + LEEWAY_S)
    return claims


def _check_header(token: str) -> tuple[str | None, str]:
    if token.count(".") == 4:
        raise SetRefused("invalid_request", "a signed SET was expected, and there is an encrypted one (JWE)")
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, RecursionError):
        raise SetRefused("invalid_request", "the body is not a SET in compact form") from None
    kid, alg, typ = header.get("kid"), header.get("alg"), header.get("typ")
    if not isinstance(typ, str) or typ.lower().removeprefix("application/") != SET_TYPE:
        raise SetRefused("invalid_request", f"the header `typ` of a SET is {SET_TYPE}")
    if "crit" in header or "b64" in header:
        raise SetRefused("invalid_request", "the SET uses an extension that is not understood (crit)")
    if alg not in SIGNATURE_ALGORITHMS:
        raise SetRefused("invalid_key", "the signature algorithm of the SET is not accepted")
    if kid is not None and (not isinstance(kid, str) or not 0 < len(kid) <= MAX_KEY_ID_LENGTH):
        raise SetRefused("invalid_request", "the header `kid` of the SET is not a key id")
    return kid, alg


def _check_claims(claims: Mapping[str, Any], latest: float) -> None:
    jti, iat, events, sub_id = claims["jti"], claims["iat"], claims["events"], claims["sub_id"]
    # JSON can express half a surrogate pair, which no event or log can hold.
    if not isinstance(jti, str) or not 0 < len(jti) <= MAX_JTI_LENGTH or re.search("[\ud800-\udfff]", jti):
        raise SetRefused("invalid_request", f"the claim jti is not a text of 1 to {MAX_JTI_LENGTH} characters")
    if isinstance(iat, bool) or not isinstance(iat, int | float) or not 0 <= iat <= _MAX_TIME_S:
        raise SetRefused("invalid_request", "the claim iat is not a time")
    if latest < iat <= latest + MAX_AHEAD_S:
        raise SetEarly
    if iat > latest:
        raise SetRefused("invalid_request", "the claim iat is in the future")
    if not _is_object(events) or len(events) != 1 or not all(map(_is_object, events.values())):
        raise SetRefused("invalid_request", "the claim events holds one event, which is an object")
    if not _is_object(sub_id) or not isinstance(sub_id.get("format"), str):
        raise SetRefused("invalid_request", "the claim sub_id is not a subject identifier (RFC 9493)")


def _is_object(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)
