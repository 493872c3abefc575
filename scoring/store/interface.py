"""The seam of the store: what the pipeline, the edge and the dispatcher ask of a database.

Every method may raise Unavailable (nothing was written, the same call may succeed later). Every method blocks: an event
loop calls it in a thread. One store may be used from several threads at once. *tenants* is what the caller may see;
None = all. Floats must be finite. Pages hold at most `MAX_PAGE` items.

One module for each area, with the SQL of it in the module of the same name one folder up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from ...ingest.errors import ConfigError, Fenced, TrustwatchError
from ...ingest.record_erasure import ErasedSubject
from ..records.agents import AgentEdge, AgentName, AgentRow, AgentSummary, DueAgent, VersionedAgent
from ..records.commits import Commit, Delivery, OutboxRow, Position
from ..records.containment import Actuation, Intervention
from ..records.dead_letters import StoredDeadLetter
from ..records.decisions import Decision
from ..records.feedback import Feedback, FeedbackPreview, FeedbackStep, PartitionRule
from ..records.models import AgentLifespans, DailyAlertCount, ModelHistoryEntry, ModelSwitch, ModelVersion, PeerGroupDay
from .decision_chain import ChainStore

# Pages of a list, and whose rows a caller may see.


MAX_PAGE = 500
T = TypeVar("T")
Tenants = Collection[str] | None


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Some items, and where the next ones are."""

    items: list[T]
    next_cursor: str | None  # None = these were the last ones


# What the edge reads: agents, decisions, dead letters, deliveries.


class AgentQuery(msgspec.Struct, frozen=True):
    """Filters of a list of agents; the order is tenant, agent id, issuer."""

    tenants: Tenants = None
    levels: Collection[int] | None = None
    agent_type: str | None = None
    prefix: str = ""  # of the agent id
    limit: int = 50
    cursor: str | None = None


class DeadLetterCounts(NamedTuple):
    """Dead letters that are kept, and those that found no room since the store exists."""

    stored: int
    dropped: int


