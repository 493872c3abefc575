"""Verification of tokens (RFC 9068), and why a request is not authenticated (RFC 6750, section 3.1).

::

    AuthenticationFailed        invalid_token       base: answered with 401
    ├── MissingToken            missing_token       no credentials: a bare challenge without error code
    ├── BadAuthorization        invalid_request     the header is not a bearer credential (answered with 400)
    └── InvalidToken            invalid_token       the token is refused
        └── UnknownKey          invalid_token       the key is not known *yet*: a refresh may help
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Generic, NamedTuple, Self, TypeVar

import jwt
import msgspec

from trustwatch.ingest.errors import TrustwatchError

from ...settings.access_settings import IssuerSettings


class AuthenticationFailed(TrustwatchError):
    """The caller is not authenticated."""

    code = "invalid_token"


class MissingToken(AuthenticationFailed):
    """The request has no Authorization header."""

    code = "missing_token"


class BadAuthorization(AuthenticationFailed):
    """The Authorization header is not a bearer credential."""

    code = "invalid_request"


class InvalidToken(AuthenticationFailed):
    """The token is refused."""

    def __init__(self, reason: str, *, lasting: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.lasting = lasting


class UnknownKey(InvalidToken):
    """No key of the issuer fits; `issuer` is named in the settings."""

    def __init__(self, issuer: str) -> None:
        super().__init__("the token is signed with a key that its issuer does not publish", lasting=False)
        self.issuer = issuer


# PyJWT checks signature, audience, issuer and form. The three time claims are checked here, because PyJWT reads the
# machine's clock and ours is passed in.

MAX_TOKEN_BYTES = 16 * 1024
"""Bytes in a token; a longer one is refused before anything is computed from it."""

MAX_KEY_ID_LENGTH = 256
MAX_CLAIM_NAME_LENGTH = 2048
MAX_KEYS = 64
"""Keys read from one set; authorization servers publish two to four."""

MIN_RSA_BITS = 2048

# Algorithms that a key may verify, by type and curve. A token's `alg` never chooses the kind of key (RFC 8725, 3.1).
_ALGORITHMS_OF_KEY: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
    ("RSA", ""): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
}
SIGNATURE_ALGORITHMS = [alg for fitting in _ALGORITHMS_OF_KEY.values() for alg in fitting]
"""Accepted of every issuer: asymmetric only, so never `none` or HS*."""
LEEWAY_S = 30.0
"""Tolerated clock difference to issuers: synchronized clocks differ by less."""
_REQUIRED_CLAIMS = ["exp", "iat", "iss", "sub", "aud"]
_OTHER_TOKEN_TYPES = frozenset({"ID", "Refresh", "Offline", "Logout"})  # Keycloak's `typ` claim, under header typ JWT

_ERROR_REASONS: Sequence[tuple[type[Exception], str]] = (
    (jwt.InvalidAudienceError, "the token is meant for another audience"),
    (jwt.InvalidIssuerError, "the issuer of the token is not trusted"),
    (jwt.MissingRequiredClaimError, "the token lacks one of exp, iat, iss, sub, aud"),
    (jwt.InvalidAlgorithmError, "the signature algorithm of the token is not accepted"),
    (jwt.InvalidSignatureError, "the signature of the token is wrong"),
)


NO_CLAIMS: Mapping[str, Any] = MappingProxyType({})


class TokenClaims(msgspec.Struct, frozen=True):
    """Claims of a verified token. Times are seconds since 1970; `members` are all claims, unchanged."""

    issuer: str
    subject: str
    client_id: str  # "" = the token names no client
    scopes: frozenset[str]
    exp: float
    members: Mapping[str, Any] = NO_CLAIMS


Key = TypeVar("Key")


@dataclass(frozen=True, repr=False)
class PublishedKeys(Generic[Key]):
    """The usable keys of one JWK set, in the order of the set."""

    keys: Sequence[Key]
    digest: bytes  # changes exactly when a usable key does
    skipped: Sequence[str]  # positions of members that cannot be read, and why

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def read(cls, document: bytes, usable: Callable[[int, Any], Iterable[Key]]) -> Self:
        """Read the keys of a JWKS document: those that *usable* makes of a member and its position.

        A member that *usable* cannot read is skipped and reported, so that it does not affect the others. Raises
        ValueError if the document is not a JWK set.
        """
        try:
            members = msgspec.json.decode(document)["keys"]
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError, RecursionError):
            raise ValueError("is not a JWK set") from None
        if not isinstance(members, list) or len(members) > MAX_KEYS:
            raise ValueError(f"is not a JWK set of at most {MAX_KEYS} keys")
        keys: list[Key] = []
        skipped: list[str] = []
        for index, member in enumerate(members):
            try:
                keys += usable(index, member)
            except Exception as error:  # a member of any type in any place: the libraries expect texts
                skipped.append(f"#{index}: {type(error).__name__}")
        return cls(keys, hashlib.blake2b(msgspec.json.encode(members, order="deterministic")).digest(), skipped)


class VerificationKey(NamedTuple):
    """A public key of an issuer, for one algorithm. `kid` is its position in the set if it has none."""

    kid: str
    alg: str
    key: jwt.PyJWK


class KeySet(PublishedKeys[VerificationKey]):
    """The usable public keys of one issuer at one time."""

    def __len__(self) -> int:
        return len({key.kid for key in self.keys})

    def find(self, kid: str | None, alg: str) -> jwt.PyJWK | None:
        """Return key *kid* for *alg*. Without a kid, return the only key that fits.

        If several fit and the token names none, none is used (RFC 7515 leaves it open): trying one after the other
        would let a withdrawn key's double pass, and cost an attacker's token as many verifications as there are keys.
        """
        fitting: dict[str, jwt.PyJWK] = {}
        for key in self.keys:
            if key.alg == alg and kid in (None, key.kid):
                fitting.setdefault(key.kid, key.key)
        return fitting.popitem()[1] if len(fitting) == 1 else None


def parse_keys(document: bytes) -> KeySet:
    """Return the keys of a JWKS document that may verify one of `SIGNATURE_ALGORITHMS`.

    Symmetric, private, encryption and short RSA keys are left out, as RFC 7517 section 5 asks for unusable members. A
    set without a usable key is valid: then no token of the issuer is accepted any more. Raises ValueError.
    """

    def usable(index: int, member: Any) -> list[VerificationKey]:
        return [VerificationKey(member.get("kid", f"#{index}"), alg, key) for alg, key in usable_keys(member)]

    return KeySet.read(document, usable)


def usable_keys(member: Any, algorithms: Sequence[str] = SIGNATURE_ALGORITHMS) -> list[tuple[str, jwt.PyJWK]]:
    """Return the keys of one member of a set. Raises if a part of it has a wrong type or is not a key."""
    if not isinstance(member, dict) or not isinstance(member.get("kid", ""), str):
        raise TypeError
    if "d" in member or member.get("use", "sig") != "sig":
        return []
    if "verify" not in member.get("key_ops", ["verify"]):
        return []
    curve = member.get("crv", "") if member.get("kty") != "RSA" else ""
    fitting = _ALGORITHMS_OF_KEY.get((str(member.get("kty")), str(curve)), ())
    named = member.get("alg")
    names = [alg for alg in fitting if alg in algorithms and named in (None, alg)]
    usable = [(alg, jwt.PyJWK(member, alg)) for alg in names]
    return [(alg, key) for alg, key in usable if member["kty"] != "RSA" or key.key.key_size >= MIN_RSA_BITS]


_THUMBPRINT_MEMBERS: Mapping[str, tuple[str, ...]] = {
    "EC": ("crv", "kty", "x", "y"),
    "RSA": ("e", "kty", "n"),
    "OKP": ("crv", "kty", "x"),
}


def key_thumbprint(jwk: Mapping[str, Any]) -> str:
    """Return the thumbprint of a public key (RFC 7638). Raises KeyError for an unknown key type."""
    members = {name: jwk[name] for name in _THUMBPRINT_MEMBERS[jwk["kty"]]}
    return base64url(hashlib.sha256(msgspec.json.encode(members, order="sorted")).digest())


def base64url(raw: bytes) -> str:
    """Encode bytes as base64url, without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unverified_issuer(token: str) -> str:
    """Return the issuer that *token* claims, unverified: use it only to choose keys. Raises InvalidToken."""
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except jwt.PyJWTError:
        raise InvalidToken("the token is not a signed JWT") from None
    issuer = claims.get("iss")
    if not isinstance(issuer, str):
        raise InvalidToken("the issuer of the token is not trusted")
    return issuer


