"""Approvals that each way had persons asked for and that wait: so many, and of tenants that share it a share each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

MAX_PENDING_PER_CALLER = 1_000
"""Approvals that one caller of ours, hook, or issuer of tokens at gateways may have waiting in a process, over all
agents that it may speak for; `MIN_PENDING_PER_TENANT` come on top."""

MAX_PENDING_PER_TENANT = 200
"""Those of them about agents of one tenant."""

SHARE_OF_ROOM = 4
"""A tenant may have a quarter as many waiting as there is room for others. So those who fill a way that tenants share
always leave room: five of them have 111 each, fifty have 18, and whoever comes then may have as many as each."""

MIN_PENDING_PER_TENANT = 5
"""Approvals that a tenant may have waiting, however many others wait."""


class AskedApprovals:
    """Approvals that were asked for in this process, by who asked. For one event loop.

    Args:
        waiting: those of some ids that are being written, or wait for a person.
    """

    def __init__(self, waiting: Callable[[Collection[str]], Collection[str]]) -> None:
        self._waiting = waiting
        self._asked: dict[str, dict[str, tuple[str, int]]] = {}
        """Ids by caller, with the tenant of the agent and when they end."""
        self._by_tenant: dict[str, Counter[str]] = {}

    def add(self, caller: str, intervention_id: str, tenant: str, expires_ms: int) -> None:
        """Note that *caller* had persons asked about an agent of *tenant*."""
        self._asked.setdefault(caller, {})[intervention_id] = tenant, expires_ms
        self._by_tenant.setdefault(caller, Counter())[tenant] += 1

    def has_room(self, caller: str, tenant: str, now_ms: int) -> bool:
        """True if *caller* may have persons asked about one more agent of *tenant*."""
        if not self._is_full(caller, tenant):
            return True
        self._forget_ended(caller, now_ms)
        return not self._is_full(caller, tenant)

    def _is_full(self, caller: str, tenant: str) -> bool:
        counts = self._by_tenant.get(caller)
        if counts is None:
            return False
        room = MAX_PENDING_PER_CALLER - len(self._asked[caller])
        share = min(MAX_PENDING_PER_TENANT, max(MIN_PENDING_PER_TENANT, room // SHARE_OF_ROOM))
        return counts[tenant] >= share

    def _forget_ended(self, caller: str, now_ms: int) -> None:
        asked, counts = self._asked[caller], self._by_tenant[caller]
        waiting = self._waiting(asked)
        for intervention_id, (tenant, expires_ms) in list(asked.items()):
            if expires_ms <= now_ms or intervention_id not in waiting:
                del asked[intervention_id]
                counts[tenant] -= 1
        self._by_tenant[caller] = +counts
