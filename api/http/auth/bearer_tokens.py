"""Bearer tokens of callers: verified once and remembered until they end.

Verified and refused tokens are kept separately, so that a flood of invalid tokens evicts no valid one.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any, Generic, NamedTuple, TypeVar

from cachetools import FIFOCache

from ...settings.access_settings import IssuerSettings, VerificationSettings
from .jwks import EpochClock, JwksCache
from .token_verification import (
    LEEWAY_S,
    MAX_TOKEN_BYTES,
    BadAuthorization,
    InvalidToken,
    MissingToken,
    TokenClaims,
    UnknownKey,
    unverified_issuer,
    verify_token,
)

CACHED_TOKENS = 16_384
"""Number of verified tokens that are remembered, until `exp`."""

REFUSED_TOKENS = 4_096
"""Number of refused tokens that are remembered."""

REFUSED_S = 5.0
"""Time for which a refusal is remembered: short, because a new key may make the token valid."""

UNKNOWN_KEY_WAIT_S = 0.5
"""Time for which a token with an unknown key may wait for a fetch of keys."""

CachedCaller = TypeVar("CachedCaller")


class TokenCache(Generic[CachedCaller]):
    """Two bounded maps from token digest to verdict. For one thread.

    The least recently used accepted token and the oldest refused one are evicted first. Every answer reads the former,
    so it is a bare OrderedDict: a cache of cachetools would cost a few more calls.
    """

    def __init__(self, verified: int, refused: int, refused_s: float) -> None:
        self._verified: OrderedDict[bytes, tuple[CachedCaller, float, str]] = OrderedDict()
        self._refused: FIFOCache[bytes, tuple[str, float]] = FIFOCache(refused)
        self._max_verified = verified
        self._refused_s = refused_s

    def __len__(self) -> int:
        return len(self._verified)

    @property
    def refusals(self) -> int:
        """Number of refusals that are kept."""
        return len(self._refused)

    def get(self, digest: bytes, now: float) -> CachedCaller | None:
        """Return the holder of a token verified earlier, or None. Raises InvalidToken."""
        verified = self._verified.get(digest)
        if verified is not None:
            if now < verified[1]:
                self._verified.move_to_end(digest)
                return verified[0]
            del self._verified[digest]
        elif digest in self._refused:
            reason, until = self._refused[digest]
            if now < until:
                raise InvalidToken(reason)
            del self._refused[digest]
        return None

    def accept(self, digest: bytes, holder: CachedCaller, until: float, issuer: str) -> None:
        """Remember *holder* until *until*, or until the keys of *issuer* change."""
        self._verified[digest] = (holder, until, issuer)
        if len(self._verified) > self._max_verified:
            self._verified.popitem(last=False)

    def refuse(self, digest: bytes, error: InvalidToken, now: float) -> None:
        """Remember that the token was refused, unless it may be accepted a moment later."""
        if error.lasting and self._refused_s:
            self._refused[digest] = (error.reason, now + self._refused_s)

    def clear(self) -> None:
        self._verified.clear()
        self._refused.clear()

    def forget_issuer(self, issuer: str) -> None:
        """Drop what was verified with keys of *issuer*, and every refusal."""
        stale = [digest for digest, (_, _, by) in self._verified.items() if by == issuer]
        for digest in stale:
            del self._verified[digest]
        self._refused.clear()


BoundCaller = TypeVar("BoundCaller")


class PresentedToken(NamedTuple):
    """A token as it was presented: under `Bearer`, or under `DPoP` (RFC 9449)."""

    token: bytes
    is_dpop: bool


def authorization_header(scope: Mapping[str, Any]) -> bytes | None:
    """Return the Authorization header of a request (its ASGI scope), or None. Raises BadAuthorization if there are
    several."""
    given: bytes | None = None
    for name, value in scope["headers"]:
        if name == b"authorization":
            if given is not None:
                raise BadAuthorization("the request has several Authorization headers")
            given = value
    return given


def presented_token(authorization: bytes | None) -> PresentedToken:
    """Return the token of an Authorization header as received. Raises MissingToken, BadAuthorization."""
    if authorization is None:
        raise MissingToken("the request has no bearer token")
    scheme, _, token = authorization.partition(b" ")
    scheme = scheme.lower()
    if authorization and scheme not in (b"bearer", b"dpop"):
        raise MissingToken("the request has no bearer token")
    token = token.strip(b" ")
    if not token or b" " in token:
        raise BadAuthorization("the Authorization header is not a bearer credential")
    return PresentedToken(token, scheme == b"dpop")


ProofCheck = Callable[[BoundCaller, PresentedToken, MutableMapping[str, Any]], None]
"""Raises ProofRefused unless a request (its ASGI scope) proves what the token of its caller is bound to."""

CallerWithoutToken = Callable[[MutableMapping[str, Any]], BoundCaller]
"""The caller of a request (its ASGI scope) that has no token; raises AuthenticationFailed."""


class TokenVerifier(Generic[BoundCaller]):
    """Verifies bearer tokens. For one event loop; `verify_now` neither waits nor sends requests."""

    def __init__(
        self,
        issuers: Iterable[IssuerSettings],
        jwks: JwksCache,
        bind: Callable[[TokenClaims], BoundCaller],
        rules: VerificationSettings,
        clock: EpochClock,
    ) -> None:
        self._issuers = {issuer.issuer: issuer for issuer in issuers}
        self._jwks = jwks
        self._bind = bind
        self.bindings = 0
        """Number of times that tokens were rebound. Whatever outlives a request ends if it changes."""
        self._rules = rules
        self._clock = clock
        self.check_proof: ProofCheck[BoundCaller] | None = None
        """Checks the proof that a bound token comes with; None = bound tokens are refused."""
        self.caller_without_token: CallerWithoutToken[BoundCaller] | None = None
        """Finds callers by their client certificates; None = all have tokens."""
        self.cache: TokenCache[BoundCaller] = TokenCache(CACHED_TOKENS, REFUSED_TOKENS, REFUSED_S)
        jwks.on_change(self.cache.forget_issuer)

    def use(self, bind: Callable[[TokenClaims], BoundCaller]) -> None:
        """Rebind tokens from now on, and forget everything that was verified."""
        self._bind = bind
        self.bindings += 1
        self.cache.clear()

    def verify_now(self, token: bytes) -> BoundCaller:
        """Return the caller of *token* (compact JWS, as received), verified with the keys in memory.

        Raises UnknownKey, InvalidToken.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise InvalidToken("the token is too long")
        digest = hashlib.blake2b(token, digest_size=16).digest()
        now = self._clock()
        cached = self.cache.get(digest, now)
        return cached if cached is not None else self._verify_and_cache(token, digest, now)

    async def verify(self, token: bytes) -> BoundCaller:
        """Like `verify_now`, but a token whose key is not held waits up to `UNKNOWN_KEY_WAIT_S` for a fetch.

        Raises InvalidToken.
        """
        try:
            return self.verify_now(token)
        except UnknownKey as unknown:
            fetch = self._jwks.refresh_soon(unknown.issuer)
            if fetch is None:
                raise
            await asyncio.wait([fetch], timeout=UNKNOWN_KEY_WAIT_S)
        return self.verify_now(token)

    def _verify_and_cache(self, token: bytes, digest: bytes, now: float) -> BoundCaller:
        try:
            claims, until = self._verify_claims(token, now)
        except UnknownKey as unknown:
            with suppress(RuntimeError):  # no event loop: a command verifies one token with the keys it has
                self._jwks.refresh_soon(unknown.issuer)
            raise
        except InvalidToken as error:
            self.cache.refuse(digest, error, now)
            raise
        caller = self._bind(claims)
        self.cache.accept(digest, caller, until, claims.issuer)
        return caller

    def _verify_claims(self, token: bytes, now: float) -> tuple[TokenClaims, float]:
        try:
            text = token.decode("ascii")
        except UnicodeDecodeError:
            raise InvalidToken("the token is not a signed JWT") from None
        issuer = self._issuers.get(unverified_issuer(text))
        if issuer is None:
            raise InvalidToken("the issuer of the token is not trusted")
        keys = self._jwks.keys(issuer.issuer)
        if keys is None:
            raise UnknownKey(issuer.issuer)
        claims = verify_token(text, issuer, keys, now)
        until = min(claims.exp + LEEWAY_S, self._jwks.usable_until(issuer.issuer))
        return claims, until