def verify_token(token: str, issuer: IssuerSettings, keys: KeySet, now: float) -> TokenClaims:
    """Verify an access token. Raises UnknownKey, InvalidToken."""
    claims = signed_claims(token, issuer, keys)
    exp = check_times(claims, now)
    if claims.get("typ") in _OTHER_TOKEN_TYPES:
        raise InvalidToken("the token is not an access token (claim typ)")
    named = next((claims[name] for name in ("client_id", "azp", "cid") if claims.get(name) is not None), "")
    for name in (claims["sub"], named):
        if not isinstance(name, str) or len(name) > MAX_CLAIM_NAME_LENGTH:
            raise InvalidToken("the subject or client of the token is not a name")
    if not claims["sub"]:
        raise InvalidToken("the token has an empty subject")
    scopes = frozenset(_scope_names(claims.get("scope"), issuer) + _scope_names(claims.get("scp"), issuer))
    return TokenClaims(claims["iss"], claims["sub"], named, scopes, exp, claims)


def signed_claims(token: str, issuer: IssuerSettings, keys: KeySet, *, typed: bool = True) -> dict[str, Any]:
    """Return the claims of a token with a valid header, signature, issuer and audience. The other claims are not
    checked yet.

    Raises InvalidToken.
    """
    kid, alg = _checked_header(token, typed=typed)
    key = keys.find(kid, alg)
    if key is None:
        raise UnknownKey(issuer.issuer)
    try:
        return jwt.decode(
            token,
            key,
            algorithms=SIGNATURE_ALGORITHMS,
            audience=issuer.audiences,
            issuer=issuer.issuer,
            options={"require": _REQUIRED_CLAIMS, "verify_exp": False, "verify_nbf": False, "verify_iat": False},
        )
    except jwt.PyJWTError as error:
        reasons = (text for kind, text in _ERROR_REASONS if isinstance(error, kind))
        raise InvalidToken(next(reasons, "the token is malformed")) from None


