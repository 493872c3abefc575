"""When a new version is trained, and from what."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import structlog

from ...ingest.archive.position import read_positions
from ...ingest.columns import ColumnEncoder
from ...ingest.dedup import DuplicateWindow
from ...ingest.errors import ConfigError, CorruptLog
from ...ingest.log import LogReader
from ...ingest.log.segments import segment_bases
from ...ingest.source import Kind
from ...models.bundle import TrainedModel
from ...models.detector import ForestDetector
from ...models.errors import NotEnoughHistory
from ...scoring.feedback import Feedback
from ...scoring.lifecycle.force import Chosen
from ...scoring.lifecycle.producing import Produced, produce
from ...scoring.lifecycle.records import ModelEntry, ModelVersion
from ...scoring.lifecycle.shelf import ModelShelf
from ...scoring.lifecycle.training import History, labelled_windows, suspicious_windows, without
from ...scoring.pipeline import PARTITION
from ...scoring.records import Decision
from ...scoring.store import MAX_PAGE, SqlStore
from .. import clock
from ..lifecycle.orders import LAST_TRAINING, TRAINING_WISH
from ..settings import Settings
from .wiring import engine_settings

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
PATIENCE = 4
"""A challenger that is short of agent-days is given so many periods before another one takes its place."""
MOST_PAGES = 40
"""Pages of decisions and feedback that are looked at for what must not be learned."""
READ = 5_000

_log = structlog.get_logger(__name__)


class Teacher:
    """Trains versions when they are due or wanted.

    Args:
        settings: of the service.
        store: of versions, decisions and feedback.
        shelf: where versions lie.
        check: called now and then while it trains; raises to give up.
    """

    def __init__(self, settings: Settings, store: SqlStore, shelf: ModelShelf, check: Callable[[], None]) -> None:
        self._settings = settings
        self._store = store
        self._shelf = shelf
        self._check = check
        self._wish: dict[str, Any] | None = None

    def due(self, champion: Chosen) -> bool:
        """Whether it is time, or somebody wants it; *champion* is in force."""
        raw = self._store.get_meta(TRAINING_WISH)
        self._wish = None if not raw else msgspec.json.decode(raw)
        if self._wish is not None:
            return True
        every_ms = int(self._settings.lifecycle.every_h * HOUR_MS)
        if not every_ms:
            return False
        known = self._store.model(champion.version)
        last = max(int(self._store.get_meta(LAST_TRAINING) or 0), 0 if known is None else known.created_ms)
        if known is None or clock.now_ms() < last + every_ms:
            return False
        return not any(
            one.figures.get("agent_days", 0) < self._settings.lifecycle.min_agent_days
            and clock.now_ms() < one.created_ms + PATIENCE * every_ms
            for one in self._store.models("challenger").items
        )

    def teach(self, champion: TrainedModel, end: int) -> None:
        """Train on what is kept up to offset *end* of the log; a failure is a line of the history."""
        now_ms = clock.now_ms()
        by, why = ("schedule", "due") if self._wish is None else (self._wish["by"], self._wish["why"])
        version = datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y-%m-%d.%H%M%S")
        self._store.set_meta(TRAINING_WISH, "")
        self._store.set_meta(LAST_TRAINING, str(now_ms))
        _log.info("training", version=version, by=by)
        try:
            made = self._made(champion, version, end, by, why, now_ms)
        except (NotEnoughHistory, CorruptLog, ConfigError, OSError) as error:
            _log.warning("nothing was trained", error=str(error))
            self._store.change_models([], [ModelEntry(uuid.uuid4().hex, now_ms, version, "failed", by, str(error))])
            return
        self._replace(made)
        self._clean()
        _log.info("trained", version=version, **{k: v for k, v in made.trained.items() if isinstance(v, int)})

    def _made(
        self, champion: TrainedModel, version: str, end: int, by: str, why: str, now_ms: int
    ) -> ModelVersion:  # fmt: skip
        history = self._history(champion, end, now_ms)
        columns = history.columns()
        if columns is None:
            raise NotEnoughHistory("no event is kept that could be learned from: see `lifecycle.history_days`")
        feedback = list(self._feedback())
        false = frozenset(one.decision_id for one in feedback if one.verdict == "false_positive")
        since_ms = int(columns.time_ms.min())
        windows = suspicious_windows(self._decisions(since_ms), false)
        columns, left_out = without(columns, labelled_windows(feedback), windows, history.malformed)
        assert isinstance(champion.detector, ForestDetector)
        engine = engine_settings(self._settings)
        produced = produce(
            self._shelf.place(version), columns, champion.salt, version, champion.detector.settings, engine.budget,
            engine.risk, now_ms, lambda *_: self._check(),
        )  # fmt: skip
        trained = {"left_out": left_out._asdict(), "by": by, "after": champion.version}
        return self._version(produced, end, now_ms, trained, why)

    def _version(self, made: Produced, end: int, now_ms: int, trained: dict[str, Any], why: str) -> ModelVersion:
        window = made.manifest.window
        facts = {
            "source": "archive and log" if self._archive else "log", "events": window.events, "agents": window.agents,
            "sessions": window.sessions, "promise": made.promise, "seconds": round((clock.now_ms() - now_ms) / 1000, 1),
        }  # fmt: skip
        version = ModelVersion(
            made.manifest.model_version, "challenger", made.digest, window.from_ms, window.to_ms, now_ms, 0, now_ms,
            end, facts | trained,
        )  # fmt: skip
        detail = {"events": window.events, "left_out": trained["left_out"]}
        entry = ModelEntry(uuid.uuid4().hex, now_ms, version.version, "trained", trained["by"], why, detail)
        self._store.add_model(version, entry)
        return version

    def _replace(self, made: ModelVersion) -> None:
        """One challenger at a time: the one before had its chance."""
        old = [one for one in self._store.models("challenger").items if one.version != made.version]
        now_ms = clock.now_ms()
        changed = [msgspec.structs.replace(one, status="rejected", changed_ms=now_ms) for one in old]
        entries = [
            ModelEntry(uuid.uuid4().hex, now_ms, one.version, "rejected", "keeper", f"{made.version} takes its place")
            for one in old
        ]
        self._store.change_models(changed, entries)

    def _clean(self) -> None:
        """Directories of versions that nobody will ask for leave the disk; the history keeps their names."""
        needed = {self._shelf.installed().version, *(one.version for one in self._store.model_switches()[:2])}
        kept = self._settings.lifecycle.keep_versions
        for number, one in enumerate(self._store.models(limit=MAX_PAGE).items):
            if number >= kept and one.version not in needed and one.status not in ("champion", "challenger"):
                self._shelf.remove(one.version)

    @property
    def _archive(self) -> bool:
        directory = self._settings.archive.directory
        return directory is not None and bool(read_positions(directory))

    def _history(self, champion: TrainedModel, end: int, now_ms: int) -> History:
        """Events from the archive, where there is one, and from the log behind it."""
        kept = self._settings.lifecycle
        since_ms = now_ms - int(kept.history_days * DAY_MS)
        encoder = ColumnEncoder(champion.salt, self._settings.domains())
        # What arrived long ago is old, but what is old by its own word may have arrived today: replayed days count.
        history = History(encoder, kept.most_events, 0)
        first = min(segment_bases(self._settings.data_dir / "log"), default=0)
        if self._archive:
            first = max(first, self._from_archive(history, since_ms))
        self._from_log(history, first, end, since_ms)
        return history

    def _from_archive(self, history: History, since_ms: int) -> int:
        from ...ingest.archive.reader import raw_lines

        directory = self._settings.archive.directory
        assert directory is not None
        # Reading takes minutes: what is archived meanwhile comes from the log, and from there alone.
        up_to = read_positions(directory) or {}
        for line in raw_lines(directory, datetime.fromtimestamp(since_ms / 1000, UTC), up_to=up_to):
            history.add(line)
        return up_to.get(PARTITION, 0)

    def _from_log(self, history: History, first: int, end: int, since_ms: int) -> None:
        window = DuplicateWindow()
        with closing(LogReader(self._settings.data_dir / "log")) as reader:
            reader.seek(PARTITION, first)
            at = first
            while at < end and (batch := reader.poll(min(READ, end - at), 0.0)) is not None:
                self._check()
                offsets = np.arange(batch.base_offset, batch.next_offset, dtype=np.int64)
                seen = window.mark(np.array([record.id_hash for record in batch.records], np.uint64), offsets)
                for record, repeated in zip(batch.records, seen.tolist(), strict=True):
                    if record.kind == Kind.EVENT and not repeated and record.received_ms >= since_ms:
                        history.add(record.payload)
                at = batch.next_offset

    def _decisions(self, since_ms: int) -> Iterator[Decision]:
        cursor: str | None = None
        for _ in range(MOST_PAGES):
            page = self._store.list_decisions(limit=MAX_PAGE, cursor=cursor)
            yield from page.items
            cursor = page.next_cursor
            if cursor is None or page.items[-1].event_time_ms < since_ms - DAY_MS:
                return

    def _feedback(self) -> Iterator[Feedback]:
        cursor: str | None = None
        for _ in range(MOST_PAGES):
            page = self._store.list_feedback(limit=MAX_PAGE, cursor=cursor)
            yield from (one for one in page.items if one.status not in ("revoking", "revoked"))
            cursor = page.next_cursor
            if cursor is None:
                return
