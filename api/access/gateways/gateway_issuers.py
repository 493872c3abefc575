"""Issuers of tokens at gateways: from verified claims to an access request."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import msgspec
import structlog

from trustwatch.ingest.errors import TrustwatchError
from trustwatch.ingest.outgoing_http import connection_error_text, make_http_client
from trustwatch.scoring.delivery.actuators.authenticators import ClientAuthenticator, make_client_authenticator
from trustwatch.scoring.delivery.actuators.token_revocation import RevocationEndpoint, TokenRevoker
from trustwatch.scoring.policy.access_evaluation import AccessRequest

from ...http.auth.bearer_tokens import TokenCache, TokenVerifier
from ...http.auth.jwks import EpochClock, JwksCache
from ...http.auth.signing import assertion_signer
from ...http.auth.token_verification import (
    MAX_CLAIM_NAME_LENGTH,
    InvalidToken,
    TokenBinding,
    TokenClaims,
    read_binding,
    split_scopes,
)
from ...settings.access_settings import VerificationSettings
from ...settings.enforcement_settings import GatewayIssuerSettings, GatewaySettings, IntrospectionServerSettings
from ..decision_point import MAX_SCOPES, RequestLimitExceeded, earlier_actors

CLIENT_CLAIMS = ("client_id", "azp", "cid")


class TokenHolder(NamedTuple):
    """Claims of a token, read once and remembered with it.

    Attributes:
        access_request: about its agent; the same at every call, the answer is not.
        bound_to: the key or certificate that each call has to prove; bound to a key it is worth nothing under
            `Bearer` (RFC 9449 section 7.1).
        issuer: `iss` of the token, for its revocation.
        encoded_claims: all claims, or members of the issuer's introspection answer, as JSON: a fraction of what objects
            take, and used only by introspection.
    """

    access_request: AccessRequest
    bound_to: TokenBinding
    issuer: str
    encoded_claims: bytes

    def decode_claims(self) -> dict[str, Any]:
        claims: dict[str, Any] = msgspec.json.decode(self.encoded_claims)
        return claims


class TokenHolderFactory:
    """Makes the holder of a token from its claims, or from an introspection answer."""

    def __init__(self, issuers: Iterable[GatewayIssuerSettings]) -> None:
        self._issuers = {issuer.issuer: issuer for issuer in issuers}

    def from_claims(self, claims: TokenClaims) -> TokenHolder:
        """Return the holder of a token that was verified here. Raises InvalidToken."""
        client = claims.client_id or claims.subject
        return self._make(self._issuers[claims.issuer], client, claims.scopes, claims.members)

    def from_introspection(self, issuer: str, members: Mapping[str, Any]) -> TokenHolder:
        """Return the holder of a token that its issuer reports as active. Raises InvalidToken if it names no agent."""
        named = next((members[name] for name in CLIENT_CLAIMS if members.get(name) is not None), members.get("sub"))
        settings, given = self._issuers[issuer], members.get("scope")
        scopes = frozenset(split_scopes(given, settings)) if isinstance(given, str) else frozenset()
        return self._make(settings, _check_name(named), scopes, members)

    def _make(
        self, settings: GatewayIssuerSettings, client: str, scopes: frozenset[str], members: Mapping[str, Any]
    ) -> TokenHolder:
        act, agent = members.get("act"), client
        if act is not None:  # the outermost actor is the current one (RFC 8693)
            agent = _check_name(act.get("sub") if isinstance(act, dict) else None)
        if len(scopes) > MAX_SCOPES:
            raise InvalidToken(f"the token has more than {MAX_SCOPES} scopes")
        try:
            ancestors = earlier_actors(act, agent)
        except RequestLimitExceeded:
            raise InvalidToken("an actor of the token has an invalid name") from None
        tenant = None if settings.tenant_claim is None else members.get(settings.tenant_claim)
        question = AccessRequest(
            _check_name(settings.tenant if tenant is None else tenant, "the token names no tenant"),
            settings.agent_issuer or settings.issuer,
            agent,
            tuple(sorted(scopes)),
            False,
            ancestors,
            caller=f"gateway:{settings.issuer}",
        )
        return TokenHolder(question, read_binding(members), settings.issuer, _encode_claims(members, settings))


def _encode_claims(members: Mapping[str, Any], settings: GatewayIssuerSettings) -> bytes:
    """Return claims as JSON, with scopes separated by spaces as RFC 7662 requires.

    Raises InvalidToken for lone surrogates, which a token can have, but an event or a log cannot.
    """
    if settings.scopes != "spaces":
        texts = {name: text for name in ("scope", "scp") if isinstance(text := members.get(name), str)}
        members = {**members, **{name: " ".join(split_scopes(text, settings)) for name, text in texts.items()}}
    try:
        return msgspec.json.encode(members)
    except (UnicodeEncodeError, RecursionError):
        raise InvalidToken("the token has text that is not valid Unicode") from None


def _check_name(value: Any, wrong: str = "the agent of the token has no valid name") -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_CLAIM_NAME_LENGTH:
        raise InvalidToken(wrong)
    return value


MAX_INTROSPECTION_BYTES = 64 * 1024
MAX_CONCURRENT_INTROSPECTIONS = 64
"""Concurrent requests to one authorization server; a further one fails as if the server were unreachable."""
ANSWERS_KEPT_S = 2.0
"""Time for which an introspection answer is kept: a revoked token passes no longer than that."""

INTROSPECTION_TIMEOUT_S = 2.0
"""Time budget of one introspection: the agent's call waits for it."""

