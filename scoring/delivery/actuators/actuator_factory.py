"""The actuator that a part of the settings describes, and how we prove ourselves to its server."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import httpx2
import msgspec

from trustwatch.ingest.outgoing_http import connection_error_text

from ..notifiers.webhook_notifier import sign_headers
from ..notifiers.webhook_target import redact_secrets
from .actuator import (
    ActuationNotConfirmed,
    ActuationResult,
    Actuator,
    ActuatorAccessDenied,
    ActuatorUnavailable,
    UnknownClient,
    error_detail,
)
from .actuator_settings import ActuatorAuthSettings, ActuatorSettings
from .authenticators import (
    AssertionSigner,
    ClientCredentialsAuthenticator,
    RequestAuthenticator,
    make_client_authenticator,
)
from .client_actuator import (
    HYDRA_DEFAULT_LIFETIME_S,
    KEYCLOAK_DEFAULT_LIFETIME_S,
    AdminApi,
    HydraActuator,
    KeycloakActuator,
)
from .desired_state import DesiredState

# The body of a webhook is JSON: `action` (`lower` or `restore`) and the members of `DesiredState`. 2xx means accepted;
# only `confirm_url`, which gets the same body, confirms: it answers `{"confirmed": true}` once it is so.


@dataclass(eq=False)
class WebhookActuator:
    """`Actuator` by webhook."""

    _http: httpx2.AsyncClient
    _settings: ActuatorSettings
    _clock: Callable[[], int]

    async def capture(self, client_id: str) -> bytes:
        """The client's name: the receiver keeps what it has to restore."""
        return msgspec.json.encode({"client_id": client_id})

    async def lower(self, client_id: str, original: bytes, desired: DesiredState) -> ActuationResult:
        """Send the desired state."""
        members = msgspec.to_builtins(desired)
        del members["agent_key"]  # ours, and larger than the numbers of some languages
        return ActuationResult(original, await self._send_action("lower", client_id, members))

    async def restore(self, client_id: str, original: bytes) -> ActuationResult:
        """Send that everything is to be as it was."""
        return ActuationResult(original, await self._send_action("restore", client_id, {}))

    async def _send_action(
        self, action: Literal["lower", "restore"], client_id: str, members: dict[str, object]
    ) -> bool:
        body = msgspec.json.encode({"action": action, "client_id": client_id} | members, order="sorted")
        await self._post(self._settings.url, action, client_id, body)
        if self._settings.confirm_url is None:
            return False
        answer = await self._post(self._settings.confirm_url, action, client_id, body)
        try:
            confirmed = answer.json()["confirmed"] is True
        except (ValueError, TypeError, KeyError):
            confirmed = False
        if not confirmed:
            raise ActuationNotConfirmed("confirm_url does not say that it is so")
        return True

    async def _post(self, url: str, action: str, client_id: str, body: bytes) -> httpx2.Response:
        # The id is the same for the same desired state, so that a receiver recognizes a repetition.
        message_id = f"{action}-{hashlib.sha256(body).hexdigest()[:32]}"
        headers = sign_headers(message_id, body, self._settings.secrets, self._clock())
        headers["content-type"] = "application/json"
        try:
            answer = await self._http.post(url, content=body, headers=headers)
        except httpx2.HTTPError as error:
            raise ActuatorUnavailable(connection_error_text(error)) from None
        if answer.is_success:
            return answer
        detail = redact_secrets(error_detail(answer), self._settings.url, self._settings.secrets)
        text = f"HTTP {answer.status_code}{detail}"
        if answer.status_code == 404:
            raise UnknownClient(f"the receiver knows no client {client_id}: {text}")
        raise ActuatorAccessDenied(text) if answer.status_code in (401, 403) else ActuatorUnavailable(text)


SignerFactory = Callable[[str, str], AssertionSigner]
"""From a private key (PEM) and its id to what signs. Raises ConfigError."""


@dataclass(eq=False)
class ActuatorFactory:
    """Makes actuators."""

    http: httpx2.AsyncClient
    make_signer: SignerFactory
    now_ms: Callable[[], int]
    monotonic: Callable[[], float]

    def make(self, settings: ActuatorSettings) -> Actuator:
        """The actuator of *settings*. Raises ConfigError if a key or a secret cannot be used."""
        if settings.kind == "webhook":
            return WebhookActuator(self.http, settings, self.now_ms)
        if settings.kind == "keycloak":
            api = self._admin_api(settings, f"{settings.url.rstrip('/')}/admin/realms/{settings.realm}")
            default_s = settings.default_lifetime_s or KEYCLOAK_DEFAULT_LIFETIME_S
            return KeycloakActuator(api, lambda: self.now_ms() / 1000, default_s)
        api = self._admin_api(settings, settings.url)
        return HydraActuator(api, settings.default_lifetime_s or HYDRA_DEFAULT_LIFETIME_S)

    def _admin_api(self, settings: ActuatorSettings, url: str) -> AdminApi:
        return AdminApi(self.http, url, self.request_authenticator(settings.auth), self.now_ms)

    def request_authenticator(self, auth: ActuatorAuthSettings | None) -> RequestAuthenticator:
        """Headers of requests to a server, according to its settings. Raises ConfigError if a key cannot be used."""
        if auth is None:
            return RequestAuthenticator()
        if auth.bearer is not None:
            return RequestAuthenticator(auth.bearer.reveal())
        sign = None
        if auth.private_key is not None:
            sign = self.make_signer(auth.private_key.reveal(), auth.key_id)
        proof = make_client_authenticator(auth.client_id, auth.client_secret, sign)
        return ClientCredentialsAuthenticator(self.http, auth.token_url or "", proof, self.monotonic, auth.scope)
