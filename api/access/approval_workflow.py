"""Approvals and pins: requests to people, decisions of people, and how they end.

The store is the truth. Memory follows it (`synchronise`), and applies at once what this process writes. A request
that needs a person never waits: it is refused, and can be repeated once a person approved it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import structlog

from trustwatch.ingest.errors import Unavailable
from trustwatch.ingest.identities import CALL_DIGEST_DIGITS
from trustwatch.ingest.record_keys import record_id
from trustwatch.scoring.delivery.notifiers.alert_events import build_approval_row
from trustwatch.scoring.delivery.shared_signals.announced_decision import build_pin_row
from trustwatch.scoring.policy.access_evaluation import ALL_SCOPES
from trustwatch.scoring.policy.interventions import ActiveInterventions
from trustwatch.scoring.records.agents import AgentIdentity, AgentName, RiskLevel
from trustwatch.scoring.records.commits import OutboxRow
from trustwatch.scoring.records.containment import Intervention
from trustwatch.scoring.store.containment_store import InterventionStore

from ..events.audit_sink import AuditSink, order_event
from ..http.problems import ProblemDetails, ProblemError
from ..http.refused_callers import LineLimit, OrderLines
from ..http.separation_of_duties import Attribution
from ..http.store_executor import StoreExecutor

MAX_PENDING_PER_CALLER = 1_000
"""Approvals that one caller, hook, or issuer of tokens at gateways may have pending in a process, over all agents that
it may act for, plus `MIN_PENDING_PER_TENANT`."""

MAX_PENDING_PER_TENANT = 200
"""Approvals of one caller that may be pending for agents of one tenant."""

SHARE_OF_ROOM = 4
"""A tenant may have a quarter as many pending as there is room for others. So tenants that share a gateway or hook
always leave room: five of them have 111 each, fifty have 18, and the next tenant may have as many as each."""

MIN_PENDING_PER_TENANT = 5
"""Approvals that a tenant may have pending, however many others have."""

LOOK_AT_ALL_EVERY_MS = 1_000
"""Minimum time between two passes over all requests of a caller: there may be thousands, while an answer waits."""


class RequestedApprovals:
    """Approvals that one caller requested in this process and that may still be pending, by tenant."""

    def __init__(self, is_pending: Callable[[str], bool]) -> None:
        self._is_pending = is_pending
        self._by_tenant: dict[str, set[str]] = {}
        self._looked_at_ms = 0

    def add(self, tenant: str, intervention_id: str) -> None:
        """Record a request for an agent of *tenant*."""
        self._by_tenant.setdefault(tenant, set()).add(intervention_id)

    def has_room(self, tenant: str, now_ms: int) -> bool:
        """Return whether the caller may request one more approval for agents of *tenant*."""
        if self._is_below_share(tenant):
            return True
        self._forget_decided(tenant)
        if self._is_below_share(tenant) or now_ms - self._looked_at_ms < LOOK_AT_ALL_EVERY_MS:
            return self._is_below_share(tenant)
        self._looked_at_ms = now_ms
        for name in list(self._by_tenant):
            self._forget_decided(name)
        return self._is_below_share(tenant)

    def _is_below_share(self, tenant: str) -> bool:
        room = MAX_PENDING_PER_CALLER - sum(map(len, self._by_tenant.values()))
        share = min(MAX_PENDING_PER_TENANT, max(MIN_PENDING_PER_TENANT, room // SHARE_OF_ROOM))
        return len(self._by_tenant.get(tenant, ())) < share

    def _forget_decided(self, tenant: str) -> None:
        pending = set(filter(self._is_pending, self._by_tenant.pop(tenant, ())))
        if pending:
            self._by_tenant[tenant] = pending


PENDING_TIMEOUT_S = 3600.0
"""An undecided approval expires after this time. The next request creates a new one."""

CALL_SCOPE_PREFIX = "call:"
"""Begins the scope of an approval that holds for one call; what follows is the keyed digest of the call."""

PATH_SCOPE_PREFIX = "path:"
"""Begins the scope of an approval by which a person trusts an access path of an agent (network, credential and
delegation chain): calls by it are judged as if it were known. What follows is its keyed digest."""

MAX_PENDING_PER_AGENT = 5
"""Approvals that may be pending for one agent, including those that are being written. A further request returns the
newest pending one, or none while some are being written."""

MAX_WAITING_OF_TENANT = 1_000
"""Approvals about agents of one tenant that may be pending in total, in all processes and across restarts."""

MAX_REQUESTS_IN_FLIGHT = 1_000
"""Requests for approval that may wait for the store at a time."""

SPEND_TIMEOUT_S = 2.0
"""Longest time that a request waits until its approval for one use is spent; then it is answered without it."""

LINES_OF_REFUSALS_PER_S = 1
"""Log lines per second about approvals that are not requested."""

_log = structlog.get_logger(__name__)


_PATH_SCOPE = re.compile(f"{PATH_SCOPE_PREFIX}[0-9a-f]{{{CALL_DIGEST_DIGITS}}}")
_CALL_SCOPE = re.compile(f"{CALL_SCOPE_PREFIX}[0-9a-f]{{{CALL_DIGEST_DIGITS}}}|{_PATH_SCOPE.pattern}")


def without_call_scopes(scopes: Iterable[str]) -> tuple[str, ...]:
    """Return *scopes* without those of calls and access paths. Otherwise a client could request a token with such a
    scope and get an approval that no person has seen.
    """
    return tuple(scope for scope in scopes if not _CALL_SCOPE.fullmatch(scope))


def without_path_scopes(scopes: Iterable[str]) -> tuple[str, ...]:
    """Return *scopes* without those that make an access path trusted."""
    return tuple(scope for scope in scopes if not _PATH_SCOPE.fullmatch(scope))


class InterventionNotOpen(ProblemError):
    """Raised if another person decided first, or the request has expired. The answer has status 409."""

    def __init__(self, detail: str) -> None:
        super().__init__(ProblemDetails(409, "not_open", "Not open", detail))


@dataclass(eq=False, repr=False)
class ApprovalWorkflow:
    """Creates approval requests, and applies the approvals and pins that people decide.

    The service checks who may decide. What persons and agents wait for uses the executor. Background synchronization
    uses other threads.
    """

    _interventions: InterventionStore
    active_interventions: ActiveInterventions
    _audit: AuditSink
    _service: str
    now_ms: Callable[[], int]
    _on_change: Callable[[Collection[AgentName]], None]
    _executor: StoreExecutor

    def __post_init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_flight: dict[str, Intervention] = {}
        """Requests that are being written, by id; at most `MAX_REQUESTS_IN_FLIGHT`."""
        self._requested_by_caller: dict[str, RequestedApprovals] = {}
        self._refusals = LineLimit(lambda: self.now_ms() / 1000, LINES_OF_REFUSALS_PER_S)
        self._orders = OrderLines(lambda: self.now_ms() / 1000)
        self.failed_requests = 0
        """Approvals that could not be requested: the store did not accept them, or too many were pending."""
        self.unspent_approvals = 0
        """Permits that were not given because the store did not answer when their single-use approval was spent."""

    def request_approval(
        self, agent: AgentName, scopes: Sequence[str], level: RiskLevel, why: str, via: str, caller: str = ""
    ) -> str:
        """Request an approval unless one is pending. Return its id, or "" if too many are pending. Never waits for the
        store.
        """
        requested = tuple(sorted(set(scopes) - {ALL_SCOPES}))
        if not requested and scopes:
            return ""
        requested = requested or (ALL_SCOPES,)
        now_ms = self.now_ms()
        full = agent.tenant, agent.issuer, agent.agent_id
        waiting = self.active_interventions.pending_approval(full, requested, now_ms, MAX_PENDING_PER_AGENT)
        if waiting is not None:
            return waiting.intervention_id
        in_flight = {one.scopes: one.intervention_id for one in self._in_flight.values() if one.agent.key == agent.key}
        if requested in in_flight:
            return in_flight[requested]
        pending = self.active_interventions.pending_count(full, now_ms) + len(in_flight)
        if pending >= MAX_PENDING_PER_AGENT or self._is_refused(caller, agent, now_ms):
            return ""
        approval = Intervention(
            record_id(now_ms, "approval", agent.key, requested),
            "approval",
            "pending",
            agent,
            int(level),
            requested,
            why,
            via,
            now_ms,
            "",
            0,
            "",
            now_ms + int(PENDING_TIMEOUT_S * 1000),
            now_ms,
        )
        self._in_flight[approval.intervention_id] = approval
        if caller:
            self._requests_of(caller).add(agent.tenant, approval.intervention_id)
        task = asyncio.get_running_loop().create_task(self._write_request(approval))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return approval.intervention_id

    def _requests_of(self, caller: str) -> RequestedApprovals:
        def is_pending(intervention_id: str) -> bool:
            return intervention_id in self._in_flight or self.active_interventions.is_pending(intervention_id)

        return self._requested_by_caller.setdefault(caller, RequestedApprovals(is_pending))

    def _is_refused(self, caller: str, agent: AgentName, now_ms: int) -> bool:
        """Return whether too many approvals are pending to request one more, and log it."""
        in_flight = sum(one.agent.tenant == agent.tenant for one in self._in_flight.values())
        if len(self._tasks) >= MAX_REQUESTS_IN_FLIGHT:
            why = "too many approvals are being written"
        elif self.active_interventions.pending_count_of_tenant(agent.tenant) + in_flight >= MAX_WAITING_OF_TENANT:
            why = "too many approvals are pending in the tenant"
        elif caller and not self._requests_of(caller).has_room(agent.tenant, now_ms):
            why = "too many approvals are pending that this caller, hook or gateway requested"
        else:
            return False
        self.failed_requests += 1
        members = {"code": "approval_not_asked", "reason": why, "by": caller or None, "tenant": agent.tenant}
        self._refusals.write(_log.warning, "no approval is requested", **members, agent=agent.agent_id)
        return True

    async def _write_request(self, approval: Intervention) -> None:
        try:
            new = await self._executor.write(
                self._interventions.add, approval, [build_approval_row(approval, self._service)]
            )
        except Unavailable as error:
            self.failed_requests += 1
            _log.warning("an approval could not be requested", error=str(error), agent=approval.agent.agent_id)
            return
        finally:
            del self._in_flight[approval.intervention_id]
        if new:
            self._apply_and_audit(approval, "approval.request", approval.asked_by, approval.asked_why)

    async def decide(
        self,
        approval: Intervention,
        person: Attribution,
        *,
        approve: bool,
        valid_s: float,
        trust_path: bool = False,
        one_use: bool = False,
    ) -> Intervention:
        """Approve (for *valid_s* seconds from now, or one permit before) or reject.

        Only with *trust_path* the access path of a call is approved with it. Raises InterventionNotOpen, Unavailable.
        """
        now_ms = self.now_ms()
        _check_open(approval, ("pending",), now_ms)
        decided = _changed(
            approval,
            now_ms,
            status="rejected" if not approve else "approved_once" if one_use else "approved",
            scopes=approval.scopes if trust_path or not approve else without_path_scopes(approval.scopes),
            decided_by=person.name,
            decided_ms=now_ms,
            why=person.why,
            expires_ms=now_ms + int(valid_s * 1000),
        )
        await self._write_change(decided, "pending", f"approval.{'approve' if approve else 'reject'}", person)
        return decided

    async def pin(self, agent: AgentName, level: RiskLevel, person: Attribution, valid_s: float) -> Intervention:
        """Pin the level that the policy uses, which ends an earlier pin. Raises Unavailable."""
        now_ms = self.now_ms()
        new_pin = Intervention(
            record_id(now_ms, "pin", agent.key, person.name, int(level)),
            "pin",
            "active",
            agent,
            int(level),
            (),
            person.why,
            person.name,
            now_ms,
            person.name,
            now_ms,
            person.why,
            now_ms + int(valid_s * 1000),
            now_ms,
        )
        await self._executor.write(self._interventions.add, new_pin, _outbox_of(new_pin))
        self._apply_and_audit(new_pin, "pin", person.name, person.why)
        await self.unpin(agent, Attribution(person.name, "replaced by another pin"), new_pin.intervention_id)
        return new_pin

    async def unpin(self, agent: AgentName, person: Attribution, but: str = "") -> Intervention | None:
        """End every pin of an agent except *but*, including hidden ones. Return the active one, or None.

        Raises Unavailable.
        """
        ended = None
        for pin in self.active_interventions.active_pins((agent.tenant, agent.issuer, agent.agent_id), self.now_ms()):
            if pin.intervention_id == but:
                continue
            with suppress(InterventionNotOpen):  # a concurrent call ended it
                done = await self.end_intervention(pin, person)
                ended = ended or done
        return ended

    async def end_intervention(self, intervention: Intervention, person: Attribution) -> Intervention:
        """End a pin, or withdraw an approval. Raises InterventionNotOpen, Unavailable."""
        now_ms = self.now_ms()
        _check_open(intervention, ("active", "approved", "approved_once"), now_ms)
        ended = _changed(
            intervention, now_ms, status="ended", decided_by=person.name, decided_ms=now_ms, why=person.why
        )
        await self._write_change(ended, intervention.status, f"{intervention.kind}.end", person)
        return ended

    async def spend(self, approval: Intervention) -> bool:
        """Spend a single-use approval. Return False (no permit) if it has ended or the store does not answer."""
        used = _changed(approval, self.now_ms(), status="used")
        try:
            # A write that timed out may still succeed: then the approval is spent without a permit.
            async with asyncio.timeout(SPEND_TIMEOUT_S):
                was_open = await self._executor(self._interventions.update, used, approval.status)
        except (Unavailable, TimeoutError) as error:
            self.unspent_approvals += 1
            _log.warning(
                "an approval for one use could not be spent; the request is answered without it",
                error=str(error),
                approval_id=approval.intervention_id,
                agent=approval.agent.agent_id,
            )
            return False
        if was_open:
            self._apply_and_audit(used, "approval.use", "trustwatch", "its one permit is given")
        else:  # another process was first
            self.active_interventions.apply_changes([used])
        return was_open

    async def synchronise(self) -> None:
        """Apply what other processes wrote, and record which interventions have expired. Raises Unavailable."""
        news = self.active_interventions.apply_changes(
            await asyncio.to_thread(self._interventions.changed_since, self.active_interventions.since_ms)
        )
        if news:
            self._on_change({intervention.agent for intervention in news})
        now_ms = self.now_ms()
        for intervention in self.active_interventions.expired(now_ms):
            over = _changed(intervention, now_ms, status="expired")
            if await asyncio.to_thread(self._interventions.update, over, intervention.status, _outbox_of(over)):
                self._apply_and_audit(over, f"{intervention.kind}.expire", "trustwatch", "its time is over")
            else:  # another process was first: it has ended here too
                self.active_interventions.apply_changes([over])
                self._on_change({intervention.agent})

    async def load_open(self) -> None:
        """Load all open interventions. Raises Unavailable."""
        self.active_interventions.apply_changes(await asyncio.to_thread(self._interventions.list_open))

    async def close(self) -> None:
        """Wait for requests that are still being written."""
        if self._tasks:
            await asyncio.gather(*self._tasks)

    async def _write_change(self, intervention: Intervention, was: str, action: str, person: Attribution) -> None:
        if not await self._executor.write(self._interventions.update, intervention, was, _outbox_of(intervention)):
            raise InterventionNotOpen(
                f"{intervention.kind} {intervention.intervention_id} was decided by another person in the meantime"
            )
        self._apply_and_audit(intervention, action, person.name, person.why)

    def _apply_and_audit(self, intervention: Intervention, action: str, by: str, why: str) -> None:
        self.active_interventions.apply_changes([intervention])
        self._orders.write(intervention.agent, action, by, intervention.intervention_id)
        attributes = {
            "intervention_id": intervention.intervention_id,
            "scopes": list(intervention.scopes),
            "why": why,
            "level": RiskLevel(intervention.level).label,
        }
        self._audit.enqueue(order_event("approvals", intervention.agent, action, by, self.now_ms(), attributes))
        self._on_change({intervention.agent})


def _outbox_of(intervention: Intervention) -> list[OutboxRow]:
    """Return the outbox rows of a change: only pins have any, because they change the level that the policy uses."""
    return [build_pin_row(intervention)] if intervention.kind == "pin" else []


def _changed(intervention: Intervention, now_ms: int, **changes: Any) -> Intervention:
    """Return the changed intervention. It is later than the last change, even if clocks of other processes differ."""
    return msgspec.structs.replace(intervention, updated_ms=max(now_ms, intervention.updated_ms + 1), **changes)


def _check_open(intervention: Intervention, statuses: Collection[str], now_ms: int) -> None:
    is_expired = intervention.expires_ms <= now_ms
    if is_expired or intervention.status not in statuses:
        status = "expired" if is_expired else intervention.status
        raise InterventionNotOpen(f"{intervention.kind} {intervention.intervention_id} is {status}")


class Outcome(NamedTuple):
    """The answer that a request would get. `scopes` are the remaining scopes of a token; None means all."""

    permitted: bool
    scopes: tuple[str, ...] | None = None


async def spend_needed(
    workflow: ApprovalWorkflow,
    identities: Iterable[AgentIdentity],
    judge: Callable[[tuple[Intervention, ...]], Outcome],
) -> tuple[Intervention, ...]:
    """Spend the single-use approvals that a request needs, and return them: none if it is permitted without them, or
    denied despite all of them.

    A verdict never waits for the store. So what it needs is spent first and passed on in `AccessRequest.spent`; other
    single-use approvals do not count.
    """
    open_ones, now_ms = workflow.active_interventions, workflow.now_ms()
    unspent = tuple(one for identity in identities for one in open_ones.one_use_approvals(identity, now_ms))
    if not unspent:
        return ()
    best = judge(unspent)
    if not best.permitted or judge(()) == best:
        return ()
    for approval in unspent:
        others = tuple(one for one in unspent if one is not approval)
        if judge(others) == best:
            unspent = others
    return tuple([approval for approval in unspent if await workflow.spend(approval)])
