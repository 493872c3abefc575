"""Training of new versions: schedule, data and registration."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, NamedTuple

import msgspec
import numpy as np
import structlog

from trustwatch.ingest.archive.archive_files import read_positions
from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.duplicate_window import PARTITION_WINDOW, DuplicateWindow
from trustwatch.ingest.errors import ConfigError, CorruptLog, Unavailable
from trustwatch.ingest.log.log_reader import LogReader
from trustwatch.ingest.log.segment_import import first_offset
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.ingest.timestamps import DAY_MS, HOUR_MS
from trustwatch.ingest.topics.protocols import partition_offsets
from trustwatch.ingest.topics.topic_history import topic_event_lines
from trustwatch.models.input_checks import NotEnoughHistory
from trustwatch.models.model_persistence import ModelRegistry
from trustwatch.models.trained_model import TrainedModel
from trustwatch.scoring.learning.feedback_preview import feedback_labels
from trustwatch.scoring.learning.training import (
    TrainedVersion,
    TrainingHistory,
    exclude_windows,
    labelled_windows,
    suspicious_windows,
    train_and_save,
)
from trustwatch.scoring.pipeline.model_switch import ModelChoice
from trustwatch.scoring.records.commits import ONLY_PARTITION
from trustwatch.scoring.records.decisions import Decision
from trustwatch.scoring.records.models import ModelHistoryEntry, ModelSwitch, ModelVersion
from trustwatch.scoring.store.database import MAX_PAGE
from trustwatch.scoring.store.sql_store import SqlStore

from .. import clock
from ..brokers import open_reader
from ..child_process import StopRequested
from ..composition import engine_settings, load_erased_filter
from ..settings.root import Settings
from .first_training import LAST_TRAINING_KEY, TRAINING_REQUEST_KEY, TRAINING_STATE_KEY, FirstTraining, TrainingState

READ_RECORDS = 5_000


class ReadRanges(NamedTuple):
    """Ranges of the log that were read, by partition, from the first offset up to the second; *source* is text.

    The archive, if there is one, ends before them.
    """

    source: str
    ranges: Mapping[int, tuple[int, int]]


def trained_end_offsets(version: ModelVersion) -> dict[int, int]:
    """Return the offset by partition after what a version learned from; counting in shadow begins there."""
    ranges = version.trained.get("offsets")
    return {int(at): both[1] for at, both in ranges.items()} if ranges else {ONLY_PARTITION: version.counted_from}


def read_training_data(
    settings: Settings, history: TrainingHistory, since_ms: int, check: Callable[[], None]
) -> ReadRanges:
    """Add every event of the configured log that arrived since *since_ms*, each once; call *check* periodically.

    Raises CorruptLog, ConfigError, Unavailable, OSError.
    """
    if settings.distributed:
        return _read_topic_history(settings, history, since_ms, check)
    folder = settings.data_dir / "log"
    archived = _read_archive(settings, history, since_ms, "", check)
    with closing(LogReader(folder)) as reader:
        end = reader.end_offset(ONLY_PARTITION)
        first = max(first_offset(folder), archived.get(ONLY_PARTITION, 0))
        reader.seek(ONLY_PARTITION, first)
        window, at = DuplicateWindow(), first
        while at < end and (batch := reader.poll(min(READ_RECORDS, end - at), 0.0)) is not None:
            check()
            offsets = np.arange(batch.base_offset, batch.next_offset, dtype=np.int64)
            seen = window.mark(np.array([record.id_hash for record in batch.records], np.uint64), offsets)
            for record, repeated in zip(batch.records, seen.tolist(), strict=True):
                if record.kind == RecordKind.EVENT and not repeated and record.received_ms >= since_ms:
                    history.add(record.payload)
            at = batch.next_offset
    return ReadRanges("archive and log" if archived else "log", {ONLY_PARTITION: (first, end)})


def _read_topic_history(
    settings: Settings, history: TrainingHistory, since_ms: int, check: Callable[[], None]
) -> ReadRanges:
    """Read all partitions of the events topic, merged by arrival."""
    topic = settings.brokers.topic_names.events
    archived = _read_archive(settings, history, since_ms, topic, check)
    with closing(open_reader(settings.brokers, (topic,))) as reader:
        ranges = {  # what is kept, recent and not in the archive
            partition: (min(at.end, max(at.first, at.since, archived.get(partition, 0))), at.end)
            for partition, at in sorted(partition_offsets(reader, since_ms).items())
        }
        for partition, (first, _) in ranges.items():
            reader.seek(topic, partition, first)
        windows = {partition: DuplicateWindow(PARTITION_WINDOW) for partition in ranges}

        def is_learned(partition: int, offset: int, record: Record) -> bool:
            """Return whether an event is new and before the end that was looked up at the beginning."""
            if offset >= ranges.get(partition, (0, 0))[1] or record.received_ms < since_ms:
                return False
            hashed, at = np.array([record.id_hash], np.uint64), np.array([offset], np.int64)
            return not bool(windows[partition].mark(hashed, at)[0])

        for line in topic_event_lines(reader, topic, is_learned, check, load_erased_filter(settings, topic)):
            history.add(line)
    return ReadRanges("archive and topic" if archived else "topic", ranges)


def _read_archive(
    settings: Settings, history: TrainingHistory, since_ms: int, topic: str, check: Callable[[], None]
) -> dict[int, int]:
    """Add what is archived of *topic* ("" = the embedded log); return the offsets at which it ends, {} = no archive."""
    directory = settings.archive.directory
    # Reading takes minutes: what is archived meanwhile comes from the log, and from there alone.
    up_to = None if directory is None else read_positions(directory, topic)
    if directory is None or not up_to:
        return {}
    from trustwatch.ingest.archive.archive_reader import raw_lines

    arrived = datetime.fromtimestamp(since_ms / 1000, UTC)
    for number, line in enumerate(raw_lines(directory, up_to=up_to, arrived=arrived)):
        history.add(line)
        if number % READ_RECORDS == 0:
            check()
    return dict(up_to)


MOST_EVENTS = 500_000
"""Newest events that a training reads: some 2 GB of memory."""
HISTORY_DAYS = 28
"""Days within which they arrived, if they are kept: four of each day of the week."""

KEPT_VERSIONS = 10
"""Versions kept in addition to champion and challenger; older ones leave the disk, not the history."""

CHALLENGER_GRACE_PERIODS = 4
"""A challenger that is short of agent-days is given so many periods before another one takes its place."""
MAX_PAGES = 40
"""Pages of decisions and feedback that are searched for what must not be learned."""
MAX_ATTEMPTS = 3
"""Attempts at one training, if the worker died in each."""

_log = structlog.get_logger(__name__)


@dataclass(eq=False, repr=False)
class TrainingScheduler:
    """Trains versions that are due or ordered. It records its work first, so that another model worker can continue."""

    settings: Settings
    store: SqlStore
    registry: ModelRegistry
    read_history: Callable[[TrainingHistory, int, Callable[[], None]], ReadRanges]
    check: Callable[[], None]

    def __post_init__(self) -> None:
        self.first_training = FirstTraining(self.store, self.registry, budget=self.settings.risk.budget)
        """Decides when a learning service has enough history."""

    def next_training(self, champion: ModelChoice) -> TrainingState | None:
        """Return the training that is due now, None = none; *champion* is active."""
        stored = self.store.metadata.get(TRAINING_STATE_KEY)
        last = msgspec.json.decode(stored, type=TrainingState) if stored else TrainingState()
        request = self.store.metadata.get(TRAINING_REQUEST_KEY) or ""
        if not last.ended:
            return last
        now_ms = clock.now_ms()
        if request and request != last.request:
            said = msgspec.json.decode(request)
            return TrainingState(request, _version_name(now_ms), said["by"], said["why"], now_ms, ended=False)
        if self.registry.learns(champion.version, champion.digest):
            due, why = self.first_training.is_due(), "there is enough history for a first model"
        else:
            due, why = self._is_scheduled(champion, now_ms), "due"
        return TrainingState(last.request, _version_name(now_ms), "schedule", why, now_ms, ended=False) if due else None

    def _is_scheduled(self, champion: ModelChoice, now_ms: int) -> bool:
        every_ms = int(self.settings.lifecycle.every_h * HOUR_MS)
        if not every_ms or not self.settings.lifecycle.enabled:
            return False
        model = self.store.models.get(champion.version)
        last = max(int(self.store.metadata.get(LAST_TRAINING_KEY) or 0), 0 if model is None else model.created_ms)
        if model is None or now_ms < last + every_ms:
            return False
        return not any(
            challenger.figures.get("agent_days", 0) < self.settings.lifecycle.min_agent_days
            and now_ms < challenger.created_ms + CHALLENGER_GRACE_PERIODS * every_ms
            for challenger in self.store.models.page("challenger").items
        )

    def run_training(self, work: TrainingState, champion: TrainedModel) -> None:
        """Train on the history that is kept now; a failure becomes an entry of the versions' history."""
        if self.store.models.get(work.version) is not None:  # it was registered, and then the worker died
            self._finish_training(work)
            return
        if work.tries >= MAX_ATTEMPTS:
            self._fail_training(
                work,
                f"the keeper died {work.tries} times in this training: has it the memory? "
                f"the newest {MOST_EVENTS:,} events are read",
            )
            return
        self.store.metadata.put(LAST_TRAINING_KEY, str(clock.now_ms()))
        self._put_state(msgspec.structs.replace(work, tries=work.tries + 1))
        _log.info("training", version=work.version, by=work.by, again=work.tries > 0)
        try:
            version = self._train_version(champion, work)
        except (NotEnoughHistory, CorruptLog, ConfigError, OSError) as error:
            self._fail_training(work, str(error))
        except (StopRequested, Unavailable):  # stopping, or a component does not answer: not the training's fault
            with contextlib.suppress(Unavailable):
                self._put_state(work)
            raise  # any other end counts as a try; after a loss of leadership the work is another worker's
        else:
            self._finish_training(work)
            _log.info(
                "trained", version=version.version, **{k: v for k, v in version.trained.items() if isinstance(v, int)}
            )

    def _finish_training(self, work: TrainingState) -> None:
        """Reject the challenger before, and delete directories of versions that are not needed any more.

        A worker that dies in it repeats it.
        """
        version, now_ms = self.store.models.get(work.version), clock.now_ms()
        if version is not None and version.status == "challenger":
            why = f"{version.version} takes its place"
            old = [other for other in self.store.models.page("challenger").items if other.version != version.version]
            self.store.models.update(
                [msgspec.structs.replace(other, status="rejected", changed_ms=now_ms) for other in old],
                [ModelHistoryEntry(uuid.uuid4().hex, now_ms, one.version, "rejected", "keeper", why) for one in old],
            )
        needed = {self.registry.installed_model().version, *versions_in_use(self.store.models.list_switches())}
        for model in self.store.models.page(limit=MAX_PAGE).items[KEPT_VERSIONS:]:
            if model.version not in needed and model.status not in ("champion", "challenger"):
                self.registry.remove(model.version)
        self._put_state(msgspec.structs.replace(work, ended=True))

    def _fail_training(self, work: TrainingState, why: str) -> None:
        _log.warning("nothing was trained", error=why)
        entry = ModelHistoryEntry(uuid.uuid4().hex, clock.now_ms(), work.version, "failed", work.by, why)
        self.store.models.update([], [entry])
        self._put_state(msgspec.structs.replace(work, ended=True))

    def _put_state(self, state: TrainingState) -> None:
        self.store.metadata.put(TRAINING_STATE_KEY, msgspec.json.encode(state).decode())

    def _train_version(self, champion: TrainedModel, work: TrainingState) -> ModelVersion:
        now_ms = clock.now_ms()
        since_ms = now_ms - HISTORY_DAYS * DAY_MS
        # What arrived long ago is old, but what is old by its own word may have arrived today: replayed days count.
        encoder = ColumnEncoder(champion.salt, self.settings.domains())
        history = TrainingHistory(encoder, MOST_EVENTS)
        learned = self.read_history(history, since_ms, self.check)
        columns = history.columns()
        if columns is None:
            raise NotEnoughHistory(f"no event of the last {HISTORY_DAYS} days is kept that could be learned from")
        feedback = list(islice(feedback_labels(self.store.feedback), MAX_PAGES * MAX_PAGE))
        false = frozenset(entry.decision_id for entry in feedback if entry.verdict == "false_positive")
        recent = self._recent_decisions(int(columns.time_ms.min()))
        windows = suspicious_windows(recent, false, encoder.identities)
        attacks = labelled_windows(feedback, encoder.identities)
        columns, left_out = exclude_windows(columns, attacks, windows, history.malformed)
        produced = train_and_save(
            self.registry.directory_of(work.version),
            columns,
            champion.salt,
            work.version,
            champion.detector.settings,
            engine_settings(self.settings),
            now_ms,
            lambda *_: self.check(),
        )
        self.check()
        trained = {
            "source": learned.source,
            "offsets": {str(at): list(both) for at, both in learned.ranges.items()},
            "left_out": left_out._asdict(),
            "by": work.by,
            "after": champion.version,
        }
        return self._register_version(produced, now_ms, trained, work.why)

    def _register_version(
        self, trained_version: TrainedVersion, now_ms: int, trained: dict[str, Any], why: str
    ) -> ModelVersion:
        window = trained_version.manifest.window
        expected = trained_version.expected_challenges
        facts = {
            "events": window.events,
            "agents": window.agents,
            "sessions": window.sessions,
            "promise": trained_version.budget_report.as_dict(),
            "over_budget": trained_version.budget_report.broken_levels,
            "expected_challenges": None if expected is None else expected.as_dict(),
            "calls_that_wait": "too little history to say" if expected is None else expected.summary,
            "seconds": round((clock.now_ms() - now_ms) / 1000, 1),
        }
        version = ModelVersion(
            trained_version.manifest.model_version,
            "challenger",
            trained_version.digest,
            window.from_ms,
            window.to_ms,
            now_ms,
            0,
            now_ms,
            sum(end for _, end in trained["offsets"].values()),
            trained | facts,
        )
        detail = {"events": window.events, "left_out": trained["left_out"]}
        entry = ModelHistoryEntry(uuid.uuid4().hex, now_ms, version.version, "trained", trained["by"], why, detail)
        self.store.models.add(version, entry)
        return version

    def _recent_decisions(self, since_ms: int) -> Iterator[Decision]:
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            page = self.store.decisions.page(limit=MAX_PAGE, cursor=cursor)
            yield from page.items
            cursor = page.next_cursor
            if cursor is None or page.items[-1].event_time_ms < since_ms - DAY_MS:
                return


def versions_in_use(switches: Sequence[ModelSwitch]) -> set[str]:
    """Return the versions that partitions judge by, and the one before for a roll-back. *switches*: newest first."""
    newest: dict[int, str] = {}
    for switch in switches:
        newest.setdefault(switch.partition, switch.version)
    before = [switch.version for switch in switches if switch.version != switches[0].version]
    return {*newest.values(), *before[:1]}


def _version_name(now_ms: int) -> str:
    return datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y-%m-%d.%H%M%S")
