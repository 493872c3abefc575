"""Client authentication at authorization servers: at their token endpoints and their admin APIs.

Actuators, gateways' issuers and the console's sign-in use it. Secrets and tokens stay in here.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Protocol
from urllib.parse import quote

import httpx2

from trustwatch.ingest.outgoing_http import connection_error_text
from trustwatch.ingest.settings import Secret

from .actuator import ActuatorAccessDenied, ActuatorUnavailable, error_detail

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
RENEW_BEFORE_S = 15.0
"""A token is replaced so long before it expires."""

AssertionSigner = Callable[[str, str], str]
"""Signs an assertion (RFC 7523) of a client id for an audience."""


class ClientAuthenticator(Protocol):
    """Client authentication at a token or revocation endpoint."""

    def authenticate(self, url: str, form: dict[str, str]) -> dict[str, str]:
        """Add our proof for *url* to *form*, or return it as headers."""


class NoClientAuthenticator:
    """No proof: for public clients, and for endpoints that their network protects, as Hydra's admin API."""

    def authenticate(self, url: str, form: dict[str, str]) -> dict[str, str]:
        """Adds nothing."""
        del url, form
        return {}


class ClientSecretPostAuthenticator:
    """`client_secret_post` (RFC 6749, 2.3.1), for servers that take no other way."""

    def __init__(self, client_id: str, secret: str) -> None:
        self._client_id = client_id
        self._secret = secret

    def authenticate(self, url: str, form: dict[str, str]) -> dict[str, str]:
        """Adds id and secret to the form."""
        del url
        form |= {"client_id": self._client_id, "client_secret": self._secret}
        return {}


class ClientSecretAuthenticator:
    """`client_secret_basic` (RFC 6749, 2.3.1)."""

    def __init__(self, client_id: str, secret: str) -> None:
        self._header = base64.b64encode(f"{quote(client_id, safe='')}:{quote(secret, safe='')}".encode()).decode()

    def authenticate(self, url: str, form: dict[str, str]) -> dict[str, str]:
        """Adds nothing to the form."""
        del url, form
        return {"authorization": f"Basic {self._header}"}


class PrivateKeyJwtAuthenticator:
    """`private_key_jwt`: a new assertion for every request.

    Args:
        client_id: ours.
        sign: signs it.
        audience: `aud`; "" = the URL of the endpoint.
    """

    def __init__(self, client_id: str, sign: AssertionSigner, audience: str = "") -> None:
        self._client_id = client_id
        self._sign = sign
        self._audience = audience

    def authenticate(self, url: str, form: dict[str, str]) -> dict[str, str]:
        """Adds the assertion."""
        form["client_id"] = self._client_id
        form["client_assertion_type"] = ASSERTION_TYPE
        form["client_assertion"] = self._sign(self._client_id, self._audience or url)
        return {}


def make_client_authenticator(
    client_id: str | None, client_secret: Secret | None, sign: AssertionSigner | None, audience: str = ""
) -> ClientAuthenticator:
    """The best proof that the settings allow: by a key (*sign*), else by a secret, else none.

    Args:
        client_id: ours; None sends no credentials.
        client_secret: for `client_secret_basic`.
        sign: signs with our private key.
        audience: of assertions; "" = the URL of the endpoint.
    """
    if client_id is None:
        return NoClientAuthenticator()
    if sign is not None:
        return PrivateKeyJwtAuthenticator(client_id, sign, audience)
    if client_secret is None:
        return NoClientAuthenticator()
    return ClientSecretAuthenticator(client_id, client_secret.reveal())


class RequestAuthenticator(Protocol):
    """Headers of requests to an admin API."""

    async def headers(self) -> dict[str, str]:
        """Headers that authenticate us. Raises ActuatorAccessDenied, ActuatorUnavailable."""

    def invalidate(self) -> None:
        """Drop kept credentials, since the server did not take them."""


class NoAuthenticator:
    """An admin API that its network protects, as Hydra's."""

    async def headers(self) -> dict[str, str]:
        """No headers."""
        return {}

    def invalidate(self) -> None:
        """Do nothing: no credentials are kept."""


class StaticTokenAuthenticator:
    """A token that an operator gave us, as Ory Network's API keys."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def headers(self) -> dict[str, str]:
        """Headers with the token."""
        return {"authorization": f"Bearer {self._token}"}

    def invalidate(self) -> None:
        """Do nothing: there is no other token."""


class ClientCredentialsAuthenticator:
    """Tokens by client credentials, kept until they expire.

    Args:
        http: client without a time limit of its own; the caller's limit holds.
        token_url: token endpoint.
        proof: our client authentication.
        monotonic: seconds on a clock that never goes back.
        scope: asked for; "" = the server's default.
    """

    def __init__(
        self,
        http: httpx2.AsyncClient,
        token_url: str,
        proof: ClientAuthenticator,
        monotonic: Callable[[], float],
        scope: str = "",
    ) -> None:
        self._http = http
        self._url = token_url
        self._proof = proof
        self._monotonic = monotonic
        self._scope = scope
        self._token = ""
        self._until = 0.0
        self._lock = asyncio.Lock()

    async def headers(self) -> dict[str, str]:
        """Headers with a token; fetched where none is kept."""
        async with self._lock:
            if not self._token or self._monotonic() >= self._until:
                await self._fetch()
            return {"authorization": f"Bearer {self._token}"}

    def invalidate(self) -> None:
        """Drop the token: the next request fetches another."""
        self._token = ""

    async def _fetch(self) -> None:
        form = {"grant_type": "client_credentials"} | ({"scope": self._scope} if self._scope else {})
        headers = self._proof.authenticate(self._url, form)
        asked = self._monotonic()
        try:
            answer = await self._http.post(self._url, data=form, headers=headers)
        except httpx2.HTTPError as error:
            raise ActuatorUnavailable(f"token endpoint: {connection_error_text(error)}") from None
        if answer.status_code != 200:
            kind = ActuatorAccessDenied if answer.status_code in (400, 401, 403) else ActuatorUnavailable
            raise kind(f"token endpoint: HTTP {answer.status_code}{error_detail(answer)}")
        self._token, lifetime_s = _parse_token(answer)
        self._until = asked + max(1.0, lifetime_s - RENEW_BEFORE_S)


def _parse_token(answer: httpx2.Response) -> tuple[str, float]:
    try:
        body = answer.json()
        token, lifetime_s = body["access_token"], float(body.get("expires_in") or 60)
    except (ValueError, TypeError, KeyError):
        raise ActuatorUnavailable("token endpoint: the answer holds no access token") from None
    if not isinstance(token, str) or not token:
        raise ActuatorUnavailable("token endpoint: the answer holds no access token")
    return token, lifetime_s
