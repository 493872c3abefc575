"""What the application is given: everything it uses, made by the composition root. There are no globals."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ...ingest.log import GroupCommit
from ...ingest.log.commit import CommitLog
from ...scoring.actuators import ActuationFigures, Wishes
from ...scoring.channel import Change, Update
from ...scoring.policy import LivePolicy
from ...scoring.store import Store
from ...scoring.view import RiskView
from .. import clock as machine
from ..callers import Caller
from ..edge.archived import ArchiveStatus
from ..edge.reports import IngestStatus, SilenceReport
from ..feedback import FeedbackDesk
from ..guard import Guard
from ..lifecycle import ModelDesk
from ..privacy.desk import ErasureDesk
from ..settings import Settings
from ..tokens import JwksStatus, TokenVerifier

MARKS = 4096
"""Reports that are remembered while the pipeline is behind."""

QUEUED_CHANGES = 1000
"""Changes that wait for one slow watcher; then it is cut off and has to come again."""

Changes = asyncio.Queue[Change | None]


class PipelineStatus:
    """What is known of the pipeline, from its own reports. For one event loop.

    The reader of the update socket calls `note` with every update, once it is applied to the view, and sets `alive`.

    Attributes:
        alive: whether its process runs.
        heard_ms: last report, UTC milliseconds on our clock; 0 = never.
        fresh_ms: everything that was logged before is part of the answers; 0 = nothing is known. Stays behind both when
            the pipeline is dead and when it is slow.
        offset: next record that it will apply.
        behind: records that waited when it reported.
        counts: what it has done since its start, by name.
        seconds: time it has spent since its start, by stage.
        dropped_dead_letters: dead letters that found no room.
        changes: changes of level so far, by the new level.
        fresh: `fresh_ms` by partition, where several workers report; None where one pipeline does.
    """

    def __init__(self) -> None:
        self.alive = False
        self.heard_ms = 0
        self.fresh_ms = 0
        self.offset = 0
        self.behind = 0
        self.counts: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self.dropped_dead_letters = 0
        self.changes: dict[int, int] = {}
        self.fresh: dict[int, int] | None = None
        self.watchers: set[Changes] = set()
        self._marks: deque[tuple[int, int]] = deque()
        self._closed = False

    def note(self, update: Update, now_ms: int) -> None:
        """Take over one report that arrived at *now_ms*."""
        part = update.offset == self.offset and (update.agents or update.changes)  # of a commit; its offset comes last
        self.alive = True
        self.heard_ms = now_ms
        self.offset, self.behind = update.offset, update.behind
        if update.counts:
            self.counts, self.seconds = update.counts, update.seconds
        self.dropped_dead_letters += update.dropped_dead_letters
        if update.fresh is not None:
            self.fresh, self.fresh_ms = update.fresh, min(update.fresh.values(), default=0)
        elif not part:
            self._age(now_ms)
        self.tell(update.changes)

    def tell(self, changes: Iterable[Change]) -> None:
        """Count changes of level and tell whoever watches."""
        for change in changes:
            self._tell(change)

    def ended(self) -> None:
        """The process that reports has ended."""
        self.alive = False

    def work(self, update: Update) -> None:
        """Take over what a worker beside this process has done, where the answers come from the risk topic."""
        self.counts, self.seconds = update.counts, update.seconds
        self.dropped_dead_letters += update.dropped_dead_letters

    def fresh_of(self, partition: int) -> int:
        """`fresh_ms` of one partition."""
        return self.fresh_ms if self.fresh is None else self.fresh.get(partition, 0)

    def _age(self, now_ms: int) -> None:
        """What had been logged when an earlier report came is applied once the offset has passed its end."""
        self._marks.append((now_ms, self.offset + self.behind))
        while self._marks and self._marks[0][1] <= self.offset:
            self.fresh_ms = self._marks.popleft()[0]
        if len(self._marks) > MARKS:  # a coarser memory: freshness is then noticed later, never too early
            self._marks = deque(list(self._marks)[1::2])

    def _tell(self, change: Change) -> None:
        self.changes[change.level] = self.changes.get(change.level, 0) + 1
        for queue in list(self.watchers):
            if queue.full():
                self.watchers.discard(queue)
                queue.get_nowait()
                queue.put_nowait(None)
            else:
                queue.put_nowait(change)

    def watch(self) -> Changes:
        """A queue of changes from now on; None in it is the end. Give it back with `unwatch`."""
        queue: Changes = asyncio.Queue(QUEUED_CHANGES)
        if self._closed:
            queue.put_nowait(None)
        else:
            self.watchers.add(queue)
        return queue

    def unwatch(self, queue: Changes) -> None:
        """Send nothing more to *queue*."""
        self.watchers.discard(queue)

    def close(self) -> None:
        """End every stream: a server that stops waits for its connections, and these would never end by themselves."""
        self._closed = True
        for queue in self.watchers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(None)
        self.watchers.clear()


def live_lag(log: CommitLog, status: PipelineStatus) -> Callable[[], int]:
    """How many records of an embedded log wait, counted live: the bound at the door holds without any report."""
    first = log.next_offset
    return lambda: max(0, log.next_offset - (status.offset if status.heard_ms else first))


def new_id() -> str:
    """Text that never repeats."""
    return uuid.uuid4().hex


Hook = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Services:
    """Everything the application uses.

    Attributes:
        settings: of the service.
        verifier: judges bearer tokens.
        log: where events become durable.
        guard: what hooks and gateways ask.
        store: lists and look-ups; called in threads.
        view: risk of every agent, in memory.
        policy: the policy book in force.
        model_version: of the model that scored when the service started.
        models: the desk of models, which knows the one that scores now; None = in tests without any.
        status: what is known of the pipeline.
        clock: seconds since 1970.
        monotonic: seconds on a clock that never goes back, for durations.
        new_id: text that never repeats, for ids of errors and dead letters.
        ready: further components of readiness, by name; each says whether it is ready.
        deliveries: attempts to deliver alerts so far, by target and outcome.
        issuers: how the keys of each issuer fare.
        behind: logged records that wait to be applied, for the bound at the door; None = the log has its own bound.
        wishes: what actuators are to bring about, and who asks them to look; None = in tests without any.
        actuations: how actuators fared in this process.
        ingest: how foreign topics fare, where they are read here.
        archive: how the archive fares, where it is kept here.
        feedback: takes what people say of decisions; None = in tests without any.
        erasures: erases, with proof; None = in tests without any.
        alias: what is logged in place of a principal, given tenant and identifier; None = its identifier.
        on_silence: given what is known of the callers that are watched, every second.
        on_startup: awaited in order before the first request.
        on_shutdown: awaited in order after the last one.
    """

    settings: Settings
    verifier: TokenVerifier[Caller]
    log: GroupCommit
    store: Store
    guard: Guard
    view: RiskView
    policy: LivePolicy
    model_version: str
    status: PipelineStatus
    clock: Callable[[], float] = machine.now_s
    monotonic: Callable[[], float] = machine.monotonic
    new_id: Callable[[], str] = new_id
    ready: Mapping[str, Callable[[], bool]] = field(default_factory=dict)
    deliveries: Counter[tuple[str, str]] = field(default_factory=Counter)
    issuers: Callable[[], Sequence[JwksStatus]] = tuple
    behind: Callable[[], int] | None = None
    wishes: Wishes | None = None
    actuations: ActuationFigures = field(default_factory=ActuationFigures)
    ingest: IngestStatus = field(default_factory=IngestStatus)
    archive: ArchiveStatus = field(default_factory=ArchiveStatus)
    models: ModelDesk | None = None
    feedback: FeedbackDesk | None = None
    erasures: ErasureDesk | None = None
    alias: Callable[[str, str], str] | None = None
    on_silence: Callable[[Sequence[SilenceReport]], Awaitable[None]] | None = None
    on_startup: tuple[Hook, ...] = ()
    on_shutdown: tuple[Hook, ...] = ()

    def now_ms(self) -> int:
        """UTC milliseconds since 1970."""
        return int(self.clock() * 1000)

    @property
    def scoring_version(self) -> str:
        """Version of the model that scores now."""
        return self.model_version if self.models is None else self.models.version