HTTP_TIMEOUT_S = 30.0
"""Time limit of any request. Each use has a shorter one."""
MAX_CACHED_INTROSPECTIONS = 4096
"""Answers of one authorization server that are kept, active and inactive each."""

ClaimMembers = Mapping[str, Any]

_log = structlog.get_logger(__name__)


class IntrospectionUnreachable(TrustwatchError):
    """Raised if an authorization server did not report whether a token is active."""

    code = "unreachable"


@dataclass(eq=False, repr=False)
class IntrospectionClient:
    """Calls the introspection endpoint of one authorization server. Use it from one event loop."""

    _issuer: GatewayIssuerSettings
    settings: IntrospectionServerSettings
    _proof: ClientAuthenticator
    _http: httpx2.AsyncClient
    _clock: EpochClock

    def __post_init__(self) -> None:
        self.issuer = self._issuer.issuer
        self._cache: TokenCache[ClaimMembers] = TokenCache(
            MAX_CACHED_INTROSPECTIONS, MAX_CACHED_INTROSPECTIONS, ANSWERS_KEPT_S
        )
        self._in_flight: dict[bytes, asyncio.Task[ClaimMembers]] = {}
        self._failing = False

    async def introspect(self, token: bytes) -> ClaimMembers:
        """Return what the authorization server reports about an active token. Raises InvalidToken,
        IntrospectionUnreachable.
        """
        digest = hashlib.blake2b(token, digest_size=16).digest()
        cached = self._cache.get(digest, self._clock())
        if cached is not None:
            return cached
        asking = self._in_flight.get(digest)
        if asking is None:
            if len(self._in_flight) >= MAX_CONCURRENT_INTROSPECTIONS:
                raise IntrospectionUnreachable(f"{self.issuer}: too many introspection requests are in progress")
            asking = self._in_flight[digest] = asyncio.create_task(self._introspect_once(token, digest))
            asking.add_done_callback(lambda _: self._in_flight.pop(digest, None))
        return await asyncio.shield(asking)

    async def close(self) -> None:
        """Cancel requests in progress."""
        tasks = list(self._in_flight.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _introspect_once(self, token: bytes, digest: bytes) -> ClaimMembers:
        asked_at = self._clock()
        try:
            async with asyncio.timeout(INTROSPECTION_TIMEOUT_S):
                members = await self._fetch(token.decode("ascii"))
        except (TimeoutError, httpx2.HTTPError, IntrospectionUnreachable) as error:
            if not self._failing:
                _log.warning(
                    "introspection_unreachable", issuer=self.issuer, error=connection_error_text(error, with_text=True)
                )
            self._failing = True
            raise IntrospectionUnreachable(f"{self.issuer}: introspection is unavailable") from None
        self._failing = False
        try:
            self._check_active(members, asked_at)
        except InvalidToken as error:
            self._cache.refuse(digest, error, asked_at)
            raise
        self._cache.accept(digest, members, asked_at + ANSWERS_KEPT_S, self.issuer)
        return members

    async def _fetch(self, token: str) -> ClaimMembers:
        form = {"token": token, "token_type_hint": "access_token"}
        headers = {"accept": "application/json", **self._proof.authenticate(self.settings.url, form)}
        answer = await self._http.post(self.settings.url, data=form, headers=headers)
        if answer.status_code != httpx2.codes.OK:
            raise IntrospectionUnreachable(f"HTTP {answer.status_code}")
        if len(answer.content) > MAX_INTROSPECTION_BYTES:
            raise IntrospectionUnreachable(f"an answer of more than {MAX_INTROSPECTION_BYTES} bytes")
        try:
            members = msgspec.json.decode(answer.content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise IntrospectionUnreachable("the answer is not valid JSON") from None
        if not isinstance(members, dict) or not isinstance(members.get("active"), bool):
            raise IntrospectionUnreachable("the answer does not state whether the token is active")
        return members

    def _check_active(self, members: ClaimMembers, now: float) -> None:
        audience = members.get("aud")
        audiences = [audience] if isinstance(audience, str) else audience if isinstance(audience, list) else []
        exp = members.get("exp")
        wrong = (
            members["active"] is not True
            or members.get("iss", self.issuer) != self.issuer
            or (audience is not None and not set(self._issuer.audiences).intersection(map(str, audiences)))
            or (isinstance(exp, int | float) and exp <= now)
            # Hydra and Keycloak report refresh tokens as active, too
            or members.get("token_use", "access_token") != "access_token"
            or members.get("typ") in ("ID", "Refresh", "Offline", "Logout")
        )
        if wrong:
            raise InvalidToken("the token is not active")


class GatewayIssuers:
    """Keys, introspection and revocation of the issuers of a service's gateways; `start` and `close` it.

    Attributes:
        verifier: judges the tokens of agents.
        introspection_clients: introspection endpoints, in the order of the settings.
        revoker: revokes tokens that are used although the policy revokes them.
        revocation_counts: such tokens, by (issuer, outcome).
    """

    def __init__(
        self,
        settings: GatewaySettings,
        rules: VerificationSettings,
        clock: EpochClock,
        new_id: Callable[[], str],
        monotonic: Callable[[], float],
        ca_file: Path | None = None,
    ) -> None:
        proofs = {}
        for issuer in settings.issuers:
            sign = None
            if issuer.private_key is not None:
                sign = assertion_signer(issuer.private_key.reveal(), issuer.key_id, clock, new_id)
            proofs[issuer.issuer] = make_client_authenticator(
                issuer.client_id, issuer.client_secret, sign, issuer.issuer
            )
        self.holder_factory = TokenHolderFactory(settings.issuers)
        self.jwks = JwksCache(settings.issuers, clock, monotonic, ca_file)
        self.verifier: TokenVerifier[TokenHolder] = TokenVerifier(
            settings.issuers, self.jwks, self.holder_factory.from_claims, rules, clock
        )
        self.issuer_names = frozenset(issuer.issuer for issuer in settings.issuers)
        self.revocation_counts: Counter[tuple[str, str]] = Counter()
        self._http = make_http_client(ca_file, timeout=HTTP_TIMEOUT_S, limits=httpx2.Limits(max_connections=200))
        self.introspection_clients = {
            issuer.issuer: IntrospectionClient(issuer, issuer.introspection, proofs[issuer.issuer], self._http, clock)
            for issuer in settings.issuers
            if issuer.introspection is not None
        }
        endpoints = [
            RevocationEndpoint(
                issuer.issuer,
                frozenset({issuer.issuer}),
                issuer.revocation_url,
                proofs[issuer.issuer],
                "" if issuer.introspection is None else issuer.introspection.url,
            )
            for issuer in settings.issuers
            if issuer.revocation_url is not None
        ]
        counts = self.revocation_counts
        self.revoker = TokenRevoker(endpoints, self._http, lambda *labels: counts.update((labels,)))

    async def start(self) -> None:
        """Fetch keys, waiting a moment for them, and keep them fresh."""
        await self.jwks.start()

    async def close(self) -> None:
        """Close connections, once revocations under way have ended."""
        await self.jwks.close()
        for server in self.introspection_clients.values():
            await server.close()
        await self.revoker.close()
        await self._http.aclose()
