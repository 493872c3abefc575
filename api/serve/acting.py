"""The actuators of a running service: made from the settings, and told when something has to be looked at."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection

import httpx
import structlog

from ...ingest.errors import TrustwatchError
from ...scoring.actuators import (
    ACTION_KIND,
    ActuationFigures,
    Actuator,
    ActuatorNotifier,
    ActuatorTarget,
    AdminApi,
    AssertionProof,
    Auth,
    ClientCredentials,
    ClientProof,
    FixedBearer,
    HydraActuator,
    KeycloakActuator,
    NoAuth,
    SecretProof,
    WebhookActuator,
    Wishes,
)
from ...scoring.notify import WebhookTarget, webhook_client
from ...scoring.outbox import Channel, DispatchPolicy
from ...scoring.records import AgentName
from ...scoring.store import Store
from ...scoring.verdicts import Verdicts
from .. import clock
from ..http.services import new_id
from ..settings import ActuatorAuthSettings, ActuatorSettings, Settings
from ..tokens.sign import assertion_signer

POLICY = DispatchPolicy(backoff_base_s=0.5, backoff_cap_s=15.0, retry_after_cap_s=60.0, concurrency=16, poll_s=0.5)
"""Containment is tried again sooner than alerts are, and for more agents at once."""

SWEEP_EVERY_S = 3600.0
"""Whatever was missed, or changed at a server behind our back, is put right after so long."""

RETRY_S = 5.0
HYDRA_DEFAULT_S = 3600
KEYCLOAK_DEFAULT_S = 300

_log = structlog.get_logger(__name__)


class Acting:
    """What acts at authorization servers. For one event loop; close it at the end.

    Args:
        settings: as configured.
        store: wishes and originals.
        verdicts: policy, levels and pins.
        changed: called when rows wait for the dispatcher.

    Attributes:
        figures: for metrics.
        wishes: what holds for agents now.

    Raises:
        ConfigError: a key or a secret can not be used.
    """

    def __init__(self, settings: Settings, store: Store, verdicts: Verdicts, changed: Callable[[], None]) -> None:
        self.figures = ActuationFigures()
        self.wishes = Wishes(store, verdicts, clock.now_ms, new_id)
        self._store = store
        self._changed = changed
        self._http = webhook_client()
        self._again = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._channels = [_channel(one, self) for one in settings.actuators]

    @property
    def channels(self) -> list[Channel[ActuatorTarget]]:
        """For the dispatcher."""
        return list(self._channels)

    def notifier(self, one: ActuatorSettings) -> ActuatorNotifier:
        """The notifier of one actuator."""
        actuator = _actuator(one, self._http)
        return ActuatorNotifier(actuator, self._store, self.wishes.now, clock.now_ms, self.figures.note)

    def look_at(self, agents: Collection[AgentName]) -> None:
        """Something about those agents changed that no decision tells: a person pinned one, or a pin ended."""
        if self._channels and agents:
            task = asyncio.get_running_loop().create_task(self._look_at(agents))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _look_at(self, agents: Collection[AgentName]) -> None:
        try:
            await self.wishes.look_at(agents)
            self._changed()
        except TrustwatchError as error:
            _log.warning("actuators have to wait for the store", error=str(error))
            self._again.set()

    def look_at_all(self) -> None:
        """Another policy is in force."""
        self._again.set()

    async def keep(self, stop: asyncio.Event) -> None:
        """Look at everything at the start, when it is asked for, and every `SWEEP_EVERY_S`, until *stop*."""
        while self._channels and not stop.is_set():
            self._again.clear()
            pause_s = SWEEP_EVERY_S
            try:
                if await self.wishes.look_at_all():
                    self._changed()
            except TrustwatchError as error:
                _log.warning("actuators have to wait for the store", error=str(error))
                pause_s = RETRY_S
            await _either(self._again, stop, pause_s)

    async def close(self) -> None:
        """Wait for what is under way."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._http.aclose()


async def _either(one: asyncio.Event, other: asyncio.Event, seconds: float) -> None:
    waiting = [asyncio.create_task(event.wait()) for event in (one, other)]
    try:
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _channel(one: ActuatorSettings, acting: Acting) -> Channel[ActuatorTarget]:
    target = ActuatorTarget(
        one.name,
        timeout_s=one.timeout_s,
        tenants=frozenset(one.tenants),
        issuers=frozenset(one.issuers),
        clients=dict(one.clients),
    )
    return Channel(ACTION_KIND, target, acting.notifier(one), POLICY)


def _actuator(one: ActuatorSettings, http: httpx.AsyncClient) -> Actuator:
    if one.kind == "webhook":
        secrets = () if one.secret is None else (one.secret.reveal(),)
        target = WebhookTarget(one.name, one.url, secrets, allow_plain_loopback=one.allow_http)
        return WebhookActuator(http, target, clock.now_ms, one.confirm_url or "")
    if one.kind == "keycloak":
        api = AdminApi(http, f"{one.url.rstrip('/')}/admin/realms/{one.realm}", _auth(one.auth, http))
        return KeycloakActuator(api, clock.now_s, one.default_lifetime_s or KEYCLOAK_DEFAULT_S)
    api = AdminApi(http, one.url, _auth(one.auth, http))
    return HydraActuator(api, one.default_lifetime_s or HYDRA_DEFAULT_S)


def _auth(given: ActuatorAuthSettings | None, http: httpx.AsyncClient) -> Auth:
    if given is None:
        return NoAuth()
    if given.bearer is not None:
        return FixedBearer(given.bearer.reveal())
    return ClientCredentials(http, given.token_url or "", _proof(given), clock.monotonic, given.scope)


def _proof(given: ActuatorAuthSettings) -> ClientProof:
    client_id = given.client_id or ""
    if given.client_secret is not None:
        return SecretProof(client_id, given.client_secret.reveal())
    key = "" if given.private_key is None else given.private_key.reveal()
    sign = assertion_signer(key, given.key_id, given.algorithm, clock.now_s, new_id)
    return AssertionProof(client_id, sign, given.audience)