class ReadStore(Protocol):
    """What the edge reads."""

    def summaries(self, after_key: int | None = None, limit: int = 10_000) -> list[AgentSummary]:
        """Agents behind *after_key* in a fixed order (of keys as signed numbers), without their state."""

    def all_summaries(self, chunk: int = 10_000) -> Iterator[AgentSummary]:
        """Every agent, read in chunks of their own transactions."""

    def list_agents(self, query: AgentQuery) -> Page[AgentSummary]:
        """One page of agents. Raises BadCursor."""

    def agent(self, tenant: str, issuer: str, agent_id: str, tenants: Tenants = None) -> AgentRow | None:
        """One agent by its full name."""

    def find_agents(self, agent_id: str, tenants: Tenants = None, limit: int = 50) -> list[AgentSummary]:
        """Agents of that id at any issuer of the tenants."""

    def list_decisions(
        self, tenants: Tenants = None, agent_key: int | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page[Decision]:
        """Decisions, newest first. Raises BadCursor."""

    def decision(self, decision_id: str, tenants: Tenants = None) -> Decision | None:
        """One decision."""

    def list_dead_letters(
        self,
        sources: Collection[str] | None = None,
        replayed: bool | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[StoredDeadLetter]:
        """Dead letters, newest first. Raises BadCursor.

        What could not be decoded has no tenant; *sources* limits what a caller sees (None = all).
        """

    def dead_letter(self, letter_id: str, sources: Collection[str] | None = None) -> StoredDeadLetter | None:
        """One dead letter."""

    def mark_replayed(self, letter_ids: Collection[str], at_ms: int) -> int:
        """Note that those letters were sent in again; how many had not been."""

    def letter_counts(self) -> DeadLetterCounts:
        """How many dead letters are kept and how many were dropped."""

    def list_deliveries(
        self,
        tenants: Tenants = None,
        status: str | None = None,
        target: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
        *,
        agent_key: int | None = None,
        key: str | None = None,
    ) -> Page[Delivery]:
        """State of what leaves, newest first; rows that no target took are not among them. Raises BadCursor.

        *agent_key*: about that agent alone; *key*: of that outbox row alone.
        """


# What the pipeline asks: its state and how far it got, written together.


class CommitResult(NamedTuple):
    """What a commit could not keep: dead letters beyond `max_dead_letters`, which were counted instead."""

    dropped_dead_letters: int


class StateStore(Protocol):
    """What the pipeline needs: its state and how far it got, written together."""

    def position(self, partition: int) -> Position:
        """Stored position; epoch 0, offset 0 for a partition that was never claimed."""

    def claim(self, partition: int) -> Position:
        """Take the partition over: the epoch goes up by one, so that the previous owner is fenced."""

    def commit(self, commit: Commit) -> CommitResult:
        """Write all of *commit* in one transaction, or nothing.

        Raises Fenced unless the stored position equals `commit.expected`. After Unavailable the outcome is unknown:
        read `position` and go on from there.
        """

    def commit_all(self, commits: Sequence[Commit]) -> list[CommitResult | Fenced]:
        """Write *commits*, each of another partition, in one transaction; a result for each, in their order.

        Those whose position is not the expected one are left out, and get `Fenced` (not raised); all others are written
        together, or nothing. After Unavailable as `commit`.
        """

    def agents(self, keys: Collection[int]) -> dict[int, AgentRow]:
        """Rows of those *keys* (unsigned) that exist."""

    def due(self, before_ms: int, limit: int, after: DueAgent | None = None, partition: int = 0) -> list[DueAgent]:
        """Agents of *partition* with 0 < due_ms <= *before_ms* by (due_ms, key as signed), starting behind *after*.

        The pipeline skips those it holds in memory and loads the rest with `agents`.
        """

    def published(self, partition: int) -> int:
        """Highest `Commit.published` of *partition*; 0 = nothing yet."""

    def forgets(self, partition: int, after: int) -> list[ErasedSubject]:
        """Agents of *partition* whose order to forget was met in it at the offset *after* or later."""

    def bygone(self) -> list[ErasedSubject]:
        """Everybody who was erased while a topic still has their records; nobody where there is no topic."""

    def unpublished_agents(self, partition: int, after: int, chunk: int = 10_000) -> Iterator[VersionedAgent]:
        """Agents of *partition* that commits with an offset above *after* wrote, read in chunks.

        The whole table is looked through, since an index would have to be kept up by every commit. Nobody but the owner
        of the partition writes such rows, so that chunks agree.
        """

    def unpublished_decisions(self, partition: int, after: int, chunk: int = 1_000) -> Iterator[Decision]:
        """Decisions of *partition* that commits with an offset above *after* wrote, in the order of their records."""

    def get_meta(self, key: str) -> str | None:
        """Value of *key*, None = not set."""

    def set_meta(self, key: str, value: str) -> None:
        """Set *key*."""

    def default_meta(self, key: str, value: str) -> str:
        """Set *key* unless it is set; what is set then. Two processes get the same answer."""


# What the dispatcher asks: from outbox rows to deliveries, and how those ended.


class DeliveryRoute(msgspec.Struct, frozen=True):
    """Which outbox rows a configured target takes."""

    target: str
    kind: str
    levels: frozenset[int]
    cooldown_ms: int


class LeasedDelivery(NamedTuple):
    """One delivery that is about to be tried; *attempt* counts from 1 and identifies the lease."""

    seq: int
    row: OutboxRow
    target: str
    attempt: int
    queued_ms: int
    suppressed_before: int


class DeliverySettlement(NamedTuple):
    """How a leased delivery ended. It has no effect if the lease was lost meanwhile."""

    seq: int
    target: str
    attempt: int
    status: str  # pending (again at next_attempt_ms) | delivered | failed | suppressed
    next_attempt_ms: int
    error: str
    at_ms: int


class OutboxStore(Protocol):
    """What the dispatcher needs. All state of deliveries is here, so a dispatcher may stop at any moment."""

    def route(self, routes: Sequence[DeliveryRoute], now_ms: int, limit: int = 200) -> int:
        """Turn outbox rows into deliveries, in order; returns how many rows were routed.

        A row within the cool-down of (target, agent, group) becomes `suppressed`, unless its level is higher than that
        of the alert before it or that alert did not arrive. A row for a target that is not configured becomes `dead`.
        """

    def lease(self, target: str, now_ms: int, limit: int, lease_ms: int) -> list[LeasedDelivery]:
        """Deliveries of *target* that are due; nobody else gets them for *lease_ms*. Counts the attempt."""

    def settle(self, settlements: Sequence[DeliverySettlement]) -> None:
        """Write how leased deliveries ended."""

    def superseded(self, target: str, seqs: Collection[int]) -> set[int]:
        """Those of *seqs* that a delivered one about the same agent's level has overtaken at *target*.

        What has no cool-down group tells of no level: it neither overtakes nor is overtaken.
        """

    def next_due_ms(self, target: str) -> int | None:
        """When the next pending delivery of *target* is due; None = there is none."""

    def expire(self, queued_before_ms: int, now_ms: int) -> int:
        """Give up (`dead`) pending deliveries that wait since before *queued_before_ms*; returns how many."""

    def delivery_counts(self) -> dict[tuple[str, str], int]:
        """Number of deliveries by (target, status)."""

    def stop_target(self, name: str, fingerprint: str, at_ms: int, reason: str) -> None:
        """Send nothing more to the target as long as its configuration has this *fingerprint*."""

    def stopped_targets(self) -> dict[str, str]:
        """Fingerprint that each stopped target had."""

    def resume_target(self, name: str) -> bool:
        """Send to the target again; whether it was stopped."""

    def enqueue(self, rows: Sequence[OutboxRow]) -> None:
        """Add rows that no commit brings; one whose key is there already is left out."""

    def note_heard(self, source: str, at_ms: int) -> None:
        """Note that something came from *source*; of what several processes note, the latest time counts."""

    def tell_silence(self, source: str, since_ms: int, row: Callable[[int], OutboxRow]) -> bool:
        """Enqueue that *source* is silent, unless something came from it after *since_ms*; whether it is silent.

        *row* is given the time when it was heard last (0 = never) and makes a key of that: so each silence is told
        once, however many processes notice it and however often they are restarted.
        """


# What containment asks: interventions of people, actuations, edges between agents.


class ContainmentStore(Protocol):
    """What people ordered, what actuators did, and who had to do with whom."""

    def add_intervention(self, made: Intervention, outbox: Sequence[OutboxRow] = ()) -> bool:
        """Write a new intervention together with what has to leave; False = its id is known, and nothing is written."""

    def change_intervention(self, made: Intervention, was: str, outbox: Sequence[OutboxRow] = ()) -> bool:
        """Overwrite an intervention whose status still is *was*, together with what has to leave; whether it was."""

    def intervention(self, intervention_id: str, tenants: Tenants = None) -> Intervention | None:
        """One intervention."""

    def open_interventions(self) -> list[Intervention]:
        """All that have an effect or wait for a person."""

    def interventions_since(self, updated_ms: int) -> list[Intervention]:
        """Those changed at *updated_ms* or later, oldest change first."""

    def list_interventions(
        self,
        tenants: Tenants = None,
        kind: str | None = None,
        status: str | None = None,
        agent_key: int | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Intervention]:
        """Interventions, newest first. Raises BadCursor."""

    def enqueue(self, rows: Sequence[OutboxRow]) -> None:
        """Add outbox rows; those whose key is there already change nothing."""

    def want(self, wanted: Actuation) -> Actuation | None:
        """Note what an actuator is to bring about, unless something newer is wanted already (then None).

        What was there before anything was lowered (`original`) stays; returns the row as it is then.
        """

    def actuation(self, target: str, agent_key: int) -> Actuation | None:
        """What one actuator has to do with one agent."""

    def keep_original(self, target: str, agent_key: int, original: bytes) -> bytes:
        """Keep what the server had, unless something is kept already; returns what is kept."""

    def settle_actuation(self, done: Actuation) -> bool:
        """Write how it ended; False = something newer is wanted meanwhile, and nothing was written."""

    def list_actuations(
        self,
        tenants: Tenants = None,
        agent_key: int | None = None,
        target: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Actuation]:
        """Actuations, last changed first. Raises BadCursor."""

    def edges(
        self, keys: Collection[int], *, outgoing: bool, kinds: Collection[str], since_ms: int = 0, limit: int = 1_000
    ) -> list[AgentEdge]:
        """Edges that leave (or reach) the nodes of those keys, last seen first within a chunk of keys."""

    def purge_containment(
        self, before_ms: int, *, actuations_before_ms: int | None = None, edges_before_ms: int | None = None
    ) -> int:
        """Remove what is finished and older; what is lowered at a server stays. Returns the number of rows.

        Actuations and edges may have a time of their own; None is *before_ms*.
        """


# What feedback asks: what people said, the rules of it, previews.


class FeedbackStore(Protocol):
    """What people said of decisions, and the rules that follow from it."""

    def add_feedback(self, made: Feedback, step: FeedbackStep) -> bool:
        """Write new feedback with its first step; False = its id is known, and nothing is written."""

    def change_feedback(self, made: Feedback, was: str, step: FeedbackStep | None = None) -> bool:
        """Write status and revocation of feedback whose status still is *was*, with a step; whether it was.

        What was said is never overwritten; a step that is written stays as it is.
        """

    def feedback(self, feedback_id: str, tenants: Tenants = None) -> Feedback | None:
        """One."""

    def list_feedback(
        self,
        tenants: Tenants = None,
        status: str | None = None,
        verdict: str | None = None,
        agent_key: int | None = None,
        decision_id: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Feedback]:
        """Feedback, newest first. Raises BadCursor."""

    def open_feedback(self) -> list[Feedback]:
        """All whose rule is in force, or is on its way in or out; oldest first."""

    def feedback_steps(self, feedback_id: str) -> list[FeedbackStep]:
        """Its steps, oldest first."""

    def holdings(self, partition: int) -> list[PartitionRule]:
        """Rules of one partition as of its stored position, those that ended included."""

    def holdings_of(self, feedback_ids: Collection[str]) -> list[PartitionRule]:
        """Those rules in every partition that took them over."""

    def orphaned_holdings(self) -> list[PartitionRule]:
        """Rules that hold in a partition although what was said is gone (an erasure removes it)."""

    def put_preview(self, row: FeedbackPreview) -> None:
        """Write a preview, over an earlier one of the same id."""

    def preview(self, preview_id: str, tenants: Tenants = None) -> FeedbackPreview | None:
        """One preview."""

    def purge_feedback(self, before_ms: int) -> int:
        """Remove previews made before, and what partitions held of rules that ended before; feedback itself stays.

        Returns the number of rows.
        """

    def purge_labels(self, before_ms: int) -> int:
        """Remove feedback that is over (noted, revoked, expired) and whose window, end and last change lie before.

        With its steps, and not while a partition holds to its rule: whose feedback is gone could not be revoked.
        Returns the number of labels.
        """


# What the life of models asks: versions, history, switches, days.


class ModelStore(Protocol):
    """Versions of models, their history, where each came into force, and what shadow runs counted."""

    def add_model(self, made: ModelVersion, entry: ModelHistoryEntry) -> bool:
        """Write a new version with the line of history that says so; False = known already, and nothing is written."""

    def change_models(
        self,
        changed: Sequence[ModelVersion],
        entries: Sequence[ModelHistoryEntry] = (),
        outbox: Sequence[OutboxRow] = (),
    ) -> None:
        """Overwrite versions that are known, add lines of history and what has to leave, all or nothing."""

    def note_figures(self, version: str, figures: dict[str, Any], at_ms: int) -> None:
        """Overwrite how a version fares in shadow."""

    def model(self, version: str) -> ModelVersion | None:
        """One version."""

    def models(self, status: str | None = None, limit: int = 50, cursor: str | None = None) -> Page[ModelVersion]:
        """Versions, newest first. Raises BadCursor."""

    def model_history(
        self, version: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page[ModelHistoryEntry]:
        """What happened to versions, newest first. Raises BadCursor."""

    def model_switch(self, partition: int) -> ModelSwitch | None:
        """What is in force in *partition*; None = nothing was ever written of it."""

    def model_switches(self, limit: int = 500) -> list[ModelSwitch]:
        """Switches of all partitions, newest first."""

    def note_days(self, days: Sequence[PeerGroupDay], outbox: Sequence[OutboxRow] = ()) -> None:
        """Overwrite what groups did on days, and add what has to leave (rows whose key is there change nothing)."""

    def model_days(self, from_day: int, tenants: Tenants = None, version: str | None = None) -> list[PeerGroupDay]:
        """What groups did since *from_day*, by day, tenant, type and version."""

    def alert_counts(self, from_day: int, tenants: Tenants = None) -> list[DailyAlertCount]:
        """Decisions that raised an agent to medium or above, by day of their event since *from_day*, tenant, type."""

    def known_agents(self, from_day: int, tenants: Tenants = None) -> list[AgentLifespans]:
        """Agents that were seen since *from_day*, by group, first and last day."""

    def purge_models(self, before_day: int) -> int:
        """Remove days before *before_day*; versions, history and switches stay. Returns the number of rows."""


# All parts of the seam in one, and what an administrator asks of it.


class PurgeCounts(NamedTuple):
    """Rows removed by `purge`."""

    decisions: int
    outbox: int
    dead_letters: int
    agents: int


class Store(StateStore, ReadStore, OutboxStore, ContainmentStore, ModelStore, FeedbackStore, ChainStore, Protocol):
    """All of it. One contract suite (`tests/contract/`) holds for every implementation."""

    def positions(self) -> list[Position]:
        """Every partition that was ever claimed, by number."""

    def set_position(self, partition: int, offset: int, above: int = 0) -> Position:
        """Read *partition* on from *offset*; for an administrator.

        Its owner is fenced. The new epoch is above that of every partition, so that agents which move here get versions
        above those they had, and above *above*. What is not published yet stays so.
        """

    def repartition(self, assign: Callable[[AgentName], int], chunk: int = 10_000) -> int:
        """Give every agent to the partition *assign* says; returns how many moved. For an administrator.

        Nobody may work on the partitions meanwhile (`set_position` fences them). Calling it again goes on where it
        stopped. What was published stays so at the new place; the rest is published there.
        """

    def purge(
        self,
        before_ms: int,
        chunk: int = 1_000,
        agents_before_ms: int = 0,
        *,
        outbox_before_ms: int | None = None,
        letters_before_ms: int | None = None,
        waiting_letters_before_ms: int = 0,
    ) -> PurgeCounts:
        """Remove what is older and finished, *chunk* rows a transaction so that writers get between.

        Decisions go unless one is an agent's current one, on PostgreSQL by whole weeks, so up to one week later; outbox
        rows unless a delivery is pending; dead letters only once replayed; agents only if they are calm (low or
        unknown, nothing due) and were neither seen nor evaluated since *agents_before_ms* (0 = none goes). An agent
        that comes back later begins anew.

        Outbox rows and replayed dead letters may have a time of their own; None is *before_ms*. Dead letters that
        nobody replayed go only where *waiting_letters_before_ms* is not 0.
        """

    def upkeep(self, now_ms: int) -> None:
        """Make room for the weeks to come; to be called at start and once a day. Nothing fails where it was not."""

    def close(self) -> None:
        """Close every connection."""


# Errors of the store, below the classes of `ingest/errors.py`.


class StoreTooNew(ConfigError):
    """The database was written by a newer Trustwatch; nothing was touched."""

    code = "store_too_new"


class BadCursor(TrustwatchError):
    """A page cursor is not one that this store gave out; start again without one."""

    code = "invalid_cursor"
