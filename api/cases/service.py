"""Cases: lists and look-ups, and what people do with them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import msgspec
import structlog

from trustwatch.ingest.errors import TrustwatchError
from trustwatch.ingest.record_keys import record_id
from trustwatch.ingest.timestamps import DAY_MS, format_rfc3339
from trustwatch.scoring.delivery.notifiers.alert_events import build_case_row
from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.scoring.records.cases import (
    Case,
    CaseAction,
    CaseAgent,
    CaseEntry,
    CaseStatistics,
    CaseStatus,
    WaitingCases,
)
from trustwatch.scoring.records.commits import OutboxRow
from trustwatch.scoring.store.case_assignment import MAX_CASE_AGENTS
from trustwatch.scoring.store.case_store import MAX_ENTRIES, CaseFilters, CaseUpdate, new_case
from trustwatch.scoring.store.database import Page

from ..events.audit_sink import AuditSink, order_event
from ..http.agent_lookup import AgentResolver, AgentSelector, not_found_error, visible_tenants
from ..http.auth.callers import AuthenticatedCaller
from ..http.problems import invalid_value_error
from ..http.prometheus_metrics import MetricValues, ServiceMetrics, age_s
from ..http.runtime import Runtime
from ..http.separation_of_duties import check_not_own_agent, reviewer_of
from ..http.store_executor import StoreExecutor
from .agent_acts import CaseAgentActs, describe_failures
from .case_reports import (
    MAX_HOLD_S,
    MAX_OWNER_LENGTH,
    MAX_SNOOZE_S,
    MIN_HOLD_S,
    MIN_SNOOZE_S,
    VERDICTS,
    CaseInHand,
    CaseReport,
    CaseSearch,
    ListedCase,
    changed_error,
    check_note,
    chosen_agents,
    conflict_error,
    least_level,
    statuses,
)

ALERTED_ACTIONS: Final = frozenset({"acknowledged", "contained", "closed", "reopened", "merged", "split"})
"""Acts that alert targets are notified of."""

NOTE_WITHIN_S: Final = 5.0  # Longest wait for the note that records what an act could not do
READ_EVERY_S: Final = 15.0  # Interval at which the metrics of cases are read from the store
RESPONSE_METRIC: Final = "trustwatch_case_response_seconds"

_log = structlog.get_logger(__name__)


@dataclass(eq=False, repr=False)
class CaseFigures:
    """Metrics of cases: those that are not closed, as last read from the store, and how soon people act.

    For one event loop.
    """

    runtime: Runtime
    executor: StoreExecutor
    metrics: ServiceMetrics

    def __post_init__(self) -> None:
        self._times = {act: self.metrics.histogram(RESPONSE_METRIC, act) for act in ("acknowledge", "contain")}
        self._waiting: Sequence[WaitingCases] = ()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to read them regularly."""
        self._task = asyncio.create_task(self._read_always())

    async def close(self) -> None:
        """Stop reading."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _read_always(self) -> None:
        while True:
            try:
                self._waiting = await self.executor(self.runtime.store.cases.waiting)
            except TrustwatchError as error:
                _log.warning("case_figures_wait", error=str(error))
            except Exception as error:  # our own fault must not end the checks
                _log.error("case_figures_failed", error=repr(error)[:200])
            await asyncio.sleep(READ_EVERY_S)

    def note_act(self, before: Case, after: Case) -> None:
        """Observe how soon a case was acknowledged, or contained, for the first time."""
        for act, was, now in (
            ("acknowledge", before.acknowledged_ms, after.acknowledged_ms),
            ("contain", before.contained_ms, after.contained_ms),
        ):
            if now and not was:
                self._times[act].observe(max(0.0, (now - after.opened_ms) / 1000))

    def values(self) -> MetricValues:
        """Return the values of the observed metrics; none before the first read."""
        now_ms, oldest = self.runtime.now_ms(), dict[str, int]()
        for one in self._waiting:
            oldest[one.status] = min(one.oldest_ms, oldest.get(one.status, one.oldest_ms))
        return {
            "trustwatch_cases": {(one.status, RiskLevel(one.level).label): one.count for one in self._waiting},
            "trustwatch_case_oldest_seconds": {
                (status,): max(0.0, age_s(opened_ms, now_ms)) for status, opened_ms in oldest.items()
            },
        }


@dataclass(eq=False, repr=False)
class CaseService:
    """Cases of the tenants that a caller may see. For one event loop."""

    runtime: Runtime
    executor: StoreExecutor
    agent_acts: CaseAgentActs
    audit: AuditSink
    resolver: AgentResolver
    figures: CaseFigures

    def __post_init__(self) -> None:
        self._noting: set[asyncio.Task[None]] = set()

    async def search(
        self, caller: AuthenticatedCaller, search: CaseSearch | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page[ListedCase]:
        """Cases, last changed first. Raises TenantNotAllowed, ProblemError (400, 409, 422), Unavailable."""
        search = search or CaseSearch()
        tenants, name = visible_tenants(caller, search.tenant or None), None
        if search.agent is not None:
            name = await self.resolver.find_name(caller, search.agent)
            if name is None:
                return Page([], None)
        status, level = statuses(search.status), least_level(search.level)
        filters = CaseFilters(status, search.owner or None, level, name, search.since_ms, search.until_ms)
        store = self.runtime.store

        def read() -> Page[ListedCase]:
            page = store.cases.page(tenants, filters, limit, cursor)
            cases = page.items
            agents = store.cases.first_agents([case.case_id for case in cases], tenants)
            leads = store.decisions.get_many([case.lead_decision_id for case in cases], tenants)
            listed = [ListedCase(one, agents.get(one.case_id, ()), leads.get(one.lead_decision_id)) for one in cases]
            return Page(listed, page.next_cursor)

        return await self.executor(read)

    async def count_open(self, caller: AuthenticatedCaller) -> dict[str, int]:
        """Number of cases that are not closed, by status. Raises Unavailable."""
        return await self.executor(self.runtime.store.cases.count_by_status, visible_tenants(caller, None))

    async def statistics(self, caller: AuthenticatedCaller, days: float = 30) -> CaseStatistics:
        """Outcomes of the cases of the last days. Raises Unavailable."""
        since_ms = self._now() - int(days * DAY_MS)
        return await self.executor(self.runtime.store.cases.statistics, since_ms, visible_tenants(caller, None))

    async def closed_by_day(self, caller: AuthenticatedCaller, days: float = 30) -> dict[int, int]:
        """Cases that people closed in the last days, by UTC day since 1970. Raises Unavailable."""
        since_ms = self._now() - int(days * DAY_MS)
        return await self.executor(self.runtime.store.cases.closed_by_day, since_ms, visible_tenants(caller, None))

    async def get(self, caller: AuthenticatedCaller, case_id: str, entries: int = MAX_ENTRIES) -> CaseReport:
        """Return a case with its newest *entries* entries. Raises ProblemError (404), Unavailable.

        A caller that shows few entries, or none, requests only those: any commenter may add to them.
        """
        tenants, store = visible_tenants(caller, None), self.runtime.store

        def read() -> CaseReport:
            taken = self._read(case_id, tenants)
            newest = store.cases.entries(case_id, tenants, entries) if entries else []
            before = None if not entries else newest[0].sequence - 1 if newest else 0
            shared = store.cases.shared_indicators(case_id, tenants)
            lead = store.decisions.get(taken.case.lead_decision_id, tenants)
            return CaseReport(taken.case, taken.agents, shared, newest, lead, before)

        return await self.executor(read)

    def _read(self, case_id: str, tenants: Collection[str] | None) -> CaseInHand:
        case = self.runtime.store.cases.get(case_id, tenants)
        if case is None:
            raise not_found_error("case")
        return CaseInHand(case, self.runtime.store.cases.agents(case_id, tenants))

    async def _in_hand(self, caller: AuthenticatedCaller, case_id: str) -> CaseInHand:
        return await self.executor(self._read, case_id, visible_tenants(caller, None))

    async def case_of_decision(self, caller: AuthenticatedCaller, decision_id: str) -> str | None:
        """Id of the case that a decision belongs to; None = none. Raises Unavailable."""
        tenants = visible_tenants(caller, None)
        return await self.executor(self.runtime.store.cases.case_of_decision, decision_id, tenants)

    # Actions of people. Each may raise TenantNotAllowed, Unavailable, and ProblemError: 403, the caller is the subject;
    # 404, the case does not exist; 409, it is closed, or another caller changed it; 422, invalid input.

    async def acknowledge(self, caller: AuthenticatedCaller, case_id: str, note: str = "") -> Case:
        """Acknowledge it: the caller becomes its owner if it has none."""
        taken = await self._decidable(caller, case_id, note)
        case = taken.case
        status: CaseStatus = "acknowledged" if case.status == "open" else case.status
        return await self._change(
            caller,
            taken,
            "acknowledged",
            note,
            alert=status != case.status,
            status=status,
            owner=case.owner or caller.recorded_name,
            acknowledged_ms=case.acknowledged_ms or self._now(),
        )

    async def assign(self, caller: AuthenticatedCaller, case_id: str, owner: str, note: str = "") -> Case:
        """Assign it to a person; "" removes its owner."""
        if len(owner) > MAX_OWNER_LENGTH:
            raise invalid_value_error("owner", f"has more than {MAX_OWNER_LENGTH} characters")
        taken = await self._decidable(caller, case_id, note)
        return await self._change(caller, taken, "assigned", note, {"owner": owner.strip()}, owner=owner.strip())

    async def note(self, caller: AuthenticatedCaller, case_id: str, note: str) -> Case:
        """Add a person's comment, also to a closed case."""
        check_note(note, required=True)
        return await self._change(caller, await self._in_hand(caller, case_id), "noted", note)

    async def snooze(self, caller: AuthenticatedCaller, case_id: str, for_s: float, note: str) -> Case:
        """Mute notifications for *for_s* seconds unless it rises; 0 ends that."""
        if for_s and not MIN_SNOOZE_S <= for_s <= MAX_SNOOZE_S:
            raise invalid_value_error("for_s", f"must be 0, or from {MIN_SNOOZE_S:g} to {MAX_SNOOZE_S:g} seconds")
        taken = await self._decidable(caller, case_id, note, note_required=True)
        until_ms = self._now() + int(for_s * 1000) if for_s else 0
        detail = {"until": format_rfc3339(until_ms)} if until_ms else {"ended": True}
        return await self._change(caller, taken, "snoozed", note, detail, snoozed_until_ms=until_ms)

    async def contain(
        self,
        caller: AuthenticatedCaller,
        case_id: str,
        note: str,
        *,
        pin: bool = True,
        valid_s: float = 3_600.0,
        revision: int | None = None,
    ) -> Case:
        """Mark it as contained; with *pin* every agent of it is acted on as critical for *valid_s* seconds.

        The mark comes first, so that no agent is pinned for a case that changed meanwhile. An agent that cannot be
        pinned is noted, and reported with 409.
        """
        if pin and not MIN_HOLD_S <= valid_s <= MAX_HOLD_S:
            raise invalid_value_error("valid_s", f"must be from {MIN_HOLD_S:g} to {MAX_HOLD_S:g} seconds")
        taken = await self._decidable(caller, case_id, note, note_required=True, revision=revision)
        now_ms, agents = self._now(), taken.agents if pin else []
        contained = await self._change(
            caller,
            taken,
            "contained",
            note,
            {"pinned": [case_agent.agent.agent_id for case_agent in agents]},
            status="contained",
            contained_ms=taken.case.contained_ms or now_ms,
            held_until_ms=max(now_ms + int(valid_s * 1000), taken.case.held_until_ms) if pin else 0,
        )
        within = self.agent_acts.deadline()
        if pin and (failed := await self.agent_acts.pin(caller, agents, note, valid_s, within)):
            words = describe_failures("the level could not be fixed", failed)
            await self._report_partial(caller, case_id, "contained", words)
        return contained

    async def _report_partial(self, caller: AuthenticatedCaller, case_id: str, marked: str, words: str) -> NoReturn:
        """Record in the case what an act could not do, and raise it even if recording fails."""

        async def note_failure() -> None:
            try:
                await self._change(caller, await self._in_hand(caller, case_id), "noted", words)
            except TrustwatchError as error:
                _log.warning("case_failure_not_noted", case=case_id, error=str(error))

        noting = asyncio.create_task(note_failure())
        self._noting.add(noting)
        noting.add_done_callback(self._noting.discard)
        await asyncio.wait((noting,), timeout=NOTE_WITHIN_S)  # it continues if a store hangs: the caller gets an answer
        again = "contain it again" if marked == "contained" else "reopen it and close it again"
        detail = f"case {case_id} is marked as {marked}, but {words}. To try that again, {again}: what is done stays"
        raise conflict_error(f"case_partly_{marked}", detail)

    async def close(
        self,
        caller: AuthenticatedCaller,
        case_id: str,
        verdict: str,
        note: str,
        *,
        release: bool = False,
        revision: int | None = None,
    ) -> Case:
        """Close it with a verdict. If it was true, its windows stay out of training, as feedback on its decisions.

        With *release*, the evidence against its agents is dropped, and their levels are no longer fixed. What could not
        be done for an agent is noted in the case, and reported with 409.
        """
        if verdict not in VERDICTS:
            raise invalid_value_error("verdict", f"must be one of {', '.join(VERDICTS)}")
        taken = await self._decidable(caller, case_id, note, note_required=True, revision=revision)
        closed = await self._change(
            caller,
            taken,
            "closed",
            note,
            {"verdict": verdict},
            status="closed",
            verdict=verdict,
            closed_ms=self._now(),
            snoozed_until_ms=0,
            held_until_ms=0,
        )
        words, within = [], self.agent_acts.deadline()
        if verdict == "true" and (failed := await self.agent_acts.label(caller, taken.agents, note, within)):
            words.append(describe_failures("the decision could not be labelled", failed))
        if release and (failed := await self.agent_acts.release(caller, taken.agents, note, within)):
            words.append(describe_failures("the evidence could not be dropped", failed))
        if words:
            await self._report_partial(caller, case_id, "closed", "; ".join(words))
        return closed

    async def reopen(self, caller: AuthenticatedCaller, case_id: str, note: str) -> Case:
        """Reopen a closed case. One that was merged stays in the other case."""
        check_note(note, required=True)
        taken = await self._in_hand(caller, case_id)
        self._check_not_own(caller, taken.agents)
        if taken.case.status != "closed":
            raise conflict_error("case_open", f"case {case_id} is {taken.case.status}: there is nothing to reopen")
        if taken.case.merged_into:
            raise conflict_error("case_merged", f"case {case_id} was merged into {taken.case.merged_into}: go on there")
        status: CaseStatus = "acknowledged" if taken.case.owner else "open"
        return await self._change(caller, taken, "reopened", note, status=status, verdict="", closed_ms=0)

    async def merge(
        self, caller: AuthenticatedCaller, case_id: str, into: str, note: str = "", *, revision: int | None = None
    ) -> Case:
        """Move all of one case into another of the same tenant; returns the other."""
        if case_id == into:
            raise invalid_value_error("into", "is the case itself")
        source = await self._decidable(caller, case_id, note)
        target = await self._decidable(caller, into, note, revision=revision)
        if source.case.tenant != target.case.tenant:
            raise invalid_value_error("into", "is a case of another tenant: those never meet")
        together = {case_agent.agent.key for case_agent in (*source.agents, *target.agents)}
        if len(together) > MAX_CASE_AGENTS:
            raise invalid_value_error("into", f"would have {len(together)} agents, and may have {MAX_CASE_AGENTS}")
        merged = self._update(
            caller, source, "merged", note, {"into": into}, status="closed", merged_into=into, closed_ms=self._now()
        )
        values: dict[str, Any] = {}  # of the case that grows: it waits for a person again
        if target.case.status == "contained":
            values = {"status": "acknowledged" if target.case.owner else "open", "held_until_ms": 0}
        if source.case.level > target.case.level:
            values["snoozed_until_ms"] = 0
        grown = self._update(caller, target, "merged", note, {"from": case_id}, alert=False, **values)
        if not await self.executor.write(self.runtime.store.cases.merge, merged, grown):
            raise changed_error(case_id)
        self._note_in_audit_trail(caller, target, "merged", note, {"from": case_id})
        return (await self._in_hand(caller, into)).case

    async def split(
        self,
        caller: AuthenticatedCaller,
        case_id: str,
        agents: Sequence[AgentSelector],
        note: str,
        *,
        revision: int | None = None,
    ) -> Case:
        """Split some agents into a separate case; returns the new one."""
        taken = await self._decidable(caller, case_id, note, note_required=True, revision=revision)
        chosen = chosen_agents(taken.agents, agents)
        now_ms, names, source = self._now(), [name.agent_id for name in chosen], self.runtime.settings.listen.url()
        fresh_id = "case-" + record_id(now_ms, "case", case_id, *sorted(names))
        leaving = [case_agent for case_agent in taken.agents if case_agent.agent in chosen]
        staying = taken._replace(agents=[case_agent for case_agent in taken.agents if case_agent.agent not in chosen])
        remaining = self._update(caller, staying, "split", note, {"into": fresh_id, "agents": names})
        level = max(case_agent.peak for case_agent in leaving)
        fresh = msgspec.structs.replace(new_case(fresh_id, taken.case, now_ms), level=level)
        entry = _entry(fresh_id, caller, "split", note, now_ms, {"from": case_id, "agents": names})
        alert = build_case_row(fresh, msgspec.structs.replace(entry, action="opened"), leaving, source)
        opened = CaseUpdate(fresh, entry, (alert,))
        if not await self.executor.write(self.runtime.store.cases.split, remaining, opened, chosen):
            raise changed_error(case_id)
        self._note_in_audit_trail(caller, taken, "split", note, {"into": fresh_id})
        return (await self._in_hand(caller, fresh_id)).case

    async def _decidable(
        self,
        caller: AuthenticatedCaller,
        case_id: str,
        note: str,
        *,
        note_required: bool = False,
        revision: int | None = None,
    ) -> CaseInHand:
        """A case that the caller may change; *revision* is the one that it saw, None = any."""
        check_note(note, required=note_required)
        taken = await self._in_hand(caller, case_id)
        self._check_not_own(caller, taken.agents)
        if taken.case.status == "closed":
            raise conflict_error("case_closed", f"case {case_id} is closed: reopen it first")
        if revision is not None and revision != taken.case.revision:
            raise changed_error(case_id)
        return taken

    def _check_not_own(self, caller: AuthenticatedCaller, agents: Sequence[CaseAgent]) -> None:
        reviewer = reviewer_of(caller)
        for case_agent in agents:
            check_not_own_agent(case_agent.agent, reviewer, self.runtime.settings.actuators)

    async def _change(
        self,
        caller: AuthenticatedCaller,
        taken: CaseInHand,
        action: CaseAction,
        note: str,
        detail: dict[str, Any] | None = None,
        **how: Any,
    ) -> Case:
        update = self._update(caller, taken, action, note, detail, **how)
        if not await self.executor.write(self.runtime.store.cases.update, update):
            raise changed_error(taken.case.case_id)
        self.figures.note_act(taken.case, update.case)
        self._note_in_audit_trail(caller, taken, action, note, detail)
        return msgspec.structs.replace(update.case, revision=update.case.revision + 1)

    def _update(
        self,
        caller: AuthenticatedCaller,
        taken: CaseInHand,
        action: CaseAction,
        note: str,
        detail: dict[str, Any] | None = None,
        *,
        alert: bool = True,
        **values: Any,
    ) -> CaseUpdate:
        case, now_ms = taken.case, self._now()
        changed = msgspec.structs.replace(case, updated_ms=max(now_ms, case.updated_ms + 1), **values)
        entry = _entry(case.case_id, caller, action, note, now_ms, detail)
        outbox: tuple[OutboxRow, ...] = ()
        if alert and action in ALERTED_ACTIONS:
            outbox = (build_case_row(changed, entry, taken.agents, self.runtime.settings.listen.url()),)
        return CaseUpdate(changed, entry, outbox)

    def _note_in_audit_trail(
        self, caller: AuthenticatedCaller, taken: CaseInHand, action: str, note: str, detail: dict[str, Any] | None
    ) -> None:
        """An event about the worst agent of the case: durable, in order, and not behavior of the agent."""
        worst = max(taken.agents, key=lambda case_agent: (case_agent.peak, case_agent.last_ms), default=None)
        if worst is None:
            return
        attributes = {"case": taken.case.case_id, "why": note, **(detail or {})}
        event = order_event("case", worst.agent, f"case.{action}", caller.recorded_name, self._now(), attributes)
        self.audit.enqueue(event)

    def _now(self) -> int:
        return self.runtime.now_ms()


def _entry(
    case_id: str, caller: AuthenticatedCaller, action: CaseAction, note: str, at_ms: int, detail: dict[str, Any] | None
) -> CaseEntry:
    return CaseEntry(case_id, 0, at_ms, caller.recorded_name, action, note, msgspec.json.encode(detail or {}))
