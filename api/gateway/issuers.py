"""The issuers behind gateways: their keys, what they are asked about opaque tokens, where tokens are revoked."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import msgspec
import structlog

from ...ingest.errors import TrustwatchError
from ...scoring.actuators.auth import AssertionProof, ClientProof, SecretProof
from ...scoring.actuators.rfc7009 import RevocationEndpoint, TokenRevoker
from ..settings import AskedServerSettings, GatewayIssuerSettings, GatewaySettings, VerificationSettings
from ..tokens import InvalidToken, Jwks, TokenCache, TokenVerifier
from ..tokens.jwks import Clock
from ..tokens.sign import assertion_signer
from .holder import Holder, Holders

MAX_ANSWER = 64 * 1024
MOST_ASKED = 64
"""Questions to one authorization server at a time; a further one is told that it can not be reached."""
LONGEST_S = 30.0
"""Time limit of any request; each use has a shorter one of its own."""
REMEMBERED = 4096
"""Answers of one authorization server that are kept, active and inactive each."""

Members = Mapping[str, Any]

_log = structlog.get_logger(__name__)


class Unreachable(TrustwatchError):
    """An authorization server did not say whether a token is active."""

    code = "unreachable"


class _NoProof:
    """For endpoints that their network protects, as Hydra's admin API."""

    def prove(self, url: str, form: dict[str, str]) -> dict[str, str]:  # noqa: ARG002 - the protocol's names
        return {}