def _checked_header(token: str, *, typed: bool) -> tuple[str | None, str]:
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError:
        raise InvalidToken("the header of the token is not accepted") from None
    kid, alg, typ = header.get("kid"), header.get("alg"), header.get("typ")
    if "crit" in header or "b64" in header:
        raise InvalidToken("the token uses an extension that is not understood (crit)")
    if alg not in SIGNATURE_ALGORITHMS:
        raise InvalidToken("the signature algorithm of the token is not accepted")
    if typ is None and not typed:
        typ = "JWT"
    accepted = ("at+jwt", "jwt") if typed else ("jwt",)  # RFC 9068 uses the first, Keycloak and Hydra the second
    if not isinstance(typ, str) or typ.lower().removeprefix("application/") not in accepted:
        raise InvalidToken(f"the token is not an {'access' if typed else 'ID'} token (header typ)")
    if kid is not None and not 0 < len(kid) <= MAX_KEY_ID_LENGTH:
        raise InvalidToken("the header of the token is not accepted")
    return kid, alg


def check_times(claims: Mapping[str, Any], now: float) -> float:
    """Return `exp` of claims that are valid at *now* (seconds since 1970). Raises InvalidToken."""
    exp, iat = _numeric_date(claims["exp"], "exp"), _numeric_date(claims["iat"], "iat")
    if exp <= now - LEEWAY_S:
        raise InvalidToken("the token has expired")
    starts = _numeric_date(claims["nbf"], "nbf") if claims.get("nbf") is not None else iat
    if max(starts, iat) > now + LEEWAY_S:
        raise InvalidToken("the token is not valid yet", lasting=False)
    return exp


