"""Client authentication at authorization servers: at their token endpoints and their admin APIs.

Actuators, gateways' issuers and the console's sign-in use it. Secrets and tokens stay in here.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import quote

import httpx2

from trustwatch.ingest.outgoing_http import connection_error_text
from trustwatch.ingest.settings import Secret

from .actuator import ActuatorAccessDenied, ActuatorUnavailable, error_detail

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
RENEW_BEFORE_S = 15.0  # A token is replaced so long before it expires

AssertionSigner = Callable[[str, str], str]  # Signs an assertion (RFC 7523) of a client id for an audience


@dataclass(frozen=True)
class ClientAuthenticator:
    """Client authentication at a token or revocation endpoint.

    By `private_key_jwt` (RFC 7523) if there is `sign`; else by `client_secret_basic` (RFC 6749, 2.3.1) or, for servers
    that take no other way, `client_secret_post` (`in_form`); without either no proof is sent, as for public clients.
    """

    client_id: str = ""
    secret: str = field(default="", repr=False)
    sign: AssertionSigner | None = None
    audience: str = ""
    in_form: bool = False

    def authenticate(self, url: str, form: dict[str, str]) -> dict[str, str]:
        """Add our proof for *url* to *form*, or return it as headers."""
        if self.sign is not None:
            assertion = self.sign(self.client_id, self.audience or url)
            form |= {
                "client_id": self.client_id,
                "client_assertion_type": ASSERTION_TYPE,
                "client_assertion": assertion,
            }
        elif self.in_form:
            form |= {"client_id": self.client_id, "client_secret": self.secret}
        elif self.client_id:
            pair = f"{quote(self.client_id, safe='')}:{quote(self.secret, safe='')}"
            return {"authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
        return {}


def make_client_authenticator(
    client_id: str | None, client_secret: Secret | None, sign: AssertionSigner | None, audience: str = ""
) -> ClientAuthenticator:
    """The best proof that the settings allow: by a key (*sign*), else by a secret, else none."""
    if client_id is None or (sign is None and client_secret is None):
        return ClientAuthenticator()
    return ClientAuthenticator(client_id, "" if client_secret is None else client_secret.reveal(), sign, audience)


@dataclass
class RequestAuthenticator:
    """Headers of requests to an admin API: a token that an operator gave us, or none if the network protects it."""

    token: str = field(default="", repr=False)

    async def headers(self) -> dict[str, str]:
        """Headers that authenticate us. Raises ActuatorAccessDenied, ActuatorUnavailable."""
        return {"authorization": f"Bearer {self.token}"} if self.token else {}

    def invalidate(self) -> None:
        """Drop kept credentials, since the server did not take them; a given token stays."""


class ClientCredentialsAuthenticator(RequestAuthenticator):
    """Tokens by client credentials, kept until they expire."""

    def __init__(
        self,
        http: httpx2.AsyncClient,
        token_url: str,
        proof: ClientAuthenticator,
        monotonic: Callable[[], float],
        scope: str = "",
    ) -> None:
        super().__init__()
        self._http = http
        self._url = token_url
        self._proof = proof
        self._monotonic = monotonic
        self._scope = scope
        self._until = 0.0
        self._lock = asyncio.Lock()

    async def headers(self) -> dict[str, str]:
        """Headers with a token, which is fetched if none is kept."""
        async with self._lock:
            if not self.token or self._monotonic() >= self._until:
                await self._fetch()
            return await super().headers()

    def invalidate(self) -> None:
        """Drop the token: the next request fetches another."""
        self.token = ""

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
        try:
            body = answer.json()
            token, lifetime_s = body["access_token"], float(body.get("expires_in") or 60)
        except (ValueError, TypeError, KeyError):
            token, lifetime_s = None, 0.0
        if not isinstance(token, str) or not token:
            raise ActuatorUnavailable("token endpoint: the answer holds no access token")
        self.token, self._until = token, asked + max(1.0, lifetime_s - RENEW_BEFORE_S)
