"""What a new version is trained on: every event once, while the archive goes on."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest

from trustwatch.api import clock
from trustwatch.api.child_process import StopRequested
from trustwatch.api.models import first_training, training_scheduler
from trustwatch.api.settings.root import Settings
from trustwatch.api.settings.service_settings import ArchiveSettings, LifecycleSettings
from trustwatch.ingest.archive.archive_reader import raw_lines
from trustwatch.ingest.archive.event_archive import EventArchive, EventToArchive
from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.errors import ConfigError, Fenced, ModelError
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.record_keys import raw_id_hash
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.scoring.learning.training import TrainingHistory
from trustwatch.scoring.pipeline.model_switch import ModelChoice
from trustwatch.scoring.records.models import ModelHistoryEntry, ModelSwitch, ModelVersion
from trustwatch.scoring.store.sql_store import open_store, sqlite_url

EVENTS = 40


def decoded(stored: str | None) -> first_training.TrainingState:
    return msgspec.json.decode(stored or "", type=first_training.TrainingState)


def encoded(state: first_training.TrainingState) -> str:
    return msgspec.json.encode(state).decode()


def event(number: int, start_ms: int) -> EventToArchive:
    at = datetime.fromtimestamp(start_ms / 1000 + number, UTC)
    made = {
        "id": f"e-{number}",
        "time": at.isoformat(),
        "type": "api.call",
        "action": "read",
        "outcome": "success",
        "agent": {"id": "one"},
    }
    raw = json.dumps(made).encode()
    return EventToArchive(number, start_ms, decode_event(raw), raw)


@pytest.mark.parametrize("when", ["after the position was read", "while rows are read"])
def test_what_is_archived_meanwhile_is_learned_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """Neither left out nor twice: it comes from the log."""
    start_ms = clock.now_ms() // 1000 * 1000 - 3_600_000
    events = [event(number, start_ms) for number in range(EVENTS)]
    with EventLog(tmp_path / "log") as log:
        log.append([Record(RecordKind.EVENT, raw_id_hash(one.raw), one.received_ms, one.raw) for one in events])
        log.sync()
    settings = Settings(data_dir=tmp_path, archive=ArchiveSettings(directory=tmp_path / "archive"))
    with closing(EventArchive(tmp_path / "archive")) as archive:
        archive.start()
        archive.write(0, 20, events[:20])
        grown = []

        def grow() -> None:
            if not grown:
                grown.append(archive.write(20, 30, events[20:30]))

        of, name = (training_scheduler, "read_positions") if when.startswith("after") else (TrainingHistory, "add")
        original: Any = getattr(of, name)

        def growing(*args: Any) -> Any:
            found = original(*args)
            grow()
            return found

        monkeypatch.setattr(of, name, growing)
        history = TrainingHistory(ColumnEncoder(bytes(16)), 1_000)
        learned = training_scheduler.read_training_data(settings, history, start_ms - 1_000, lambda: None)
    assert learned == ("archive and log", {0: (20, EVENTS)})
    columns = history.columns()
    assert grown and columns is not None
    assert columns.time_ms.tolist() == [start_ms + 1000 * number for number in range(EVENTS)]


def test_what_is_old_by_its_own_word_is_learned_from_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """History that was sent afterwards arrived today: it counts. What arrived too long ago does not, and its files are
    not read; the keeper is asked meanwhile whether it is to go on."""
    now_ms, long_ago = clock.now_ms(), 1_704_000_000_000
    rows = [event(number, long_ago)._replace(received_ms=now_ms - 86_400_000) for number in range(EVENTS)]
    rows[:10] = [row._replace(received_ms=now_ms - 10 * 86_400_000) for row in rows[:10]]
    with EventLog(tmp_path / "log") as log:
        log.append([Record(RecordKind.EVENT, raw_id_hash(one.raw), one.received_ms, one.raw) for one in rows])
        log.sync()
    settings = Settings(data_dir=tmp_path, archive=ArchiveSettings(directory=tmp_path / "archive"))
    asked: list[int] = []
    with closing(EventArchive(tmp_path / "archive")) as archive:
        archive.start()
        archive.write(0, 10, rows[:10])
        archive.write(10, EVENTS, rows[10:])
    history = TrainingHistory(ColumnEncoder(bytes(16)), 1_000)
    learned = training_scheduler.read_training_data(settings, history, now_ms - 7 * 86_400_000, lambda: asked.append(1))
    columns = history.columns()
    assert learned == ("archive and log", {0: (EVENTS, EVENTS)})
    assert columns is not None and asked
    assert columns.time_ms.tolist() == [long_ago + 1000 * number for number in range(10, EVENTS)]
    since = datetime.fromtimestamp((now_ms - 7 * 86_400_000) / 1000, UTC)
    read, iter_batches = list[list[int]](), pq.ParquetFile.iter_batches

    def note(file: pq.ParquetFile, size: int, row_groups: list[int], **more: Any) -> Any:
        read.append(row_groups)
        return iter_batches(file, size, row_groups, **more)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", note)
    assert len(list(raw_lines(tmp_path / "archive", arrived=since))) == EVENTS - 10
    assert read == [[], [0]]  # no part of the older file


class Ending:
    """An origin that notes what the keeper had written when it began to read, and then ends somehow.

    Args:
        store: where that stands.
        end: what it raises.
    """

    def __init__(self, store: Any, end: BaseException) -> None:
        self.store, self.end, self.noted = store, end, []  # type: ignore[var-annotated]

    def __call__(self, *_: Any) -> Any:
        self.noted.append(decoded(self.store.metadata.get(first_training.TRAINING_STATE_KEY)))
        raise self.end


class WishedTraining:
    """A store with a wish in it, and a teacher."""

    def __init__(self, folder: Path, end: BaseException) -> None:
        self.store = open_store(sqlite_url(folder / "store.db"))
        self.origin = Ending(self.store, end)
        settings = Settings(data_dir=folder, lifecycle=LifecycleSettings(every_h=0))
        shelf: Any = SimpleNamespace(
            installed_model=lambda: SimpleNamespace(version="first"), learns=lambda *_: False, remove=lambda _: None
        )
        self.teacher = training_scheduler.TrainingScheduler(settings, self.store, shelf, self.origin, lambda: None)

    def wish(self, name: str) -> None:
        text = json.dumps({"id": name, "by": "ann", "why": f"because of {name}", "at_ms": 1})
        self.store.metadata.put(first_training.TRAINING_REQUEST_KEY, text)

    def due(self) -> first_training.TrainingState | None:
        return self.teacher.next_training(ModelChoice("first", "digest", False))

    def teach(self, work: first_training.TrainingState | None) -> None:
        assert work is not None
        self.teacher.run_training(work, SimpleNamespace(salt=bytes(16), version="first"))  # type: ignore[arg-type]

    def acts(self) -> list[tuple[str, str]]:
        return [(one.act, one.version) for one in self.store.models.history().items]


def test_a_wish_outlives_the_keeper(tmp_path: Path) -> None:
    """It is there while it is carried out, and after an end in the middle, under the same name."""
    desk = WishedTraining(tmp_path, StopRequested())
    assert desk.due() is None
    desk.wish("one")
    work = desk.due()
    with pytest.raises(StopRequested):
        desk.teach(work)
    assert desk.origin.noted[0].tries == 1 and not desk.origin.noted[0].ended
    assert desk.due() == work  # told to end: that was no try
    desk.store.metadata.put(
        first_training.TRAINING_STATE_KEY, encoded(desk.origin.noted[0])
    )  # killed: nobody took it back
    again = desk.due()
    assert again == desk.origin.noted[0] and again.version == work.version  # type: ignore[union-attr]


def test_what_kills_the_keeper_is_given_up(tmp_path: Path) -> None:
    """Said in the history; another wish is another try."""
    desk = WishedTraining(tmp_path, StopRequested())
    desk.wish("one")
    for _ in range(training_scheduler.MAX_ATTEMPTS):
        with pytest.raises(StopRequested):
            desk.teach(desk.due())
        desk.store.metadata.put(first_training.TRAINING_STATE_KEY, encoded(desk.origin.noted[-1]))
    desk.teach(desk.due())
    assert [act for act, _ in desk.acts()] == ["failed"]
    assert "died 3 times" in desk.store.models.history().items[0].why
    assert desk.due() is None
    desk.wish("two")
    found = desk.due()
    assert found is not None and found.why == "because of two" and found.tries == 0


def test_what_fails_is_not_tried_again_but_a_later_wish_is(tmp_path: Path) -> None:
    """Also one that came while it was carried out: it may have been given because of what came since."""
    desk = WishedTraining(tmp_path, ConfigError("no archive"))
    desk.wish("one")
    work = desk.due()
    desk.wish("two")
    desk.teach(work)
    assert work is not None and desk.acts() == [("failed", work.version)]
    found = desk.due()
    assert found is not None and found.why == "because of two"
    desk.teach(found)
    assert desk.due() is None


def test_what_is_registered_is_not_trained_again(tmp_path: Path) -> None:
    """The keeper died behind it: what follows from it is made good, the challenger before it makes way."""
    desk = WishedTraining(tmp_path, AssertionError("it reads history"))
    desk.wish("one")
    work = desk.due()
    assert work is not None
    for at, version in enumerate(("before", work.version)):
        made = ModelVersion(version, "challenger", version, 0, 1, at, counted_from=1)
        desk.store.models.add(made, ModelHistoryEntry(version, at, version, "trained", "ann", ""))
    desk.store.metadata.put(first_training.TRAINING_STATE_KEY, encoded(msgspec.structs.replace(work, tries=1)))
    desk.teach(desk.due())
    assert desk.due() is None
    states = {one.version: one.status for one in desk.store.models.page().items}
    assert states == {"before": "rejected", work.version: "challenger"}


def test_an_error_of_ours_is_a_try_and_ends_in_the_history(tmp_path: Path) -> None:
    """What nobody expected ends the keeper each time, and is not tried for ever."""
    desk = WishedTraining(tmp_path, ModelError("no such thing"))
    desk.wish("one")
    for tries in range(1, training_scheduler.MAX_ATTEMPTS + 1):
        with pytest.raises(ModelError):
            desk.teach(desk.due())
        assert desk.due().tries == tries  # type: ignore[union-attr]
    desk.teach(desk.due())
    assert [act for act, _ in desk.acts()] == ["failed"]


def test_who_lost_the_seat_writes_nothing(tmp_path: Path) -> None:
    """The next keeper's note of the same work stays."""
    desk = WishedTraining(tmp_path, Fenced("another keeper"))
    desk.wish("one")
    work = desk.due()
    with pytest.raises(Fenced):
        desk.teach(work)
    assert decoded(desk.store.metadata.get(first_training.TRAINING_STATE_KEY)) == desk.origin.noted[0]


def test_versions_of_every_partition_and_the_one_before_stay() -> None:
    """Two partitions met the newest switch, a third has not yet: roll-back and that one still need theirs."""
    rows = [(0, "new"), (1, "new"), (0, "old"), (1, "old"), (2, "older"), (0, "first")]
    switches = [ModelSwitch(partition, 1, 10 - at, name, "", "", 10 - at) for at, (partition, name) in enumerate(rows)]
    assert training_scheduler.versions_in_use(switches) == {"new", "old", "older"}
    assert training_scheduler.versions_in_use([]) == set()


def test_a_training_that_was_stored_before_goes_on() -> None:
    """The request keeps its stored name."""
    stored = decoded('{"wish": "train now", "version": "v", "tries": 1, "ended": false}')
    assert (stored.request, stored.version, stored.tries, stored.ended) == ("train now", "v", 1, False)
    assert msgspec.to_builtins(stored)["wish"] == "train now"
