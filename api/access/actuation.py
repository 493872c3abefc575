"""The actuators of a running service: made from the settings, and started when desired states may have changed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection
from functools import partial

import structlog

from trustwatch.ingest.errors import TrustwatchError
from trustwatch.scoring.delivery.actuators.actuator_factory import ActuatorFactory
from trustwatch.scoring.delivery.actuators.actuator_notifier import ActuationMetrics, ActuatorNotifier
from trustwatch.scoring.delivery.actuators.actuator_settings import ActuatorSettings
from trustwatch.scoring.delivery.actuators.desired_state import ACTION_ROW_KIND
from trustwatch.scoring.delivery.delivery_target import DeliveryChannel, DispatchPolicy
from trustwatch.scoring.delivery.notifiers.webhook_notifier import make_webhook_client
from trustwatch.scoring.pipeline.desired_state_resolver import DesiredStateResolver
from trustwatch.scoring.policy.access_evaluation import PolicyEvaluator
from trustwatch.scoring.records.agents import AgentName
from trustwatch.scoring.store.read_scope import WHOLE_DEPLOYMENT, reads_of
from trustwatch.scoring.store.sql_store import SqlStore

from .. import clock
from ..composition import new_id
from ..http.auth.signing import assertion_signer
from ..settings.root import Settings

ACTUATION_DISPATCH_POLICY = DispatchPolicy(
    backoff_base_s=0.5, backoff_cap_s=15.0, retry_after_cap_s=60.0, concurrency=16, poll_s=0.5
)
"""Containment is retried sooner than alerts, and for more agents at once."""

RECONCILE_EVERY_S = 3600.0
"""Interval between full reconciliations, s: a lost change, or one made at a server, lasts no longer."""

STORE_RETRY_S = 5.0

_log = structlog.get_logger(__name__)


class ActuationService:
    """Delivers desired states to authorization servers. Use it from one event loop, and close it at the end.

    Raises ConfigError.

    Attributes:
        counts: for metrics.
        desired_state_resolver: what holds for agents now.
        channels: delivery channels, for the dispatcher.
    """

    def __init__(
        self,
        settings: Settings,
        store: SqlStore,
        verdicts: PolicyEvaluator,
        changed: Callable[[], None],
    ) -> None:
        self.counts = ActuationMetrics()
        every_level = any(actuator.every_level for actuator in settings.actuators)
        self.desired_state_resolver = DesiredStateResolver(
            store, verdicts, clock.now_ms, new_id, every_level=every_level
        )
        self._on_rows_waiting = changed
        self._http = make_webhook_client(settings.outgoing.ca_file)
        self._full_reconciliation_requested = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        make_signer = partial(assertion_signer, now_s=clock.now_s, new_id=new_id)
        actuators = ActuatorFactory(self._http, make_signer, clock.now_ms, clock.monotonic)
        self.channels: list[DeliveryChannel[ActuatorSettings]] = []
        for part in settings.actuators:
            resolve = partial(self.desired_state_resolver.resolve, every_level=part.every_level)
            notifier = ActuatorNotifier(
                actuators.make(part), store.actuations, resolve, clock.now_ms, self.counts.record
            )
            self.channels.append(DeliveryChannel(ACTION_ROW_KIND, part, notifier, ACTUATION_DISPATCH_POLICY))

    def reconcile(self, agents: Collection[AgentName]) -> None:
        """Apply a change that no decision announces: a person pinned an agent, or a pin ended."""

        async def reconcile() -> None:
            try:
                with reads_of(WHOLE_DEPLOYMENT):  # work of the service, even if a person's request caused it
                    await self.desired_state_resolver.enqueue_reconciliation(agents)
                self._on_rows_waiting()
            except TrustwatchError as error:
                _log.warning("actuators have to wait for the store", error=str(error))
                self._full_reconciliation_requested.set()

        if self.channels and agents:
            task = asyncio.get_running_loop().create_task(reconcile())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def request_full_reconciliation(self) -> None:
        """Request a full reconciliation, because the active policy has changed."""
        self._full_reconciliation_requested.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Reconcile everything at the start, on request, and every `RECONCILE_EVERY_S`, until *stop*."""
        while self.channels and not stop.is_set():
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
        """Wait for deliveries in progress."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._http.aclose()


async def _wait_for_either(first: asyncio.Event, second: asyncio.Event, seconds: float) -> None:
    waiting = [asyncio.create_task(event.wait()) for event in (first, second)]
    try:
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
