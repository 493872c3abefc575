"""The actuators of a running service: made from the settings, and told when something has to be looked at."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection

import httpx
import structlog

from ...ingest.errors import TrustwatchError
from ...ingest.settings import Secret
from ...scoring.delivery.actuators.actuator import Actuator, ActuatorTarget
from ...scoring.delivery.actuators.actuator_notifier import ActuationMetrics, ActuatorNotifier
from ...scoring.delivery.actuators.authenticators import (
    ClientAuthenticator,
    ClientCredentialsAuthenticator,
    ClientSecretAuthenticator,
    NoAuthenticator,
    PrivateKeyJwtAuthenticator,
    RequestAuthenticator,
    StaticTokenAuthenticator,
)
from ...scoring.delivery.actuators.client_actuator import AdminApi
from ...scoring.delivery.actuators.desired_state import ACTION_ROW_KIND
from ...scoring.delivery.actuators.hydra_actuator import HydraActuator
from ...scoring.delivery.actuators.keycloak_actuator import KeycloakActuator
from ...scoring.delivery.actuators.webhook_actuator import WebhookActuator
from ...scoring.delivery.delivery_target import DeliveryChannel, DispatchPolicy
from ...scoring.delivery.notifiers.webhook_notifier import make_webhook_client
from ...scoring.delivery.notifiers.webhook_target import WebhookTarget
from ...scoring.pipeline.desired_state_resolver import DesiredStateResolver
from ...scoring.policy.access_evaluation import PolicyEvaluator
from ...scoring.records.agents import AgentName
from ...scoring.store.sql_store import SqlStore
from .. import clock
from ..composition import new_id
from ..http.auth.signing import assertion_signer
from ..settings.actuator_settings import ActuatorAuthSettings, ActuatorSettings
from ..settings.root import Settings

ACTUATION_DISPATCH_POLICY = DispatchPolicy(
    backoff_base_s=0.5, backoff_cap_s=15.0, retry_after_cap_s=60.0, concurrency=16, poll_s=0.5
)
"""Containment is tried again sooner than alerts are, and for more agents at once."""

RECONCILE_EVERY_S = 3600.0
"""Whatever was missed, or changed at a server behind our back, is put right after so long."""

STORE_RETRY_S = 5.0
HYDRA_DEFAULT_LIFETIME_S = 3600
KEYCLOAK_DEFAULT_LIFETIME_S = 300

_log = structlog.get_logger(__name__)


class ActuationService:
    """What acts at authorization servers. For one event loop; close it at the end.

    Args:
        settings: as configured.
        store: wishes and originals.
        verdicts: policy, levels and pins.
        changed: called when rows wait for the dispatcher.

    Attributes:
        counts: for metrics.
        desired_state_resolver: what holds for agents now.

    Raises:
        ConfigError: a key or a secret can not be used.
    """

    def __init__(
        self, settings: Settings, store: SqlStore, verdicts: PolicyEvaluator, changed: Callable[[], None]
    ) -> None:
        self.counts = ActuationMetrics()
        self.desired_state_resolver = DesiredStateResolver(store, verdicts, clock.now_ms, new_id)
        self._store = store
        self._on_rows_waiting = changed
        self._http = make_webhook_client()
        self._full_reconciliation_requested = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._channels = [_make_channel(one, self) for one in settings.actuators]

    @property
    def channels(self) -> list[DeliveryChannel[ActuatorTarget]]:
        """For the dispatcher."""
        return list(self._channels)

    def notifier(self, one: ActuatorSettings) -> ActuatorNotifier:
        """The notifier of one actuator."""
        actuator = _make_actuator(one, self._http)
        return ActuatorNotifier(
            actuator, self._store.actuations, self.desired_state_resolver.resolve, clock.now_ms, self.counts.record
        )

    def reconcile(self, agents: Collection[AgentName]) -> None:
        """Something about those agents changed that no decision tells: a person pinned one, or a pin ended."""
        if self._channels and agents:
            task = asyncio.get_running_loop().create_task(self._reconcile(agents))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _reconcile(self, agents: Collection[AgentName]) -> None:
        try:
            await self.desired_state_resolver.enqueue_reconciliation(agents)
            self._on_rows_waiting()
        except TrustwatchError as error:
            _log.warning("actuators have to wait for the store", error=str(error))
            self._full_reconciliation_requested.set()

    def request_full_reconciliation(self) -> None:
        """Another policy is in force."""
        self._full_reconciliation_requested.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Look at everything at the start, when it is asked for, and every `RECONCILE_EVERY_S`, until *stop*."""
        while self._channels and not stop.is_set():
            self._full_reconciliation_requested.clear()
            pause_s = RECONCILE_EVERY_S
            try:
                if await self.desired_state_resolver.enqueue_full_reconciliation():
                    self._on_rows_waiting()
            except TrustwatchError as error:
                _log.warning("actuators have to wait for the store", error=str(error))
                pause_s = STORE_RETRY_S
            await _wait_for_either(self._full_reconciliation_requested, stop, pause_s)

    async def close(self) -> None:
        """Wait for what is under way."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._http.aclose()


async def _wait_for_either(one: asyncio.Event, other: asyncio.Event, seconds: float) -> None:
    waiting = [asyncio.create_task(event.wait()) for event in (one, other)]
    try:
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _make_channel(one: ActuatorSettings, acting: ActuationService) -> DeliveryChannel[ActuatorTarget]:
    target = ActuatorTarget(
        one.name,
        timeout_s=one.timeout_s,
        tenants=frozenset(one.tenants),
        issuers=frozenset(one.issuers),
        clients=dict(one.clients),
    )
    return DeliveryChannel(ACTION_ROW_KIND, target, acting.notifier(one), ACTUATION_DISPATCH_POLICY)


def _make_actuator(one: ActuatorSettings, http: httpx.AsyncClient) -> Actuator:
    if one.kind == "webhook":
        target = WebhookTarget(one.name, Secret(one.url), secret=one.secret, allow_http=one.allow_http)
        target.check_usable()
        return WebhookActuator(http, target, clock.now_ms, one.confirm_url or "")
    if one.kind == "keycloak":
        realm_url = f"{one.url.rstrip('/')}/admin/realms/{one.realm}"
        api = AdminApi(http, realm_url, _make_authentication(one.auth, http), clock.now_ms)
        return KeycloakActuator(api, clock.now_s, one.default_lifetime_s or KEYCLOAK_DEFAULT_LIFETIME_S)
    api = AdminApi(http, one.url, _make_authentication(one.auth, http), clock.now_ms)
    return HydraActuator(api, one.default_lifetime_s or HYDRA_DEFAULT_LIFETIME_S)


def _make_authentication(given: ActuatorAuthSettings | None, http: httpx.AsyncClient) -> RequestAuthenticator:
    if given is None:
        return NoAuthenticator()
    if given.bearer is not None:
        return StaticTokenAuthenticator(given.bearer.reveal())
    return ClientCredentialsAuthenticator(
        http, given.token_url or "", _make_client_proof(given), clock.monotonic, given.scope
    )


def _make_client_proof(given: ActuatorAuthSettings) -> ClientAuthenticator:
    client_id = given.client_id or ""
    if given.client_secret is not None:
        return ClientSecretAuthenticator(client_id, given.client_secret.reveal())
    key = "" if given.private_key is None else given.private_key.reveal()
    sign = assertion_signer(key, given.key_id, given.algorithm, clock.now_s, new_id)
    return PrivateKeyJwtAuthenticator(client_id, sign, given.audience)
