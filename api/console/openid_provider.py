"""Sign-in at an OpenID provider: authorization code with PKCE, state, nonce, issuer check (RFC 6749, 7636, 9207, 9700).

Everything from the provider is checked before use: its issuer, that its endpoints are https, and the ID token. Its
access and refresh tokens are not kept.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import anyio
import httpx2
import msgspec

from trustwatch.ingest.errors import TrustwatchError
from trustwatch.ingest.outgoing_http import connection_error_text, make_http_client
from trustwatch.ingest.settings import check_url
from trustwatch.scoring.delivery.actuators.authenticators import ClientAuthenticator, make_client_authenticator

from ..http.auth.jwks import JwksCache
from ..http.auth.signing import assertion_signer
from ..http.auth.token_verification import InvalidToken, UnknownKey, verify_id_token
from ..settings.access_settings import IssuerSettings, VerificationSettings
from ..settings.service_settings import ConsoleOidcSettings
from .console_sessions import PendingSignIn

PROVIDER_TIMEOUT_S = 5.0  # Time budget of one request to the provider: a person waits for it
METADATA_VALID_S = 3600.0
FAILURE_REMEMBERED_S = 2.0
"""Seconds after which a provider that failed is queried again, so that people do not wait for earlier attempts."""

MAX_PROVIDER_BYTES = 512 * 1024
DISCOVERY_PATH = "/.well-known/openid-configuration"


class ProviderUnavailable(TrustwatchError):
    """Raised if the provider does not answer or its answer is invalid: no person can sign in now."""

    code = "provider_unavailable"


class SignInRefused(TrustwatchError):
    """Raised if this sign-in has failed; another attempt may succeed."""

    code = "sign_in_refused"


class ProviderMetadata(msgspec.Struct, frozen=True):
    """Metadata of the provider (OpenID Connect Discovery)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str = ""
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    authorization_response_iss_parameter_supported: bool = False


class _ProviderTokens(msgspec.Struct, frozen=True):
    id_token: str
    access_token: str = ""