class AskedServer:
    """One authorization server's introspection endpoint. For one event loop.

    Args:
        issuer: the `iss` of its tokens.
        settings: of the endpoint.
        proof: our client authentication there.
        http: client without a time limit of its own.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        issuer: GatewayIssuerSettings,
        settings: AskedServerSettings,
        proof: ClientProof,
        http: httpx.AsyncClient,
        clock: Clock,
    ) -> None:
        self.issuer = issuer.issuer
        self.settings = settings
        self._audiences = frozenset(issuer.audiences)
        self._proof = proof
        self._http = http
        self._clock = clock
        self._known: TokenCache[Members] = TokenCache(REMEMBERED, REMEMBERED, settings.cache_s)
        self._asking: dict[bytes, asyncio.Task[Members]] = {}
        self._failing = False

    async def ask(self, token: bytes) -> Members:
        """What the server says of an active token.

        Raises:
            InvalidToken: it is not active, or not for the APIs behind our gateways.
            Unreachable: the server did not say.
        """
        digest = hashlib.blake2b(token, digest_size=16).digest()
        known = self._known.get(digest, self._clock())
        if known is not None:
            return known
        asking = self._asking.get(digest)
        if asking is None:
            if len(self._asking) >= MOST_ASKED:
                raise Unreachable(f"{self.issuer}: too many questions wait")
            asking = self._asking[digest] = asyncio.create_task(self._answer(token, digest))
            asking.add_done_callback(lambda _: self._asking.pop(digest, None))
        return await asyncio.shield(asking)

    async def close(self) -> None:
        """End questions under way."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, token: bytes, digest: bytes) -> Members:
        asked = self._clock()
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                members = await self._fetch(token.decode("ascii"))
        except (TimeoutError, httpx.HTTPError, Unreachable) as error:
            if not self._failing:
                _log.warning("introspection_unreachable", issuer=self.issuer, error=f"{type(error).__name__}: {error}")
            self._failing = True
            raise Unreachable(f"{self.issuer}: introspection can not be asked") from None
        self._failing = False
        try:
            self._check(members, asked)
        except InvalidToken as error:
            self._known.refuse(digest, error, asked)
            raise
        self._known.accept(digest, members, asked + self.settings.cache_s, self.issuer)
        return members

    async def _fetch(self, token: str) -> Members:
        form = {"token": token, "token_type_hint": "access_token"}
        headers = {"accept": "application/json", **self._proof.prove(self.settings.url, form)}
        answer = await self._http.post(self.settings.url, data=form, headers=headers)
        if answer.status_code != httpx.codes.OK:
            raise Unreachable(f"HTTP {answer.status_code}")
        if len(answer.content) > MAX_ANSWER:
            raise Unreachable(f"an answer of more than {MAX_ANSWER} bytes")
        try:
            members = msgspec.json.decode(answer.content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Unreachable("the answer is no JSON") from None
        if not isinstance(members, dict) or not isinstance(members.get("active"), bool):
            raise Unreachable("the answer does not say whether the token is active")
        return members

    def _check(self, members: Members, now: float) -> None:
        audience = members.get("aud")
        audiences = [audience] if isinstance(audience, str) else audience if isinstance(audience, list) else []
        exp = members.get("exp")
        wrong = (
            members["active"] is not True
            or members.get("iss", self.issuer) != self.issuer
            or (audience is not None and not self._audiences.intersection(map(str, audiences)))
            or (isinstance(exp, int | float) and exp <= now)
            # Hydra and Keycloak say of refresh tokens too that they are active
            or members.get("token_use", "access_token") != "access_token"
            or members.get("typ") in ("ID", "Refresh", "Offline", "Logout")
        )
        if wrong:
            raise InvalidToken("the token is not active")


class GatewayIssuers:
    """Everything that is held of the issuers of a service's gateways; `start` and `close` it.

    Args:
        settings: of gateways.
        rules: of verification.
        clock: seconds since 1970.
        new_id: text that never repeats.

    Attributes:
        verifier: judges the tokens of agents.
        asked: introspection endpoints, in the order of the settings.
        revoker: revokes tokens that are seen though policy says `revoke`.
        revoked: such tokens, by (issuer, outcome).
    """

    def __init__(
        self, settings: GatewaySettings, rules: VerificationSettings, clock: Clock, new_id: Callable[[], str]
    ) -> None:
        proofs = {one.issuer: _proof(one, clock, new_id) for one in settings.issuers}
        self.holders = Holders(settings.issuers)
        self.jwks = Jwks(settings.issuers, rules, clock)
        self.verifier: TokenVerifier[Holder] = TokenVerifier(
            settings.issuers, self.jwks, self.holders.of_claims, rules, clock
        )
        self.names = frozenset(issuer.issuer for issuer in settings.issuers)
        self.revoked: Counter[tuple[str, str]] = Counter()
        # No proxies, certificates or .netrc from the environment: only the settings say whom to trust.
        self._http = httpx.AsyncClient(
            follow_redirects=False, trust_env=False, timeout=LONGEST_S, limits=httpx.Limits(max_connections=200)
        )
        self.asked = {
            one.issuer: AskedServer(one, one.introspection, proofs[one.issuer], self._http, clock)
            for one in settings.issuers
            if one.introspection is not None
        }
        endpoints = [endpoint for one in settings.issuers if (endpoint := _revocation(one, proofs[one.issuer]))]
        self.revoker = TokenRevoker(endpoints, self._http, self._revoked)

    def _revoked(self, name: str, outcome: str) -> None:
        self.revoked[name, outcome] += 1

    async def start(self) -> None:
        """Fetch keys, waiting a moment for them, and keep them fresh."""
        await self.jwks.start()

    async def close(self) -> None:
        """End everything; revocations under way are waited for."""
        await self.jwks.close()
        for server in self.asked.values():
            await server.close()
        await self.revoker.close()
        await self._http.aclose()


def _proof(issuer: GatewayIssuerSettings, clock: Clock, new_id: Callable[[], str]) -> ClientProof:
    if issuer.client_id is None:
        return _NoProof()
    if issuer.private_key is not None:
        sign = assertion_signer(issuer.private_key.reveal(), issuer.key_id, issuer.key_algorithm, clock, new_id)
        return AssertionProof(issuer.client_id, sign, issuer.issuer)
    return SecretProof(issuer.client_id, "" if issuer.client_secret is None else issuer.client_secret.reveal())


def _revocation(issuer: GatewayIssuerSettings, proof: ClientProof) -> RevocationEndpoint | None:
    if issuer.revocation_url is None:
        return None
    introspection = "" if issuer.introspection is None else issuer.introspection.url
    return RevocationEndpoint(issuer.issuer, frozenset({issuer.issuer}), issuer.revocation_url, proof, introspection)
