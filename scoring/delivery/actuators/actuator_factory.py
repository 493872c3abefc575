"""The actuator that a part of the settings describes, and how we prove ourselves to its server."""

from __future__ import annotations

from collections.abc import Callable

import httpx2

from .actuator import Actuator
from .actuator_settings import ActuatorAuthSettings, ActuatorSettings
from .authenticators import (
    AssertionSigner,
    ClientCredentialsAuthenticator,
    NoAuthenticator,
    RequestAuthenticator,
    StaticTokenAuthenticator,
    make_client_authenticator,
)
from .client_actuator import AdminApi
from .hydra_actuator import HYDRA_DEFAULT_LIFETIME_S, HydraActuator
from .keycloak_actuator import KEYCLOAK_DEFAULT_LIFETIME_S, KeycloakActuator
from .webhook_actuator import WebhookActuator

SignerFactory = Callable[[str, str], AssertionSigner]
"""From a private key (PEM) and its id to what signs. Raises ConfigError."""


class ActuatorFactory:
    """Makes actuators.

    Args:
        http: client without a time limit of its own; the caller closes it.
        make_signer: for servers that know our public key.
        now_ms: UTC milliseconds.
        monotonic: seconds on a clock that never goes back.
    """

    def __init__(
        self,
        http: httpx2.AsyncClient,
        make_signer: SignerFactory,
        now_ms: Callable[[], int],
        monotonic: Callable[[], float],
    ) -> None:
        self._http = http
        self._make_signer = make_signer
        self._now_ms = now_ms
        self._monotonic = monotonic

    def make(self, settings: ActuatorSettings) -> Actuator:
        """The actuator of *settings*. Raises ConfigError: a key or a secret can not be used."""
        if settings.kind == "webhook":
            return WebhookActuator(self._http, settings, self._now_ms)
        if settings.kind == "keycloak":
            api = self._admin_api(settings, f"{settings.url.rstrip('/')}/admin/realms/{settings.realm}")
            default_s = settings.default_lifetime_s or KEYCLOAK_DEFAULT_LIFETIME_S
            return KeycloakActuator(api, lambda: self._now_ms() / 1000, default_s)
        api = self._admin_api(settings, settings.url)
        return HydraActuator(api, settings.default_lifetime_s or HYDRA_DEFAULT_LIFETIME_S)

    def _admin_api(self, settings: ActuatorSettings, url: str) -> AdminApi:
        return AdminApi(self._http, url, self.request_authenticator(settings.auth), self._now_ms)

    def request_authenticator(self, auth: ActuatorAuthSettings | None) -> RequestAuthenticator:
        """Headers of requests to a server, as its settings say. Raises ConfigError: a key can not be used."""
        if auth is None:
            return NoAuthenticator()
        if auth.bearer is not None:
            return StaticTokenAuthenticator(auth.bearer.reveal())
        sign = None
        if auth.private_key is not None:
            sign = self._make_signer(auth.private_key.reveal(), auth.key_id)
        proof = make_client_authenticator(auth.client_id, auth.client_secret, sign, auth.audience)
        return ClientCredentialsAuthenticator(self._http, auth.token_url or "", proof, self._monotonic, auth.scope)
