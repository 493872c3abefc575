"""Audit events of the service itself: requests at issuance and at gateways, and actions of people.

They are processed like all events: through the log, in order, durable, scored. No request waits for them. The queue is
bounded: events that find no room are counted and dropped.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import structlog
from cachetools import FIFOCache

from trustwatch.ingest.columns import OWN_APPROVAL_RECORD
from trustwatch.ingest.errors import MalformedEvent, SourceNotAllowed, Unavailable
from trustwatch.ingest.formats.raw_records import RawRecord
from trustwatch.ingest.log.group_commit import GroupCommit
from trustwatch.ingest.source import Record
from trustwatch.ingest.timestamps import DAY_MS, HOUR_MS, format_rfc3339
from trustwatch.scoring.records.agents import AgentName
from trustwatch_client.events import CAUSED_BY_TRUST, MAX_ID_LENGTH

from ..http.auth.callers import OWN_SOURCE_PREFIX, SourceBinding
from ..http.auth.proof_of_possession import ProofRefused
from ..settings.access_settings import ANY_NAME, EventSourceSettings
from .admission import Admission

ORDER_TYPE = "approval"  # Type of the events of what people order: those are written while the disk has any room
MAX_QUEUED_EVENTS = 100_000
MAX_COMMIT_RECORDS = 500
MAX_AUDIT_COMMIT_BYTES = 4 * 1024 * 1024
AUDIT_RETRY_S = 0.5

_log = structlog.get_logger(__name__)


def order_event(
    subject: str, agent: AgentName, action: str, by: str, at_ms: int, attributes: dict[str, Any]
) -> dict[str, Any]:
    """Create the event of a person's order about an agent. It is recorded, but is not behavior of the agent."""
    return {
        "time": format_rfc3339(at_ms),
        "source": OWN_SOURCE_PREFIX + subject,
        "type": ORDER_TYPE,
        "tenant": agent.tenant or None,
        "agent": {"id": agent.agent_id, "issuer": agent.issuer or None},
        "principal": {"id": by[:MAX_ID_LENGTH], "type": "user"},
        "action": action,
        "outcome": "success",
        "error": OWN_APPROVAL_RECORD,
        "caused_by": CAUSED_BY_TRUST,
        "attributes": attributes,
    }


@dataclass(eq=False, repr=False)
class AuditSink:
    """Writes events in the background."""

    log: GroupCommit
    admission: Admission
    now_ms: Callable[[], int]
    new_id: Callable[[], str]
    is_full: Callable[[], bool] = lambda: False  # true when only orders of people may be written
    written: int = field(default=0, init=False)  # events made durable
    dropped: int = field(default=0, init=False)  # no room, or not valid events (a bug of this service, logged)

    def __post_init__(self) -> None:
        self._binding = SourceBinding(
            EventSourceSettings("trustwatch", (ANY_NAME,), (ANY_NAME,), (OWN_SOURCE_PREFIX + "*",), enforces=True),
            ours=True,
        )
        self._queue: deque[Record] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._queue)

    def enqueue(self, event: dict[str, Any]) -> str:
        """Queue a native event and return its ID, or "" if the queue is full. Never waits. Fills in `id`."""
        is_order = event.get("type") == ORDER_TYPE
        if len(self._queue) >= MAX_QUEUED_EVENTS or (not is_order and self.is_full()):
            self.dropped += 1
            return ""
        event_id = event.setdefault("id", self.new_id())
        try:
            record = self.admission.admit(RawRecord(msgspec.json.encode(event)), self._binding, self.now_ms())
        except (MalformedEvent, SourceNotAllowed) as error:
            self.dropped += 1
            _log.error("own audit event is wrong", error=str(error), type=event.get("type"))
            return ""
        self._queue.append(record)
        self._idle.clear()
        self._wake.set()
        return str(event_id)

    async def run(self) -> None:
        """Write queued events until canceled. Events that the log rejects are retried."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                await self._commit_next()
            self._idle.set()

    async def flush(self, timeout_s: float) -> bool:
        """Wait until the queue is empty. Return False after *timeout_s*."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    async def _commit_next(self) -> None:
        records: list[Record] = []
        size = 0
        for record in itertools.islice(self._queue, MAX_COMMIT_RECORDS):
            size += len(record.payload)
            if records and size > MAX_AUDIT_COMMIT_BYTES:
                break
            records.append(record)
        try:
            await self.log.commit(records)
        except Unavailable as error:
            _log.warning("audit events wait for the log", error=str(error), waiting=len(self._queue))
            await asyncio.sleep(AUDIT_RETRY_S)
            return
        except Exception as error:  # a bug of this service: these records are lost and counted, later ones are not
            _log.error("audit events are lost", error=repr(error)[:200], events=len(records))
            self.dropped += len(records)
            self.written -= len(records)
        for _ in records:
            self._queue.popleft()
        self.written += len(records)


# Failed proofs of possession as audit events: a stolen token is evidence about its agent.

QUIET_MS: Final = {"proof": HOUR_MS, "evidence": DAY_MS}
"""Interval in which each kind of failure of an agent is reported once."""
MAX_REMEMBERED: Final = 10_000
_EVENT_TYPES: Final = {"proof": "signal.proof", "evidence": "signal.evidence"}


@dataclass(eq=False, repr=False)
class ProofReports:
    """Reports failed proofs of possession."""

    enqueue: Callable[[dict[str, Any]], object]  # takes an audit event; never waits
    now_ms: Callable[[], int]
    counts: Counter[tuple[str, str]] = field(default_factory=Counter, init=False)  # by way and failure

    def __post_init__(self) -> None:
        self._reported_at: FIFOCache[tuple[str, ...], int] = FIFOCache(MAX_REMEMBERED)

    def report(self, via: str, tenant: str, issuer: str, agent_id: str, refused: ProofRefused) -> None:
        """Count a failure, and write it as evidence about the agent. An empty *tenant* means that it is unknown."""
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
