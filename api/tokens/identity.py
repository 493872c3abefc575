"""ID tokens: who signed in at an OpenID provider (OpenID Connect Core 3.1.3.7). They open the console, and no API."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any

from ..settings import IssuerSettings
from .errors import InvalidToken
from .verify import MAX_CLAIM_NAME_LENGTH, MAX_TOKEN_BYTES, KeySet, check_times, signed_claims


def verify_id_token(
    token: str, issuer: IssuerSettings, keys: KeySet, nonce: str, now: float, leeway_s: float
) -> Mapping[str, Any]:
    """Claims of an ID token that answers our own request, all in one call.

    Args:
        token: compact JWS, from the token endpoint.
        issuer: the provider; its one audience is our client id.
        keys: of the provider.
        nonce: that our request had.
        now: seconds since 1970.
        leeway_s: clock difference that is forgiven.

    Raises:
        UnknownKey: no key fits the header.
        InvalidToken: anything else is wrong; the message holds nothing of the token.
    """
    if len(token) > MAX_TOKEN_BYTES:
        raise InvalidToken("the token is too long")
    claims = signed_claims(token, issuer, keys, typed=False)
    check_times(claims, now, leeway_s)
    client_id = issuer.audiences[0]
    several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
    if claims.get("azp") != client_id and (several or claims.get("azp") is not None):
        raise InvalidToken("the token was issued to another client (azp)")
    said = claims.get("nonce")
    if not isinstance(said, str) or not hmac.compare_digest(said.encode(errors="replace"), nonce.encode()):
        raise InvalidToken("the token answers another request (nonce)")
    subject = claims["sub"]
    if not isinstance(subject, str) or not 0 < len(subject) <= MAX_CLAIM_NAME_LENGTH:
        raise InvalidToken("the subject of the token is no name")
    return claims