def _numeric_date(value: Any, claim: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e12 or math.isnan(value):
        raise InvalidToken(f"the claim {claim} of the token is not a time")
    return float(value)


def split_scopes(text: str, issuer: IssuerSettings) -> list[str]:
    """Split one text into scopes, as that issuer writes them."""
    if issuer.scopes == "spaces":
        return text.split()
    return [name for part in text.split(",") if (name := part.strip())]


def _scope_names(value: Any, issuer: IssuerSettings) -> list[str]:
    """`scope` is text with blanks (RFC 9068), `scp` a list (Okta, Hydra) or text (Entra); both are read as either."""
    if isinstance(value, str):
        return split_scopes(value, issuer)
    if isinstance(value, list) and all(isinstance(scope, str) for scope in value):
        return value
    if value is None:
        return []
    raise InvalidToken("the scopes of the token are malformed")


# ID tokens (OpenID Connect Core 3.1.3.7) open the console, and no API.


def verify_id_token(token: str, issuer: IssuerSettings, keys: KeySet, nonce: str, now: float) -> Mapping[str, Any]:
    """Return the claims of an ID token that answers our request. Raises UnknownKey, InvalidToken."""
    if len(token) > MAX_TOKEN_BYTES:
        raise InvalidToken("the token is too long")
    claims = signed_claims(token, issuer, keys, typed=False)
    check_times(claims, now)
    client_id = issuer.audiences[0]
    several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
    if claims.get("azp") != client_id and (several or claims.get("azp") is not None):
        raise InvalidToken("the token was issued to another client (azp)")
    said = claims.get("nonce")
    if not isinstance(said, str) or not hmac.compare_digest(said.encode(errors="replace"), nonce.encode()):
        raise InvalidToken("the token answers another request (nonce)")
    subject = claims["sub"]
    if not isinstance(subject, str) or not 0 < len(subject) <= MAX_CLAIM_NAME_LENGTH:
        raise InvalidToken("the subject of the token is not a name")
    return claims


MAX_THUMBPRINT_LENGTH: Final = 256


class TokenBinding(NamedTuple):
    """Key or certificate that a token is bound to (`cnf`, RFC 7800); "" if it is not bound."""

    jkt: str = ""  # thumbprint of a key (RFC 7638)
    x5t: str = ""  # SHA-256 of a certificate, base64url
    is_unchecked: bool = False  # `cnf` has a member that is checked nowhere here, or none at all


UNBOUND: Final = TokenBinding()
_CHECKED_MEMBERS: Final = ("jkt", "x5t#S256")


def read_binding(members: Mapping[str, Any]) -> TokenBinding:
    """Return what a token with these claims is bound to. Raises InvalidToken if the binding is not understood."""
    confirmation = members.get("cnf")
    if confirmation is None:
        return UNBOUND
    if not isinstance(confirmation, dict):
        raise InvalidToken("the token is bound to something that is not understood (cnf)")
    named = {name: confirmation[name] for name in _CHECKED_MEMBERS if name in confirmation}
    if not all(isinstance(value, str) and 0 < len(value) <= MAX_THUMBPRINT_LENGTH for value in named.values()):
        raise InvalidToken("the token is bound to something that is not understood (cnf)")
    is_unchecked = not named or len(named) < len(confirmation)
    return TokenBinding(named.get("jkt", ""), named.get("x5t#S256", ""), is_unchecked)
