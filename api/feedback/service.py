"""The desk that takes feedback: checks it and writes it down; `rules.py` sees that event logs hear of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, TypeVar

import msgspec
import structlog

from ...ingest.errors import TrustwatchError
from ...ingest.log.group_commit import GroupCommit
from ...ingest.record_keys import record_id
from ...ingest.timestamps import HOUR_MS
from ...scoring.records.agents import RiskLevel
from ...scoring.records.decisions import Decision
from ...scoring.records.feedback import (
    Feedback,
    FeedbackAction,
    FeedbackPreview,
    FeedbackState,
    FeedbackStep,
    FeedbackVerdict,
)
from ...scoring.store.interface import Page, Store
from ..events.audit_sink import AuditSink
from ..http.auth.callers import ANY_NAME
from ..http.problems import ProblemDetails, ProblemError
from ..http.separation_of_duties import Reviewer, agents_operated_by, check_not_own_agent, check_not_own_group
from ..settings.root import Settings
from .drafts import FeedbackDraft, check_draft, draft_digest, draft_refused_error, withdrawable_evidence
from .preview_runner import PREVIEW_VALID_MS, PreviewRunner
from .rule_publisher import FeedbackRulePublisher, feedback_audit_event

SYNCHRONISE_INTERVAL_S = 2.0
_MAX_DECISION_PAGES = 40
_MAX_NAMESAKES = 1_000

T = TypeVar("T")
_log = structlog.get_logger(__name__)


class FeedbackStatus(NamedTuple):
    """Feedback with what became of it.

    Attributes:
        matched: events in which its rule counted, as of the last commits.
        last_ms: event time of the last of them; 0 = none.
        partitions: event logs that hold to the rule now.
        steps: its life so far; empty in lists.
    """

    feedback: Feedback
    matched: int
    last_ms: int
    partitions: int
    steps: Sequence[FeedbackStep] = ()


class FeedbackService:
    """Takes feedback. Its methods belong to one event loop; the store is called in threads.

    Args:
        settings: bounds, and the actuators' names of agents.
        store: of feedback and decisions.
        log: where control records become durable.
        audit: where every step is noted as an event.
        preview_runner: runs them.
        now_ms: UTC milliseconds.
        partitions: event logs there are.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        log: GroupCommit,
        audit: AuditSink,
        previews: PreviewRunner,
        now_ms: Callable[[], int],
        partitions: Callable[[], int] = lambda: 1,
    ) -> None:
        self.preview_runner = previews
        self.rule_publisher = FeedbackRulePublisher(store, log, audit, now_ms, partitions)
        """Rules that follow from feedback, from adoption to their end."""
        self._settings = settings
        self._store = store
        self._audit_sink = audit
        self._now_ms = now_ms
        self._adoption_lock = asyncio.Lock()

    async def start_preview(self, decision_id: str, draft: FeedbackDraft, author: Reviewer) -> FeedbackPreview:
        """Begin a preview; it runs by itself. Raises ProblemError (403, 404, 422, 429), Unavailable."""
        decision = await self._find_decision(decision_id, author)
        made = check_draft(draft, decision, self._settings.feedback)
        await self._check_reviewer(made, decision, author)
        if made.verdict == "true_positive":
            raise draft_refused_error("a true positive changes nothing in scoring: there is nothing to preview")
        rule = self._new_feedback(made, decision, author, preview_id="").rule
        return await self.preview_runner.start(decision, rule, draft_digest(made, decision_id), author.name)

    async def get_preview(self, preview_id: str, tenants: Collection[str] | None) -> FeedbackPreview:
        """How a preview fares. Raises ProblemError (404), Unavailable."""
        found = await self.preview_runner.find(preview_id, tenants)
        if found is None:
            raise _unknown_error("preview")
        return found

    async def adopt(self, decision_id: str, draft: FeedbackDraft, author: Reviewer) -> FeedbackStatus:
        """Write feedback down and, where a rule follows, put it in force. Raises ProblemError, Unavailable."""
        decision = await self._find_decision(decision_id, author)
        draft = check_draft(draft, decision, self._settings.feedback)
        await self._check_reviewer(draft, decision, author)
        unseen = draft.verdict == "false_positive" and await self._check_preview(draft, decision)
        async with self._adoption_lock:  # else two that are adopted at a time could both find room
            made = self._new_feedback(draft, decision, author, preview_id=draft.preview_id or "")
            made = msgspec.structs.replace(made, unseen=unseen, until_ms=await self._window_end(decision))
            if made.verdict == "false_positive":
                await self._check_room(made.agent.tenant)
            action: FeedbackAction = "noted" if made.status == "noted" else "adopted"
            step = FeedbackStep(made.feedback_id, action, made.created_ms, author.name, made.reason)
            if not await self._call_store(self._store.add_feedback, made, step):
                raise ProblemError(
                    ProblemDetails(409, "feedback_known", "Known already", "the same was said a moment ago")
                )
        self._audit_sink.enqueue(
            feedback_audit_event(made, f"feedback.{action}", author.name, made.reason, self._now_ms())
        )
        if made.status == "adopting":
            made = await self.rule_publisher.publish(made)
        return await self._status_of(made)

    async def list(
        self,
        tenants: Collection[str] | None,
        status: FeedbackState | None = None,
        verdict: FeedbackVerdict | None = None,
        agent_key: int | None = None,
        decision_id: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[FeedbackStatus]:
        """Feedback, newest first. Raises BadCursor, Unavailable."""
        page = await self._call_store(
            self._store.list_feedback, tenants, status, verdict, agent_key, decision_id, limit, cursor
        )
        held = await self._call_store(self._store.holdings_of, [one.feedback_id for one in page.items])
        told = []
        for one in page.items:
            mine = [holding for holding in held if holding.rule.rule_id == one.feedback_id]
            told.append(
                FeedbackStatus(
                    one,
                    sum(holding.matched for holding in mine),
                    max((h.last_ms for h in mine), default=0),
                    sum(holding.until_offset < 0 for holding in mine),
                )
            )
        return Page(told, page.next_cursor)

    async def get(self, feedback_id: str, tenants: Collection[str] | None) -> FeedbackStatus:
        """One, with its steps. Raises ProblemError (404), Unavailable."""
        found = await self._call_store(self._store.feedback, feedback_id, tenants)
        if found is None:
            raise _unknown_error("feedback")
        return await self._status_of(found)

    async def revoke(self, feedback_id: str, author: Reviewer, reason: str) -> FeedbackStatus:
        """End a rule, or take a label back, from now on. Raises ProblemError (404, 409, 422), Unavailable."""
        if not reason.strip():
            raise draft_refused_error("say why: `reason` is empty")
        found = (await self.get(feedback_id, author.tenants)).feedback
        check_not_own_agent(found.agent, author, self._settings.actuators)
        if found.status in ("revoking", "revoked"):
            raise _not_open_error(found)
        now_ms = self._now_ms()
        held = found.status in ("adopting", "active")
        made = msgspec.structs.replace(
            found,
            status="revoking" if held else "revoked",
            revoked_by=author.name,
            revoked_ms=now_ms,
            revoked_why=reason,
            updated_ms=max(now_ms, found.updated_ms + 1),
        )
        step = FeedbackStep(feedback_id, "revoked", now_ms, author.name, reason)
        if not await self._call_store(self._store.change_feedback, made, found.status, step):
            raise _not_open_error(found)
        self._audit_sink.enqueue(feedback_audit_event(made, "feedback.revoked", author.name, reason, self._now_ms()))
        return await self._status_of(await self.rule_publisher.publish(made) if held else made)

    async def run(self, stop: asyncio.Event) -> None:
        """Follow what is in force until *stop*, then end the preview that runs."""
        failing = False
        while not stop.is_set():
            try:
                await self.rule_publisher.synchronise()
                failing = False
            except TrustwatchError as error:
                if not failing:
                    _log.warning("feedback can not be followed; rules hold as they are", error=str(error))
                failing = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), SYNCHRONISE_INTERVAL_S)
        await self.preview_runner.close()

    async def _find_decision(self, decision_id: str, author: Reviewer) -> Decision:
        found = await self._call_store(self._store.decision, decision_id, author.tenants)
        if found is None:
            raise _unknown_error("decision")
        return found

    async def _check_reviewer(self, draft: FeedbackDraft, decision: Decision, author: Reviewer) -> None:
        """Nobody speaks of its own decisions, nor for a rule that would cover it. Raises ProblemError (403)."""
        agent, actuators = decision.agent, self._settings.actuators
        check_not_own_agent(agent, author, actuators)
        if draft.kind == "peer_group":
            own = {
                agent_id: await self._call_store(self._store.find_agents, agent_id, (agent.tenant,), _MAX_NAMESAKES)
                for agent_id in sorted(agents_operated_by(author, actuators))
            }
            serving = [one for one in actuators if agent.tenant in one.tenants or ANY_NAME in one.tenants]
            check_not_own_group(decision.agent_type, own, author, serving)

    async def _check_preview(self, draft: FeedbackDraft, decision: Decision) -> bool:
        """Whether it is adopted unseen. Raises ProblemError (409) unless the same draft was previewed to the end."""
        wanted = draft_digest(draft, decision.decision_id)
        found = None
        if draft.preview_id:
            found = await self.preview_runner.find(draft.preview_id, (decision.agent.tenant,))
        if found is None:
            raise _preview_needed_error("look first: start a preview of this draft, and name it in `preview_id`")
        if found.draft != wanted:
            raise _preview_needed_error(
                "that preview is of another draft: decision, verdict, scope and expiry have to be the same"
            )
        if found.status != "done":
            raise _preview_needed_error(f"that preview is {found.status}: {found.error or 'wait until it is done'}")
        if self._now_ms() - found.updated_ms > PREVIEW_VALID_MS:
            raise _preview_needed_error("that preview is more than a day old; start another one")
        unseen = bool(msgspec.json.decode(found.result).get("unseen"))
        if unseen and not draft.accept_unseen:
            raise _preview_needed_error("there was no history to preview it on; `accept_unseen` adopts it all the same")
        return unseen

    async def _check_room(self, tenant: str) -> None:
        held = [one for one in await self._call_store(self._store.open_feedback) if one.agent.tenant == tenant]
        most = self._settings.feedback.max_rules
        if len(held) >= most:
            raise draft_refused_error(
                f"{len(held)} rules are in force for this tenant, and there may be {most} (`feedback.max_rules`): "
                "revoke one that is no longer needed",
                "too_many_rules",
                409,
            )

    async def _window_end(self, decision: Decision) -> int:
        """Event time when the agent was calm again after a decision; now, where it is not."""
        cursor, calm = None, self._now_ms()
        for _ in range(_MAX_DECISION_PAGES):
            page = await self._call_store(self._store.list_decisions, None, decision.agent.key, 500, cursor)
            for one in page.items:
                if one.decided_ms <= decision.decided_ms:
                    return calm
                if one.level < RiskLevel.MEDIUM:
                    calm = one.event_time_ms
            cursor = page.next_cursor
            if cursor is None:
                return calm
        return calm

    def _new_feedback(self, draft: FeedbackDraft, decision: Decision, author: Reviewer, preview_id: str) -> Feedback:
        now_ms, positive = self._now_ms(), draft.verdict == "true_positive"
        at_ms = decision.event_time_ms
        return Feedback(
            feedback_id=record_id(now_ms, "feedback", decision.decision_id, author.name, draft_digest(draft, "")),
            verdict=draft.verdict,
            status="noted" if positive else "adopting",
            decision_id=decision.decision_id,
            agent=decision.agent,
            agent_type=decision.agent_type,
            kind=draft.kind,
            features=draft.features,
            resource=draft.resource,
            reason=draft.reason,
            author=author.name,
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

    async def _status_of(self, made: Feedback) -> FeedbackStatus:
        held = await self._call_store(self._store.holdings_of, [made.feedback_id])
        steps = await self._call_store(self._store.feedback_steps, made.feedback_id)
        return FeedbackStatus(
            made,
            sum(one.matched for one in held),
            max((one.last_ms for one in held), default=0),
            sum(one.until_offset < 0 for one in held),
            steps,
        )

    async def _call_store(self, call: Callable[..., T], *arguments: object) -> T:
        return await asyncio.to_thread(call, *arguments)


def _unknown_error(what: str) -> ProblemError:
    return ProblemError(ProblemDetails(404, "not_found", "Not found", f"there is no such {what}"))


def _not_open_error(made: Feedback) -> ProblemError:
    return ProblemError(
        ProblemDetails(409, "not_open", "Not open", f"feedback {made.feedback_id} is {made.status} already")
    )


def _preview_needed_error(detail: str) -> ProblemError:
    return ProblemError(ProblemDetails(409, "preview_needed", "Preview needed", detail))
