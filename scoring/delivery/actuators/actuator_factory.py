"""The actuator that a part of the settings describes, and how we prove ourselves to its server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import httpx2

from .actuator import Actuator
from .actuator_settings import ActuatorAuthSettings, ActuatorSettings
from .authenticators import (
    AssertionSigner,
    ClientCredentialsAuthenticator,
    RequestAuthenticator,
    make_client_authenticator,
)
from .client_actuator import AdminApi
from .hydra_actuator import HYDRA_DEFAULT_LIFETIME_S, HydraActuator
from .keycloak_actuator import KEYCLOAK_DEFAULT_LIFETIME_S, KeycloakActuator
from .webhook_actuator import WebhookActuator

SignerFactory = Callable[[str, str], AssertionSigner]
"""From a private key (PEM) and its id to what signs. Raises ConfigError."""


@dataclass(eq=False)
class ActuatorFactory:
    """Makes actuators.

    Args:
        http: client without a time limit of its own; the caller closes it.
        now_ms: UTC milliseconds.
        monotonic: seconds on a clock that never goes back.
    """

    http: httpx2.AsyncClient
    make_signer: SignerFactory
    now_ms: Callable[[], int]
    monotonic: Callable[[], float]

    def make(self, settings: ActuatorSettings) -> Actuator:
        """The actuator of *settings*. Raises ConfigError: a key or a secret can not be used."""
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
        """Headers of requests to a server, as its settings say. Raises ConfigError: a key can not be used."""
        if auth is None:
            return RequestAuthenticator()
        if auth.bearer is not None:
            return RequestAuthenticator(auth.bearer.reveal())
        sign = None
        if auth.private_key is not None:
            sign = self.make_signer(auth.private_key.reveal(), auth.key_id)
        proof = make_client_authenticator(auth.client_id, auth.client_secret, sign, auth.audience)
        return ClientCredentialsAuthenticator(self.http, auth.token_url or "", proof, self.monotonic, auth.scope)
