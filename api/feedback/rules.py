"""Rules that follow from feedback: on their way into the event logs, in force there, and on their way out.

What is said is written first, with the state `adopting`; then a control record goes into the log of each partition that
the rule concerns; then the state is `active`. A process that dies in between leaves a row that the next one (`follow`)
sends again: a partition that knows the rule already changes nothing. Revoking goes the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable

import msgspec
import structlog

from ...ingest.errors import TrustwatchError, Unavailable
from ...ingest.log import GroupCommit
from ...ingest.routing import key_for_partition
from ...ingest.source import Record, RecordKind
from ...scoring.feedback.values import Feedback, FeedbackState, FeedbackStep, RevokeFeedbackRule
from ...scoring.store import Store
from ..guard.audit import AuditSink
from .written import feedback_audit_event, rule_control_records

RESEND_AFTER_MS = 5_000
"""What was not sent so long after it was written is sent by whoever notices."""

_log = structlog.get_logger(__name__)


class FeedbackRulePublisher:
    """Sees that every event log that a rule concerns hears of it. For one event loop.

    Args:
        store: of feedback.
        log: where control records become durable.
        audit: where every step is noted as an event.
        now_ms: UTC milliseconds.
        partitions: event logs there are.
    """

    def __init__(
        self, store: Store, log: GroupCommit, audit: AuditSink, now_ms: Callable[[], int], partitions: Callable[[], int]
    ) -> None:
        self.active_counts: Counter[str] = Counter()
        """Rules in force by kind of scope, as of the last look."""
        self._store = store
        self._log = log
        self._audit_sink = audit
        self._now_ms = now_ms
        self._partitions = partitions
        self._orphans_checked_ms = 0

    async def publish(self, made: Feedback) -> Feedback:
        """Tell every event log that is concerned; where one does not answer, `follow` tries again."""
        try:
            await self._log.commit(rule_control_records(made, self._partitions(), self._now_ms()))
        except TrustwatchError as error:
            _log.warning("feedback waits for the log", feedback_id=made.feedback_id, error=str(error))
            return made
        done: FeedbackState = "active" if made.status == "adopting" else "revoked"
        sent = msgspec.structs.replace(made, status=done, updated_ms=max(self._now_ms(), made.updated_ms + 1))
        with contextlib.suppress(Unavailable):
            if await asyncio.to_thread(self._store.change_feedback, sent, made.status):
                return sent
        return made

    async def synchronise(self) -> None:
        """Send what was not sent, write down what has expired, count what is in force. Raises Unavailable."""
        now_ms = self._now_ms()
        count: Counter[str] = Counter()
        for one in await asyncio.to_thread(self._store.open_feedback):
            if one.status == "active" and one.expires_ms <= now_ms:
                await self._expire(one, now_ms)
                continue
            if one.status != "active" and now_ms - one.updated_ms >= RESEND_AFTER_MS:
                await self.publish(one)
            count[one.kind] += one.status in ("adopting", "active")
        self.active_counts = count
        await self._revoke_orphans(now_ms)

    async def _expire(self, one: Feedback, now_ms: int) -> None:
        """Write down that its time is over; partitions see that by themselves."""
        why = "its time is over"
        over = msgspec.structs.replace(one, status="expired", updated_ms=max(now_ms, one.updated_ms + 1))
        step = FeedbackStep(one.feedback_id, "expired", one.expires_ms, "trustwatch", why)
        if await asyncio.to_thread(self._store.change_feedback, over, one.status, step):
            self._audit_sink.enqueue(feedback_audit_event(over, "feedback.expired", "trustwatch", why, self._now_ms()))

    async def _revoke_orphans(self, now_ms: int) -> None:
        """A rule whose feedback was erased with its agent would hold unseen, and nobody could revoke it: it ends."""
        if now_ms - self._orphans_checked_ms < RESEND_AFTER_MS:
            return
        self._orphans_checked_ms, count = now_ms, self._partitions()
        held = await asyncio.to_thread(self._store.orphaned_holdings)
        if held:
            records = [
                Record(
                    RecordKind.CONTROL,
                    0,
                    now_ms,
                    msgspec.json.encode(RevokeFeedbackRule(one.rule, "trustwatch", "it was erased")),
                    key_for_partition(one.partition, count),
                )
                for one in held
            ]
            await self._log.commit(records)
