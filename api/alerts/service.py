"""Alerts: their deliveries to targets, and tests of the targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from trustwatch.scoring.delivery.notifiers.alert_events import ALERT_ROW_KIND, build_test_alert_row
from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.scoring.records.commits import Delivery, OutboxRow
from trustwatch.scoring.store.database import Page
from trustwatch.scoring.store.outbox_store import TargetStop
from trustwatch.scoring.store.searches import FilteredPage, search_deliveries

from ..http.agent_lookup import AgentResolver, AgentSelector, not_found_error, visible_tenants
from ..http.auth.callers import AuthenticatedCaller
from ..http.runtime import Runtime
from ..http.store_executor import BulkWork, StoreExecutor


class DeliveryFilters(NamedTuple):
    """Filters of a list of deliveries; None for all. *key* identifies one alert."""

    tenant: str | None = None
    status: str | None = None
    target: str | None = None
    agent: AgentSelector | None = None
    key: str | None = None


@dataclass(eq=False, repr=False)
class AlertService:
    """Serves deliveries of the tenants that a caller may see, and the targets of alerts. For one event loop."""

    _runtime: Runtime
    _agents: AgentResolver
    _executor: StoreExecutor
    _bulk: BulkWork

    async def list(
        self, caller: AuthenticatedCaller, filters: DeliveryFilters, limit: int = 50, cursor: str | None = None
    ) -> Page[Delivery]:
        """List deliveries to configured targets, newest first. An unknown agent has none.

        Raises TenantNotAllowed, ProblemError, Unavailable.
        """
        tenants, name = visible_tenants(caller, filters.tenant), None
        if filters.agent is not None:
            name = await self._agents.find_name(caller, filters.agent)
            if name is None:
                return Page([], None)
        page, among = self._runtime.store.outbox.page, (tenants, filters.status, filters.target)
        return await self._executor(page, *among, limit, cursor, agent=name, key=filters.key)

    async def search(
        self, caller: AuthenticatedCaller, filters: DeliveryFilters, cursor: str | None = None
    ) -> FilteredPage[Delivery]:
        """Like `list`, of any agent and only alerts, without rows for actuators. Reads a bounded number of rows."""
        tenants = visible_tenants(caller, filters.tenant)
        among = (tenants, filters.status, filters.target, filters.key, cursor)
        return await self._bulk.search(caller, search_deliveries, ALERT_ROW_KIND, *among)

    async def send_test(self, caller: AuthenticatedCaller, target: str | None = None) -> Sequence[OutboxRow]:
        """Send a test alert, marked as such, to one target or to all, as any alert is sent.

        Raises TenantNotAllowed, ProblemError, Unavailable.
        """
        runtime = self._runtime
        webhooks = runtime.settings.webhooks
        targets = [webhook for webhook in webhooks if target in (None, webhook.name)]
        if not targets:
            names = ", ".join(webhook.name for webhook in webhooks) or "none: `webhooks` of the settings is empty"
            raise not_found_error(f"target; configured are {names}")
        test_id, now_ms, source = runtime.new_id(), runtime.now_ms(), runtime.settings.listen.url()
        tenant = min(visible_tenants(caller, None) or ("",))  # whose administrators see the test; "" = of all
        rows = []
        for chosen in targets:
            level = max(RiskLevel[level.upper()] for level in chosen.levels)  # one that the target takes
            rows.append(build_test_alert_row(test_id, chosen.name, caller.name, now_ms, source, level, tenant))
        await self._executor.write(runtime.store.outbox.enqueue, rows)
        return rows

    async def stopped_targets(self) -> set[str]:
        """Return the configured targets that refused permanently, and get nothing until their settings change."""
        return {stop.name for stop in await self.target_stops()}

    async def target_stops(self) -> Sequence[TargetStop]:
        """Like `stopped_targets`, with time and reason. Raises Unavailable."""
        configured = {webhook.name for webhook in self._runtime.settings.webhooks}
        stops = await self._executor(self._runtime.store.outbox.target_stops)
        return [stop for stop in stops if stop.name in configured]
