"""Failed proofs of possession as audit events: a token in other hands says something of its agent.

An event of the same failure of the same agent is written once an hour, and once a day where it is no more than a sign:
a client or a proxy that is set up wrong fails at each call, and is no thief for that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from cachetools import FIFOCache

from trustwatch.ingest.timestamps import DAY_MS, HOUR_MS, format_rfc3339

from ..http.auth.callers import OWN_SOURCE_PREFIX
from ..http.auth.proof_of_possession import ProofRefused

QUIET_MS: Final = {"proof": HOUR_MS, "evidence": DAY_MS}
"""Time in which a failure of an agent is told once, by what it says of the agent."""
MAX_REMEMBERED: Final = 10_000
_EVENT_TYPES: Final = {"proof": "signal.proof", "evidence": "signal.evidence"}


@dataclass(eq=False, repr=False)
class ProofReports:
    """Tells of failed proofs.

    Attributes:
        counts: failed proofs, by way and failure.
    """

    enqueue: Callable[[dict[str, Any]], object]  # takes an audit event; never waits
    now_ms: Callable[[], int]

    def __post_init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self._reported_at: FIFOCache[tuple[str, ...], int] = FIFOCache(MAX_REMEMBERED)

    def report(self, via: str, tenant: str, issuer: str, agent_id: str, refused: ProofRefused) -> None:
        """Count a failure, and write what it says of the agent; "" as *tenant* = whose agent it is is not known."""
        self.counts[via, refused.action] += 1
        if not refused.report or not tenant:
            return
        key, now = (tenant, issuer, agent_id, refused.action), self.now_ms()
        if now - self._reported_at.get(key, -DAY_MS) < QUIET_MS[refused.report]:
            return
        self._reported_at[key] = now
        event: dict[str, Any] = {
            "time": format_rfc3339(now),
            "source": OWN_SOURCE_PREFIX + via,
            "type": _EVENT_TYPES[refused.report],
            "tenant": tenant,
            "agent": {"id": agent_id, "issuer": issuer or None},
            "action": refused.action,
            "outcome": "denied",
        }
        if refused.thumbprint:
            event["credential"] = {"thumbprint": refused.thumbprint}
        self.enqueue(event)
