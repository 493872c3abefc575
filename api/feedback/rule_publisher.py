"""Publication of feedback rules: control records for event logs, and events for the audit trail."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog

from trustwatch.ingest.errors import TrustwatchError, Unavailable
from trustwatch.ingest.log.group_commit import GroupCommit
from trustwatch.ingest.record_keys import agent_partition_key, key_for_partition, partition_of
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.scoring.records.feedback import (
    AdoptFeedbackRule,
    Feedback,
    FeedbackState,
    FeedbackStep,
    RevokeFeedbackRule,
)
from trustwatch.scoring.store.sql_store import SqlStore

from ..events.audit_sink import AuditSink, order_event


def rule_control_records(feedback: Feedback, partitions: int, now_ms: int) -> Sequence[Record]:
    """One record for each partition: that of the agent, or all where it is about a peer group."""
    agent = feedback.agent
    own = agent_partition_key(agent.tenant, agent.issuer, agent.agent_id)
    home = partition_of(own, partitions)
    targets: Sequence[int] = [home] if feedback.kind == "agent" else range(partitions)
    records = []
    for partition in targets:
        if feedback.status == "revoking":
            command: AdoptFeedbackRule | RevokeFeedbackRule = RevokeFeedbackRule(
                feedback.rule, feedback.revoked_by, feedback.revoked_why
            )
        else:
            taken = feedback.withdraw if partition == home else 0.0
            command = AdoptFeedbackRule(feedback.rule, feedback.author, feedback.reason, taken, feedback.decision_id)
        payload = msgspec.json.encode(command)
        route = own if partition == home else key_for_partition(partition, partitions)
        records.append(Record(RecordKind.CONTROL, 0, now_ms, payload, route))
    return records


def feedback_audit_event(feedback: Feedback, action: str, by: str, why: str, at_ms: int) -> dict[str, Any]:
    """An audit event of what was said: durable, in order, and no behaviour of the agent."""
    attributes = {
        "feedback_id": feedback.feedback_id,
        "decision_id": feedback.decision_id,
        "verdict": feedback.verdict,
        "scope": feedback.kind,
        "features": None if feedback.features is None else list(feedback.features),
        "resource": feedback.resource,
        "why": why,
        "expires_at": format_rfc3339(feedback.expires_ms),
    }
    return order_event("feedback", feedback.agent, action, by, at_ms, attributes)


# Feedback is written first, with the state `adopting`; then a control record goes into the log of each partition that
# the rule concerns; then the state is `active`. A process that dies in between leaves a row that the next call of
# `synchronise` sends again: a partition that knows the rule already changes nothing. Revoking goes the same way.

RESEND_AFTER_MS = 5_000  # Age at which a rule that was written and not sent is sent by any process that notices it, ms

_log = structlog.get_logger(__name__)


@dataclass(eq=False, repr=False)
class FeedbackRulePublisher:
    """Sees that every event log that a rule concerns hears of it. For one event loop."""

    store: SqlStore
    log: GroupCommit
    audit: AuditSink
    now_ms: Callable[[], int]
    partitions: Callable[[], int]

    def __post_init__(self) -> None:
        self.active_counts: Counter[str] = Counter()
        """Rules in force by kind of scope, as of the last look."""
        self._orphans_checked_ms = 0

    async def publish(self, feedback: Feedback) -> Feedback:
        """Tell every event log that is concerned; where one does not answer, `synchronise` tries again."""
        try:
            await self.log.commit(rule_control_records(feedback, self.partitions(), self.now_ms()))
        except TrustwatchError as error:
            _log.warning("feedback waits for the log", feedback_id=feedback.feedback_id, error=str(error))
            return feedback
        done: FeedbackState = "active" if feedback.status == "adopting" else "revoked"
        sent = msgspec.structs.replace(feedback, status=done, updated_ms=max(self.now_ms(), feedback.updated_ms + 1))
        with contextlib.suppress(Unavailable):
            if await asyncio.to_thread(self.store.feedback.update, sent, feedback.status):
                return sent
        return feedback

    async def synchronise(self) -> None:
        """Send what was not sent, write down what has expired, count what is in force. Raises Unavailable."""
        now_ms = self.now_ms()
        count: Counter[str] = Counter()
        for feedback in await asyncio.to_thread(self.store.feedback.list_open):
            if feedback.status == "active" and feedback.expires_ms <= now_ms:
                await self._expire(feedback, now_ms)
                continue
            if feedback.status != "active" and now_ms - feedback.updated_ms >= RESEND_AFTER_MS:
                await self.publish(feedback)
            count[feedback.kind] += feedback.status in ("adopting", "active")
        self.active_counts = count
        await self._revoke_orphans(now_ms)

    async def _expire(self, feedback: Feedback, now_ms: int) -> None:
        """Write down that its time is over; partitions see that by themselves."""
        why = "its time is over"
        over = msgspec.structs.replace(feedback, status="expired", updated_ms=max(now_ms, feedback.updated_ms + 1))
        step = FeedbackStep(feedback.feedback_id, "expired", feedback.expires_ms, "trustwatch", why)
        if await asyncio.to_thread(self.store.feedback.update, over, feedback.status, step):
            self.audit.enqueue(feedback_audit_event(over, "feedback.expired", "trustwatch", why, self.now_ms()))

    async def _revoke_orphans(self, now_ms: int) -> None:
        """A rule whose feedback was erased with its agent would hold unseen, and nobody could revoke it: it ends."""
        if now_ms - self._orphans_checked_ms < RESEND_AFTER_MS:
            return
        self._orphans_checked_ms, count = now_ms, self.partitions()
        orphans = await asyncio.to_thread(self.store.feedback.orphaned_rules)
        if orphans:
            records = [
                Record(
                    RecordKind.CONTROL,
                    0,
                    now_ms,
                    msgspec.json.encode(RevokeFeedbackRule(orphan.rule, "trustwatch", "it was erased")),
                    key_for_partition(orphan.partition, count),
                )
                for orphan in orphans
            ]
            await self.log.commit(records)
