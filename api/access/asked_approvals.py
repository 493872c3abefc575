"""Approvals that wait because a caller, hook or gateway issuer asked for them: so many of each, shared by tenants."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection

MAX_PENDING_PER_CALLER = 1_000
"""Approvals that one caller of ours, hook, or issuer of tokens at gateways may have waiting in a process, over all
agents that it may speak for; `MIN_PENDING_PER_TENANT` come on top."""

MAX_PENDING_PER_TENANT = 200
"""Those of them about agents of one tenant."""

SHARE_OF_ROOM = 4
"""A tenant may have a quarter as many waiting as there is room for others. So tenants that share a gateway or hook
always leave room: five of them have 111 each, fifty have 18, and whoever comes then may have as many as each."""

MIN_PENDING_PER_TENANT = 5
"""Approvals that a tenant may have waiting, however many others wait."""


LOOK_AT_ALL_EVERY_MS = 1_000
"""All that a caller asked for is looked through so often at most: it may be thousands, while an answer waits."""


class _AskedByCaller:
    """Approvals that one caller had persons asked for: ids by tenant, with their ends, the first to end first."""

    def __init__(self) -> None:
        self.by_tenant: dict[str, OrderedDict[str, int]] = {}
        self.count = 0
        self.looked_at_ms = 0

    def add(self, intervention_id: str, tenant: str, now_ms: int, expires_ms: int) -> None:
        self.by_tenant.setdefault(tenant, OrderedDict())[intervention_id] = expires_ms
        self.count += 1
        self.keep(tenant, now_ms, None)

    def is_full(self, tenant: str) -> bool:
        return len(self.by_tenant.get(tenant, ())) >= self.share()

    def share(self) -> int:
        """Approvals that a tenant may have waiting now."""
        room = MAX_PENDING_PER_CALLER - self.count
        return min(MAX_PENDING_PER_TENANT, max(MIN_PENDING_PER_TENANT, room // SHARE_OF_ROOM))

    def keep(self, tenant: str, now_ms: int, waiting: Callable[[Collection[str]], Collection[str]] | None) -> None:
        """Forget those of a tenant whose time is over and, where *waiting* says which wait, those that do not."""
        asked = self.by_tenant.get(tenant)
        if asked is None:
            return
        before = len(asked)
        while asked and next(iter(asked.values())) <= now_ms:
            asked.popitem(last=False)
        if waiting is not None:
            still = waiting(asked)
            for intervention_id in [one for one in asked if one not in still]:
                del asked[intervention_id]
        self.count -= before - len(asked)
        if not asked:
            del self.by_tenant[tenant]


class AskedApprovals:
    """Approvals that were asked for in this process, by who asked. For one event loop."""

    def __init__(self, waiting: Callable[[Collection[str]], Collection[str]]) -> None:
        self._waiting = waiting
        self._callers: dict[str, _AskedByCaller] = {}

    def __len__(self) -> int:
        return sum(asked.count for asked in self._callers.values())

    def add(self, caller: str, intervention_id: str, tenant: str, now_ms: int, expires_ms: int) -> None:
        """Note that *caller* had persons asked about an agent of *tenant*."""
        self._callers.setdefault(caller, _AskedByCaller()).add(intervention_id, tenant, now_ms, expires_ms)

    def has_room(self, caller: str, tenant: str, now_ms: int) -> bool:
        """True if *caller* may have persons asked about one more agent of *tenant*."""
        asked = self._callers.get(caller)
        if asked is None or not asked.is_full(tenant):
            return True
        asked.keep(tenant, now_ms, self._waiting)
        if asked.is_full(tenant) and asked.share() < MAX_PENDING_PER_TENANT:
            self._look_at_all(asked, now_ms)
        return not asked.is_full(tenant)

    def _look_at_all(self, asked: _AskedByCaller, now_ms: int) -> None:
        """Forget what does not wait any more of all tenants: their room counts, too."""
        if now_ms - asked.looked_at_ms < LOOK_AT_ALL_EVERY_MS:
            return
        asked.looked_at_ms = now_ms
        for tenant in list(asked.by_tenant):
            asked.keep(tenant, now_ms, self._waiting)
