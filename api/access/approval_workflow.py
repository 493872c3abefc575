"""Approvals and pins: requests to people, decisions of people, and how they end.

The store is the truth. Memory follows it (`synchronise`), and applies at once what this process writes. A request
that needs a person never waits: it is refused, and can be repeated once a person approved it.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

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
"""Those of them about agents of one tenant."""

SHARE_OF_ROOM = 4
"""A tenant may have a quarter as many waiting as there is room for others. So tenants that share a gateway or hook
always leave room: five of them have 111 each, fifty have 18, and the next tenant may have as many as each."""

MIN_PENDING_PER_TENANT = 5
"""Approvals that a tenant may have waiting, however many others wait."""


LOOK_AT_ALL_EVERY_MS = 1_000
"""All that a caller asked for is looked through so often at most: it may be thousands, while an answer waits."""


@dataclass(eq=False, repr=False)
class _AskedByCaller:
    by_tenant: dict[str, OrderedDict[str, int]] = field(default_factory=dict)
    count: int = 0
    looked_at_ms: int = 0

    def add(self, intervention_id: str, tenant: str, now_ms: int, expires_ms: int) -> None:
        self.by_tenant.setdefault(tenant, OrderedDict())[intervention_id] = expires_ms
        self.count += 1
        self.keep(tenant, now_ms, None)

    def is_full(self, tenant: str) -> bool:
        return len(self.by_tenant.get(tenant, ())) >= self.share()

    def share(self) -> int:
        room = MAX_PENDING_PER_CALLER - self.count
        return min(MAX_PENDING_PER_TENANT, max(MIN_PENDING_PER_TENANT, room // SHARE_OF_ROOM))

    def keep(self, tenant: str, now_ms: int, waiting: Callable[[Collection[str]], Collection[str]] | None) -> None:
        """Forget expired approvals of a tenant and, if *waiting* is given, those that no longer wait."""
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
    """Approvals that were requested in this process, by caller. Use it from one event loop."""

    def __init__(self, waiting: Callable[[Collection[str]], Collection[str]]) -> None:
        self._waiting = waiting
        self._callers: dict[str, _AskedByCaller] = {}

    def __len__(self) -> int:
        return sum(asked.count for asked in self._callers.values())

    def add(self, caller: str, intervention_id: str, tenant: str, now_ms: int, expires_ms: int) -> None:
        """Record that *caller* requested an approval for an agent of *tenant*."""
        self._callers.setdefault(caller, _AskedByCaller()).add(intervention_id, tenant, now_ms, expires_ms)

    def has_room(self, caller: str, tenant: str, now_ms: int) -> bool:
        """Return whether *caller* may request one more approval for agents of *tenant*."""
        asked = self._callers.get(caller)
        if asked is None or not asked.is_full(tenant):
            return True
        asked.keep(tenant, now_ms, self._waiting)
        if asked.is_full(tenant) and asked.share() < MAX_PENDING_PER_TENANT:
            self._look_at_all(asked, now_ms)
        return not asked.is_full(tenant)

    def _look_at_all(self, asked: _AskedByCaller, now_ms: int) -> None:
        if now_ms - asked.looked_at_ms < LOOK_AT_ALL_EVERY_MS:
            return
        asked.looked_at_ms = now_ms
        for tenant in list(asked.by_tenant):
            asked.keep(tenant, now_ms, self._waiting)


PENDING_TIMEOUT_S = 3600.0
"""An undecided approval expires after this time. The next request creates a new one."""

CALL_SCOPE_PREFIX = "call:"
"""Begins the scope of an approval that holds for one call; what follows is the keyed digest of the call."""

PATH_SCOPE_PREFIX = "path:"
"""Begins the scope of an approval by which a person trusts an access path of an agent (network, credential and
delegation chain): calls by it are judged as if it were known. What follows is its keyed digest."""

MAX_PENDING_PER_AGENT = 5
"""Approvals that may wait for persons about one agent, those included that are being written. A further request finds
the newest of those that wait, or none while some are being written."""

MAX_WAITING_OF_TENANT = 1_000
"""Approvals about agents of one tenant that may be pending in total, in all processes and across restarts."""

MAX_REQUESTS_IN_FLIGHT = 1_000
"""Requests for approval that may wait for the store at a time."""

SPEND_TIMEOUT_S = 2.0
"""Longest time that a request waits until its approval for one use is spent; then it is answered without it."""

LINES_OF_REFUSALS_PER_S = 1
"""Lines of the log each second about persons who are not asked."""

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
        self._ids_in_flight: dict[int, dict[tuple[str, ...], str]] = {}
        self._in_flight: set[str] = set()
        self._in_flight_of_tenant: Counter[str] = Counter()
        self._asked = AskedApprovals(self._still_waiting)
        self._refusals = LineLimit(lambda: self.now_ms() / 1000, LINES_OF_REFUSALS_PER_S)
        self._orders = OrderLines(lambda: self.now_ms() / 1000)
        self.failed_requests = 0
        """Approvals that could not be asked for: the store did not take them, or too many waited."""
        self.unspent_approvals = 0
        """Permits that were not given: the store did not answer when their approval for one use was to be spent."""

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
        in_flight = self._ids_in_flight.get(agent.key, {})
        if in_flight_id := in_flight.get(requested):
            return in_flight_id
        if self.active_interventions.pending_count(full, now_ms) + len(in_flight) >= MAX_PENDING_PER_AGENT:
            return ""
        if self._is_refused(caller, agent, now_ms):
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
        self._ids_in_flight.setdefault(agent.key, {})[requested] = approval.intervention_id
        self._in_flight.add(approval.intervention_id)
        self._in_flight_of_tenant[agent.tenant] += 1
        if caller:
            self._asked.add(caller, approval.intervention_id, agent.tenant, now_ms, approval.expires_ms)
        task = asyncio.get_running_loop().create_task(self._write_request(approval, requested))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return approval.intervention_id

    def _is_refused(self, caller: str, agent: AgentName, now_ms: int) -> bool:
        waiting = self.active_interventions.pending_count_of_tenant(agent.tenant)
        if len(self._tasks) >= MAX_REQUESTS_IN_FLIGHT:
            why = "too many approvals are being written"
        elif waiting + self._in_flight_of_tenant[agent.tenant] >= MAX_WAITING_OF_TENANT:
            why = "too many approvals wait in the tenant"
        elif caller and not self._asked.has_room(caller, agent.tenant, now_ms):
            why = "too many approvals wait that this caller, hook or gateway asked for"
        else:
            return False
        self.failed_requests += 1
        members = {"code": "approval_not_asked", "reason": why, "by": caller or None, "tenant": agent.tenant}
        self._refusals.write(_log.warning, "no person is asked", **members, agent=agent.agent_id)
        return True

    def _still_waiting(self, ids: Collection[str]) -> set[str]:
        in_flight = self._in_flight
        return {one for one in ids if one in in_flight or self.active_interventions.is_pending(one)}

    async def _write_request(self, approval: Intervention, requested: tuple[str, ...]) -> None:
        try:
            new = await self._executor.write(
                self._interventions.add, approval, [build_approval_row(approval, self._service)]
            )
        except Unavailable as error:
            self.failed_requests += 1
            _log.warning("an approval could not be asked for", error=str(error), agent=approval.agent.agent_id)
            return
        finally:
            self._land(approval.agent, requested)
        if new:
            self._apply_and_audit(approval, "approval.request", approval.asked_by, approval.asked_why)

    def _land(self, agent: AgentName, requested: tuple[str, ...]) -> None:
        self._in_flight_of_tenant[agent.tenant] -= 1
        if not self._in_flight_of_tenant[agent.tenant]:
            del self._in_flight_of_tenant[agent.tenant]
        in_flight = self._ids_in_flight[agent.key]
        self._in_flight.discard(in_flight.pop(requested))
        if not in_flight:
            del self._ids_in_flight[agent.key]

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
        if approval.status != "pending" or approval.expires_ms <= now_ms:
            raise InterventionNotOpen(f"approval {approval.intervention_id} is {_status_word(approval, now_ms)}")
        decided = msgspec.structs.replace(
            approval,
            status="rejected" if not approve else "approved_once" if one_use else "approved",
            scopes=approval.scopes if trust_path or not approve else without_path_scopes(approval.scopes),
            decided_by=person.name,
            decided_ms=now_ms,
            why=person.why,
            expires_ms=now_ms + int(valid_s * 1000),
            updated_ms=_next_update_ms(approval, now_ms),
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
        if intervention.status not in ("active", "approved", "approved_once") or intervention.expires_ms <= now_ms:
            raise InterventionNotOpen(
                f"{intervention.kind} {intervention.intervention_id} is {_status_word(intervention, now_ms)}"
            )
        ended = msgspec.structs.replace(
            intervention,
            status="ended",
            decided_by=person.name,
            decided_ms=now_ms,
            why=person.why,
            updated_ms=_next_update_ms(intervention, now_ms),
        )
        await self._write_change(ended, intervention.status, f"{intervention.kind}.end", person)
        return ended

    async def spend(self, approval: Intervention) -> bool:
        """Spend a single-use approval. Return False (no permit) if it has ended or the store does not answer."""
        used = msgspec.structs.replace(approval, status="used", updated_ms=_next_update_ms(approval, self.now_ms()))
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
            over = msgspec.structs.replace(
                intervention, status="expired", updated_ms=_next_update_ms(intervention, now_ms)
            )
            if await asyncio.to_thread(self._interventions.update, over, intervention.status, _outbox_of(over)):
                self._apply_and_audit(over, f"{intervention.kind}.expire", "trustwatch", "its time is over")
            else:  # another process was first: it holds no longer here either
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
    """Return the announcements of an intervention: only pins have any, because they change the level that the policy
    uses.
    """
    return [build_pin_row(intervention)] if intervention.kind == "pin" else []


def _next_update_ms(intervention: Intervention, now_ms: int) -> int:
    """Return a change time (UTC ms) after the last change, even if clocks of other processes differ."""
    return max(now_ms, intervention.updated_ms + 1)


def _status_word(intervention: Intervention, now_ms: int) -> str:
    return "expired" if intervention.expires_ms <= now_ms else intervention.status


class Outcome(NamedTuple):
    """The answer that a request would get. `scopes` are the remaining scopes of a token; None means all."""

    permitted: bool
    scopes: tuple[str, ...] | None = None


async def spend_needed(
    workflow: ApprovalWorkflow,
    identities: Iterable[AgentIdentity],
    judge: Callable[[tuple[Intervention, ...]], Outcome],
) -> tuple[Intervention, ...]:
    """Return the approvals that were spent for a request: none if it is permitted without them, or denied despite all
    of them.

    A verdict never waits for the store. So what it needs is spent first and passed on in `AccessRequest.spent`; other
    approvals for one use do not count.
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