@dataclass(eq=False, repr=False)
class OpenIdProvider:
    """The OpenID provider of the settings, which sends people back to *redirect_uri*.

    Raises ConfigError: the client key is invalid.
    """

    settings: ConsoleOidcSettings
    rules: VerificationSettings
    redirect_uri: str
    clock: Callable[[], float]
    new_id: Callable[[], str]
    monotonic: Callable[[], float]
    ca_file: Path | None = None

    def __post_init__(self) -> None:
        self._http: httpx2.AsyncClient | None = None
        self._metadata: tuple[ProviderMetadata, float] | None = None
        self._failed: tuple[ProviderUnavailable, float] | None = None
        self._jwks: tuple[str, IssuerSettings, JwksCache] | None = None
        self._lock = anyio.Lock()
        self._sign = None
        if self.settings.client_key is not None:
            key, key_id = self.settings.client_key.reveal(), self.settings.client_key_id or ""
            self._sign = assertion_signer(key, key_id, self.clock, self.new_id)

    async def close(self) -> None:
        """Close connections."""
        if self._jwks is not None:
            await self._jwks[2].close()
        if self._http is not None:
            await self._http.aclose()
        self._jwks = self._http = None

    async def metadata(self) -> ProviderMetadata:
        """Return the metadata of the provider, which is reloaded every hour. Raises ProviderUnavailable."""
        async with self._lock:
            now = self.clock()
            if self._metadata is not None and now - self._metadata[1] < METADATA_VALID_S:
                return self._metadata[0]
            if self._failed is not None and 0 <= now - self._failed[1] < FAILURE_REMEMBERED_S:
                raise self._failed[0]
            try:
                metadata = await self._fetch_metadata()
            except ProviderUnavailable as error:
                self._failed = error, self.clock()
                raise
            self._metadata, self._failed = (metadata, self.clock()), None
            return metadata

    async def _fetch_metadata(self) -> ProviderMetadata:
        body = await self._fetch("GET", self.settings.issuer.rstrip("/") + DISCOVERY_PATH)
        try:
            metadata = msgspec.json.decode(body, type=ProviderMetadata)
            if metadata.issuer != self.settings.issuer:
                raise ValueError("its issuer differs from that of the settings")
            for name in ("authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint"):
                if name != "userinfo_endpoint" or metadata.userinfo_endpoint:
                    check_url(getattr(metadata, name), f"its `{name}`", loopback_http=True)
        except (msgspec.DecodeError, ValueError) as error:
            raise ProviderUnavailable(f"the sign-in server's metadata is invalid: {error}") from None
        return metadata

    async def begin_sign_in(self, back: str) -> tuple[str, PendingSignIn]:
        """Return the URL for the browser, and the state to keep until it returns. Raises ProviderUnavailable."""
        metadata = await self.metadata()
        under_way = PendingSignIn(
            secrets.token_urlsafe(32), secrets.token_urlsafe(32), secrets.token_urlsafe(48), back, self.clock()
        )
        digest = hashlib.sha256(under_way.verifier.encode()).digest()
        query = {
            "response_type": "code",
            "client_id": self.settings.client_id,
            "redirect_uri": self.redirect_uri,
            "scope": " ".join(self.settings.scopes),
            "state": under_way.state,
            "nonce": under_way.nonce,
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        endpoint = metadata.authorization_endpoint
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}", under_way

    async def finish_sign_in(self, answer: Mapping[str, str], under_way: PendingSignIn | None) -> Mapping[str, Any]:
        """Return the claims of the person whom the provider sent back with the parameters *answer*.

        Raises SignInRefused, ProviderUnavailable.
        """
        state = answer.get("state", "")
        if under_way is None or not hmac.compare_digest(state.encode(errors="replace"), under_way.state.encode()):
            raise SignInRefused("this sign-in was not started in this browser within the last ten minutes")
        metadata = await self.metadata()
        issuer = answer.get("iss")
        has_issuer = issuer is not None or metadata.authorization_response_iss_parameter_supported
        if issuer != metadata.issuer and has_issuer:
            raise SignInRefused("the answer comes from another sign-in server")
        if "error" in answer or not answer.get("code"):
            # Reduced to the characters that such a code may have.
            code = "".join(sign for sign in answer.get("error", "no code")[:64] if sign.isalnum() or sign in "_-. ")
            raise SignInRefused(f"the sign-in server refused ({code or 'unreadable'})")
        tokens = await self._exchange_code(metadata, answer["code"], under_way.verifier)
        try:
            claims = await self._verify_id_token(metadata, tokens.id_token, under_way.nonce)
        except InvalidToken as error:
            raise SignInRefused(f"the sign-in server's answer is not accepted: {error}") from None
        return await self._merge_userinfo(metadata, claims, tokens.access_token)

    async def _exchange_code(self, metadata: ProviderMetadata, code: str, verifier: str) -> _ProviderTokens:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.redirect_uri,
            "code_verifier": verifier,
            "client_id": self.settings.client_id,
        }
        client_id, secret = self.settings.client_id, self.settings.client_secret
        if secret is not None and "client_secret_basic" not in metadata.token_endpoint_auth_methods_supported:
            authenticator = ClientAuthenticator(client_id, secret.reveal(), in_form=True)
        else:
            authenticator = make_client_authenticator(client_id, secret, self._sign, metadata.issuer)
        headers = authenticator.authenticate(metadata.token_endpoint, form)
        body = await self._fetch("POST", metadata.token_endpoint, data=form, headers=headers)
        try:
            return msgspec.json.decode(body, type=_ProviderTokens)
        except msgspec.DecodeError:
            raise SignInRefused("the sign-in server gave no ID token") from None

    async def _verify_id_token(self, metadata: ProviderMetadata, id_token: str, nonce: str) -> Mapping[str, Any]:
        if self._jwks is None or self._jwks[0] != metadata.jwks_uri:
            if self._jwks is not None:
                await self._jwks[2].close()
            audiences = (self.settings.client_id,)
            issuer = IssuerSettings(issuer=metadata.issuer, audiences=audiences, jwks_uri=metadata.jwks_uri)
            jwks = JwksCache((issuer,), self.clock, self.monotonic, self.ca_file)
            self._jwks = metadata.jwks_uri, issuer, jwks
            await jwks.start(PROVIDER_TIMEOUT_S)
        _, issuer, jwks = self._jwks
        for attempt in (1, 2):
            keys = jwks.keys(issuer.issuer)
            try:
                if keys is None:
                    raise UnknownKey(issuer.issuer)
                return verify_id_token(id_token, issuer, keys, nonce, self.clock())
            except UnknownKey:
                fetch = jwks.refresh_soon(issuer.issuer) if attempt == 1 else None
                if fetch is None:
                    raise
                await fetch
        raise AssertionError("the second attempt returns or raises")

    async def _merge_userinfo(
        self, metadata: ProviderMetadata, claims: Mapping[str, Any], access_token: str
    ) -> Mapping[str, Any]:
        """Add the claims of the provider's userinfo endpoint, if the ID token lacks a claim of the grants."""
        # The first matching grant decides, so an earlier one must not be skipped because its claim is only there.
        enough = {self.settings.name_claim, *(grant.claim for grant in self.settings.grants)} <= claims.keys()
        if enough or not metadata.userinfo_endpoint or not access_token:
            return claims
        body = await self._fetch("GET", metadata.userinfo_endpoint, headers={"Authorization": f"Bearer {access_token}"})
        try:
            more = msgspec.json.decode(body, type=dict[str, Any])
        except msgspec.DecodeError:
            return claims  # signed answers of this endpoint are not read
        if more.get("sub") != claims["sub"]:
            raise SignInRefused("the sign-in server returned claims of another person")
        return {**more, **claims}

    async def _fetch(self, method: str, url: str, **request: Any) -> bytes:
        """Return the body of a 200. Raises SignInRefused for a 400, otherwise ProviderUnavailable."""
        if self._http is None:
            self._http = make_http_client(self.ca_file)
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", **request.pop("headers", {})}
        body = bytearray()
        try:
            with anyio.fail_after(PROVIDER_TIMEOUT_S):
                request |= {"headers": headers, "timeout": PROVIDER_TIMEOUT_S}
                async with self._http.stream(method, url, **request) as response:
                    async for chunk in response.aiter_raw():
                        body += chunk
                        if len(body) > MAX_PROVIDER_BYTES:
                            raise ProviderUnavailable(f"the sign-in server sent more than {MAX_PROVIDER_BYTES} bytes")
        except (OSError, httpx2.HTTPError, httpx2.InvalidURL) as error:  # TimeoutError is an OSError
            raise ProviderUnavailable(f"the sign-in server does not answer ({connection_error_text(error)})") from None
        if response.status_code in (400, 401) and method == "POST":
            raise SignInRefused(f"the sign-in server refused the code or the console itself ({response.status_code})")
        if response.status_code != httpx2.codes.OK:
            raise ProviderUnavailable(f"the sign-in server answered {response.status_code}")
        return bytes(body)
