"""Feedback: checked, previewed and written down; event logs hear of its rules by control records."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

import msgspec
import structlog

from trustwatch.ingest.described import FLAT, member
from trustwatch.ingest.errors import TrustwatchError, Unavailable
from trustwatch.ingest.log.group_commit import GroupCommit
from trustwatch.ingest.record_keys import agent_partition_key, key_for_partition, partition_of, record_id
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.ingest.timestamps import HOUR_MS, format_rfc3339
from trustwatch.scoring.records.agents import AgentSummary, RiskLevel
from trustwatch.scoring.records.decisions import Decision
from trustwatch.scoring.records.feedback import (
    AdoptFeedbackRule,
    Feedback,
    FeedbackAction,
    FeedbackPreview,
    FeedbackState,
    FeedbackStep,
    FeedbackVerdict,
    PartitionRule,
    RevokeFeedbackRule,
)
from trustwatch.scoring.store.database import Page
from trustwatch.scoring.store.sql_store import SqlStore

from ..events.audit_sink import AuditSink, order_event
from ..http.agent_lookup import AgentResolver, AgentSelector, not_found_error, visible_tenants
from ..http.auth.callers import AuthenticatedCaller
from ..http.problems import ProblemDetails, ProblemError
from ..http.separation_of_duties import (
    Reviewer,
    agents_operated_by,
    check_not_own_agent,
    check_not_own_group,
    reviewer_of,
)
from ..http.store_executor import StoreExecutor
from ..settings.access_settings import ANY_NAME
from ..settings.root import Settings
from .drafts import FeedbackDraft, check_draft, draft_digest, draft_refused_error, withdrawable_evidence
from .preview_runner import PREVIEW_VALID_MS, PreviewRunner


def rule_control_records(feedback: Feedback, partitions: int, now_ms: int) -> Sequence[Record]:
    """One record for each partition: that of the agent, or all if the rule is about a peer group."""
    agent = feedback.agent
    own = agent_partition_key(agent.tenant, agent.issuer, agent.agent_id)
    home = partition_of(own, partitions)
    command: AdoptFeedbackRule | RevokeFeedbackRule
    records = []
    for partition in [home] if feedback.kind == "agent" else range(partitions):
        if feedback.status == "revoking":
            command = RevokeFeedbackRule(feedback.rule, feedback.revoked_by, feedback.revoked_why)
        else:
            taken = feedback.withdraw if partition == home else 0.0
            command = AdoptFeedbackRule(feedback.rule, feedback.author, feedback.reason, taken, feedback.decision_id)
        route = own if partition == home else key_for_partition(partition, partitions)
        records.append(Record(RecordKind.CONTROL, 0, now_ms, msgspec.json.encode(command), route))
    return records


def feedback_audit_event(feedback: Feedback, action: str, by: str, why: str, at_ms: int) -> dict[str, Any]:
    """An audit event of the feedback: durable, in order, and not behavior of the agent."""
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
SYNCHRONISE_INTERVAL_S = 2.0
KNOWN_CODE = "feedback_known"  # Code of the problem that the same feedback was given a moment ago
_MAX_DECISION_PAGES = 40
_MAX_NAMESAKES = 1_000
MAX_RULES_READ = 200  # Active rules of a tenant that are searched for those about one agent
MAX_RULES = 100  # Active rules of one tenant: each is checked for every event of an agent that it may concern

_log = structlog.get_logger(__name__)


class FeedbackStatus(NamedTuple):
    """Feedback with what became of it."""

    feedback: Annotated[Feedback, FLAT]
    matched: Annotated[int, member("events that the rule matched, as of the last commits", 14)]
    last_ms: Annotated[int, member("time of the last event that the rule matched, if any", null=True)]
    partitions: Annotated[int, member("event logs that apply the rule now", 1)]
    steps: Annotated[Sequence[FeedbackStep], member("history; empty in lists")] = ()


@dataclass(eq=False, repr=False)
class FeedbackService:
    """Takes feedback. Its methods belong to one event loop."""

    settings: Settings
    store: SqlStore
    log: GroupCommit
    audit: AuditSink
    previews: PreviewRunner
    agents: AgentResolver
    executor: StoreExecutor
    now_ms: Callable[[], int]
    partitions: Callable[[], int] = lambda: 1

    MISSING_DETAIL: ClassVar = "this process takes no feedback"

    def __post_init__(self) -> None:
        self._adoption_lock = asyncio.Lock()
        self._orphans_checked_ms = 0

    async def start_preview(
        self, caller: AuthenticatedCaller, decision_id: str, draft: FeedbackDraft
    ) -> FeedbackPreview:
        """Start a preview, which runs in the background. Raises ProblemError (403, 404, 422, 429), Unavailable."""
        reviewer = reviewer_of(caller)
        decision, draft = await self._check(decision_id, draft, reviewer)
        if draft.verdict == "true_positive":
            raise draft_refused_error("a true positive changes nothing in scoring: there is nothing to preview")
        rule = self._new_feedback(draft, decision, reviewer, preview_id="").rule
        return await self.previews.start(decision, rule, draft_digest(draft, decision_id), reviewer.name)

    async def get_preview(self, caller: AuthenticatedCaller, preview_id: str) -> FeedbackPreview:
        """Progress and result of a preview. Raises ProblemError (404), Unavailable."""
        preview = await self.previews.find(preview_id, visible_tenants(caller, None))
        if preview is None:
            raise not_found_error("preview")
        return preview

    async def adopt(self, caller: AuthenticatedCaller, decision_id: str, draft: FeedbackDraft) -> FeedbackStatus:
        """Record feedback and, if a rule follows, activate it. Raises ProblemError, Unavailable."""
        reviewer = reviewer_of(caller)
        decision, draft = await self._check(decision_id, draft, reviewer)
        unseen = draft.verdict == "false_positive" and await self._check_preview(draft, decision)
        async with self._adoption_lock:  # else two that are adopted at a time could both find room
            feedback = self._new_feedback(draft, decision, reviewer, preview_id=draft.preview_id or "")
            feedback = msgspec.structs.replace(feedback, unseen=unseen, until_ms=await self._window_end(decision))
            if feedback.verdict == "false_positive":
                rules = await self.executor(self.store.feedback.list_open, (feedback.agent.tenant,))
                if len(rules) >= MAX_RULES:
                    most = f"{len(rules)} rules are active for this tenant, and there may be {MAX_RULES}"
                    raise draft_refused_error(f"{most}: revoke one that is no longer needed", "too_many_rules", 409)
            action: FeedbackAction = "noted" if feedback.status == "noted" else "adopted"
            step = FeedbackStep(feedback.feedback_id, action, feedback.created_ms, reviewer.name, feedback.reason)
            if not await self.executor.write(self.store.feedback.add, feedback, step):
                raise ProblemError(ProblemDetails(409, KNOWN_CODE, "Known already", "the same was said a moment ago"))
        self.audit.enqueue(
            feedback_audit_event(feedback, f"feedback.{action}", reviewer.name, feedback.reason, self.now_ms())
        )
        return await self._status_of(await self._publish(feedback) if feedback.status == "adopting" else feedback)

    async def list(
        self,
        caller: AuthenticatedCaller,
        status: FeedbackState | None = None,
        verdict: FeedbackVerdict | None = None,
        agent: AgentSelector | None = None,
        decision_id: str | None = None,
        tenant: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[FeedbackStatus]:
        """Feedback, newest first; about one agent, if *agent* is given. About an unknown one there is none.

        Raises TenantNotAllowed, ProblemError (400, 409), Unavailable.
        """
        tenants, name = visible_tenants(caller, tenant), None
        if agent is not None:
            name = await self.agents.find_name(caller, agent)
            if name is None:
                return Page([], None)
        page = await self.executor(self.store.feedback.page, tenants, status, verdict, name, decision_id, limit, cursor)
        ids = [feedback.feedback_id for feedback in page.items]
        rules = await self.executor(self.store.feedback.rules_of_feedback, ids, tenants)
        return Page([_feedback_status(feedback, rules) for feedback in page.items], page.next_cursor)

    async def active_rules_of(self, caller: AuthenticatedCaller, summary: AgentSummary) -> Sequence[Feedback]:
        """Active rules that make something about an agent count as usual: its own, and those for its peer group.

        Raises TenantNotAllowed, Unavailable.
        """
        tenants = visible_tenants(caller, summary.name.tenant)
        page = await self.executor(
            self.store.feedback.page, tenants, "active", "false_positive", None, None, MAX_RULES_READ
        )
        return [
            feedback
            for feedback in page.items
            if (
                feedback.agent.key == summary.name.key
                if feedback.kind == "agent"
                else feedback.agent_type == summary.agent_type
            )
        ]

    async def get(self, caller: AuthenticatedCaller, feedback_id: str) -> FeedbackStatus:
        """One, with its steps. Raises ProblemError (404), Unavailable."""
        feedback = await self.executor(self.store.feedback.get, feedback_id, visible_tenants(caller, None))
        if feedback is None:
            raise not_found_error("feedback")
        return await self._status_of(feedback)

    async def revoke(self, caller: AuthenticatedCaller, feedback_id: str, reason: str) -> FeedbackStatus:
        """End a rule, or take a label back, from now on. Raises ProblemError (403, 404, 409, 422), Unavailable."""
        if not reason.strip():
            raise draft_refused_error("say why: `reason` is empty")
        before, reviewer = (await self.get(caller, feedback_id)).feedback, reviewer_of(caller)
        check_not_own_agent(before.agent, reviewer, self.settings.actuators)
        if before.status in ("revoking", "revoked"):
            raise _not_open_error(before)
        now_ms = self.now_ms()
        active = before.status in ("adopting", "active")
        after = msgspec.structs.replace(
            before,
            status="revoking" if active else "revoked",
            revoked_by=reviewer.name,
            revoked_ms=now_ms,
            revoked_why=reason,
            updated_ms=max(now_ms, before.updated_ms + 1),
        )
        step = FeedbackStep(feedback_id, "revoked", now_ms, reviewer.name, reason)
        if not await self.executor.write(self.store.feedback.update, after, before.status, step):
            raise _not_open_error(before)
        self.audit.enqueue(feedback_audit_event(after, "feedback.revoked", reviewer.name, reason, self.now_ms()))
        return await self._status_of(await self._publish(after) if active else after)

    async def run(self, stop: asyncio.Event) -> None:
        """Follow the active rules until *stop*, then end the running preview."""
        failing = False
        while not stop.is_set():
            try:
                await self.synchronise()
                failing = False
            except TrustwatchError as error:
                if not failing:
                    _log.warning("feedback cannot be followed; rules hold as they are", error=str(error))
                failing = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), SYNCHRONISE_INTERVAL_S)
        await self.previews.close()

    async def _publish(self, feedback: Feedback) -> Feedback:
        """Notify every event log that is concerned; if one does not answer, `synchronise` tries again."""
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
        """Send what was not sent, write down what has expired. Raises Unavailable."""
        now_ms = self.now_ms()
        for feedback in await asyncio.to_thread(self.store.feedback.list_open):
            if feedback.status == "active" and feedback.expires_ms <= now_ms:
                why, updated_ms = "its time is over", max(now_ms, feedback.updated_ms + 1)
                over = msgspec.structs.replace(feedback, status="expired", updated_ms=updated_ms)
                step = FeedbackStep(feedback.feedback_id, "expired", feedback.expires_ms, "trustwatch", why)
                if await asyncio.to_thread(self.store.feedback.update, over, feedback.status, step):
                    self.audit.enqueue(feedback_audit_event(over, "feedback.expired", "trustwatch", why, self.now_ms()))
            elif feedback.status != "active" and now_ms - feedback.updated_ms >= RESEND_AFTER_MS:
                await self._publish(feedback)
        if now_ms - self._orphans_checked_ms < RESEND_AFTER_MS:
            return
        self._orphans_checked_ms, count = now_ms, self.partitions()
        revocations = []  # of rules whose feedback was erased with its agent: they could not be revoked otherwise
        for orphan in await asyncio.to_thread(self.store.feedback.orphaned_rules):
            command = msgspec.json.encode(RevokeFeedbackRule(orphan.rule, "trustwatch", "it was erased"))
            route = key_for_partition(orphan.partition, count)
            revocations.append(Record(RecordKind.CONTROL, 0, now_ms, command, route))
        if revocations:
            await self.log.commit(revocations)

    async def _check(
        self, decision_id: str, draft: FeedbackDraft, reviewer: Reviewer
    ) -> tuple[Decision, FeedbackDraft]:
        """Return the decision and the checked draft.

        Raises ProblemError: 403 for a caller that judges its own agent, or wants a rule that covers it; 404; 422.
        """
        decision = await self.executor(self.store.decisions.get, decision_id, reviewer.tenants)
        if decision is None:
            raise not_found_error("decision")
        draft = check_draft(draft, decision)
        agent, actuators = decision.agent, self.settings.actuators
        check_not_own_agent(agent, reviewer, actuators)
        if draft.kind == "peer_group":
            own = {
                agent_id: await self.executor(self.store.agents.find, agent_id, (agent.tenant,), _MAX_NAMESAKES)
                for agent_id in sorted(agents_operated_by(reviewer, actuators))
            }
            serving = [
                actuator for actuator in actuators if agent.tenant in actuator.tenants or ANY_NAME in actuator.tenants
            ]
            check_not_own_group(decision.agent_type, own, reviewer, serving)
        return decision, draft

    async def _check_preview(self, draft: FeedbackDraft, decision: Decision) -> bool:
        """Return true if it is adopted unseen. Raises ProblemError (409) unless this draft was previewed to the end."""
        preview = None
        if draft.preview_id:
            preview = await self.previews.find(draft.preview_id, (decision.agent.tenant,))
        if preview is None:
            raise _preview_needed_error("look first: start a preview of this draft, and name it in `preview_id`")
        if preview.draft != draft_digest(draft, decision.decision_id):
            raise _preview_needed_error(
                "that preview is of another draft: decision, verdict, scope and expiry have to be the same"
            )
        if preview.status != "done":
            raise _preview_needed_error(f"that preview is {preview.status}: {preview.error or 'wait until it is done'}")
        if self.now_ms() - preview.updated_ms > PREVIEW_VALID_MS:
            raise _preview_needed_error("that preview is more than a day old; start another one")
        unseen = bool(msgspec.json.decode(preview.result).get("unseen"))
        if unseen and not draft.accept_unseen:
            raise _preview_needed_error("there was no history to preview it on; `accept_unseen` adopts it all the same")
        return unseen

    async def _window_end(self, decision: Decision) -> int:
        """Event time when the agent was back to normal after a decision; now if it is not."""
        cursor, normal_ms = None, self.now_ms()
        for _ in range(_MAX_DECISION_PAGES):
            page = await self.executor(self.store.decisions.page, (decision.agent.tenant,), decision.agent, 500, cursor)
            for later in page.items:
                if later.decided_ms <= decision.decided_ms:
                    return normal_ms
                if later.level < RiskLevel.MEDIUM:
                    normal_ms = later.event_time_ms
            cursor = page.next_cursor
            if cursor is None:
                break
        return normal_ms

    def _new_feedback(self, draft: FeedbackDraft, decision: Decision, reviewer: Reviewer, preview_id: str) -> Feedback:
        now_ms, positive = self.now_ms(), draft.verdict == "true_positive"
        at_ms = decision.event_time_ms
        return Feedback(
            feedback_id=record_id(now_ms, "feedback", decision.decision_id, reviewer.name, draft_digest(draft, "")),
            verdict=draft.verdict,
            status="noted" if positive else "adopting",
            decision_id=decision.decision_id,
            agent=decision.agent,
            agent_type=decision.agent_type,
            kind=draft.kind,
            features=draft.features,
            resource=draft.resource,
            reason=draft.reason,
            author=reviewer.name,
            created_ms=now_ms,
            expires_ms=0 if positive else now_ms + draft.expires_in_s * 1000,
            preview_id=preview_id,
            unseen=False,
            event_id=decision.event_id,
            event_time_ms=at_ms,
            level=decision.level,
            from_ms=at_ms - HOUR_MS,
            until_ms=at_ms,
            withdraw=0.0 if positive else withdrawable_evidence(decision),
            revoked_by="",
            revoked_ms=0,
            revoked_why="",
            updated_ms=now_ms,
        )

    async def _status_of(self, feedback: Feedback) -> FeedbackStatus:
        tenants = (feedback.agent.tenant,)
        rules = await self.executor(self.store.feedback.rules_of_feedback, [feedback.feedback_id], tenants)
        steps = await self.executor(self.store.feedback.list_steps, feedback.feedback_id, tenants)
        return _feedback_status(feedback, rules)._replace(steps=steps)


def _feedback_status(feedback: Feedback, rules: Sequence[PartitionRule]) -> FeedbackStatus:
    """Feedback with the state of its rule in event logs, as far as *rules* belong to it; without its steps."""
    own = [rule for rule in rules if rule.rule.rule_id == feedback.feedback_id]
    return FeedbackStatus(
        feedback,
        sum(rule.matched for rule in own),
        max((rule.last_ms for rule in own), default=0),
        sum(rule.until_offset < 0 for rule in own),
    )


def _not_open_error(feedback: Feedback) -> ProblemError:
    detail = f"feedback {feedback.feedback_id} is {feedback.status} already"
    return ProblemError(ProblemDetails(409, "not_open", "Not open", detail))


def _preview_needed_error(detail: str) -> ProblemError:
    return ProblemError(ProblemDetails(409, "preview_needed", "Preview needed", detail))
