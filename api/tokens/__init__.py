"""Bearer tokens: verified against the keys of configured issuers, remembered, and signed for local development.

One file per matter: `verify` (RFC 7519, 8725, 9068; the only importer of PyJWT for verifying), `jwks` (keys, fetched
and kept), `cache` (tokens already judged), `gate` (all of it together), `identity` (ID tokens of
people), `sign` (the local development key).
"""

from .cache import TokenCache
from .errors import AuthenticationFailed, BadAuthorization, InvalidToken, MissingToken, UnknownKey
from .gate import TokenVerifier, bearer_token
from .identity import verify_id_token
from .jwks import JwksCache, JwksStatus
from .sign import LOCAL_ISSUER, LocalSigningKey
from .verify import KeySet, TokenClaims, parse_keys

__all__ = [
    "LOCAL_ISSUER",
    "AuthenticationFailed",
    "BadAuthorization",
    "InvalidToken",
    "JwksCache",
    "JwksStatus",
    "KeySet",
    "LocalSigningKey",
    "MissingToken",
    "TokenCache",
    "TokenClaims",
    "TokenVerifier",
    "UnknownKey",
    "bearer_token",
    "parse_keys",
    "verify_id_token",
]
