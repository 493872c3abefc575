"""The list of the erased where the events topic is read by hand: found, asked for, or gone without in so many words."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from trustwatch.api.composition import load_erased_filter
from trustwatch.api.settings.root import Settings
from trustwatch.api.settings.service_settings import PrivacySettings
from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.record_erasure import ErasureSubject
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.scoring.records.commits import Commit, Position
from trustwatch.scoring.records.erasures import PartitionErasure
from trustwatch.scoring.store.sql_store import open_store, sqlite_url

TOPIC = "trustwatch.events"
RECORD = Record(
    RecordKind.EVENT,
    7,
    1,
    b'{"tenant":"acme","agent":{"id":"bot","issuer":"https://as"},"id":"e","time":"2025-11-24T00:00:00Z"}',
)


def settings(folder: Path, **privacy: Any) -> Settings:
    return Settings(data_dir=folder / "data", privacy=PrivacySettings(**privacy))


def test_without_a_database_our_topic_is_not_read(tmp_path: Path) -> None:
    """Nobody sees the erased without having said so; of others' topics there is no list."""
    with pytest.raises(ConfigError, match=r"store\.url.*privacy\.read_unlisted"):
        load_erased_filter(settings(tmp_path), TOPIC)
    with capture_logs() as lines:
        assert load_erased_filter(settings(tmp_path), "other").filter_record(0, 0, RECORD) is RECORD
    assert lines == []


def test_going_without_is_said_aloud(tmp_path: Path) -> None:
    with capture_logs() as lines:
        unread = load_erased_filter(settings(tmp_path, read_unlisted=True), TOPIC)

    assert unread.filter_record(0, 0, RECORD) is RECORD
    assert [(line["log_level"], line["topic"]) for line in lines] == [("warning", TOPIC)]


def test_a_service_on_a_file_has_the_list_there(tmp_path: Path) -> None:
    """One process with brokers and no shared database erases, too."""
    given = settings(tmp_path, read_unlisted=True)
    given.data_dir.mkdir()
    with closing(open_store(sqlite_url(given.data_dir / "trustwatch.db"))) as store:
        at = store.partitions.claim(0)
        met = PartitionErasure("E1", ErasureSubject("agent", "acme", "https://as", "bot", "erased~1"), 5, 500, True)
        store.commit(Commit(at, Position(0, at.epoch, 6), [], [], [], [], erasures=[met]))
    unread = load_erased_filter(given, TOPIC)

    assert unread.filter_record(0, 4, RECORD).kind == RecordKind.ERASED
    assert unread.filter_record(0, 6, RECORD) is RECORD
