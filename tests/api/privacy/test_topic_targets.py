"""What a proof says of topics, what ends the subject on the risk topic, and archives that lie on other machines."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from trustwatch.api.privacy.embedded_targets import REGISTERED_WITHIN_MS, LocalArchives
from trustwatch.api.privacy.topic_targets import find_corrections, gone_by_ms, summarise_topics
from trustwatch.ingest.archive.archive_files import write_positions
from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.record_erasure import ErasureSubject
from trustwatch.ingest.record_keys import agent_partition_key
from trustwatch.ingest.topics.protocols import TOPIC_DEFINITIONS, FetchedRecords, TopicDescription, TopicNames
from trustwatch.ingest.topics.record_codec import TopicRecord
from trustwatch.scoring.pipeline.topic_publisher import ERASED_UP_TO_HEADER
from trustwatch.scoring.records.agents import RiskRecord
from trustwatch.scoring.records.erasures import Erasure
from trustwatch.scoring.store.sql_store import SqlStore, open_store, sqlite_url

AS, DAY = "https://as", 86_400_000
BOT = ErasureSubject("agent", "acme", AS, "bot", "erased~1")
MADE = Erasure("E1", "agent", "waiting", "acme", AS, "bot", "", "", "why", "who", 1, at_ms=1000)


def topic(**configs: str) -> TopicDescription:
    return TopicDescription("t", 4, 1, {name.replace("_", "."): value for name, value in configs.items()})


def test_how_long_records_stay() -> None:
    """A file of the log goes when its newest record is old; compaction has three waits; never is said as such."""
    deleted = topic(cleanup_policy="delete", retention_ms=str(7 * DAY), segment_ms=str(DAY))
    assert gone_by_ms(deleted, 0) == 8 * DAY + 900_000
    assert gone_by_ms(topic(cleanup_policy="delete", retention_ms="-1"), 0) is None
    compacted = {"cleanup_policy": "compact", "segment_ms": "1000", "delete_retention_ms": "2000"}
    assert gone_by_ms(topic(**compacted, max_compaction_lag_ms="4000"), 5) == 7005 + 900_000
    assert gone_by_ms(topic(**compacted, max_compaction_lag_ms=str(2**63 - 1)), 5) is None


def test_a_topic_that_may_not_be_described_is_said_to_be_unknown() -> None:
    """The proof does not guess."""

    class Refusing:
        def describe(self, name: str) -> TopicDescription:
            raise ConfigError("not authorised")

    told = summarise_topics(Refusing(), TopicNames(), 0)  # type: ignore[arg-type]
    assert [one["topic"] for one in told] == [one.name(TopicNames()) for one in TOPIC_DEFINITIONS]
    assert {one["gone_by"] for one in told} == {None}


def risk(agent: str, offset: int, told: str = "", tenant: str = "acme") -> TopicRecord:
    reasons = msgspec.Raw(msgspec.json.encode([{"text": told}]))
    record = RiskRecord(
        *(tenant, AS, agent, "1", "X", "low", 0.1, 0.1, 0.1, 1, 1, 1, 0, 1, "D", reasons, told, 2, 1, offset),
        indicators=reasons,
    )
    return TopicRecord(0, 1, agent_partition_key(tenant, AS, agent), msgspec.json.encode(record), [])


class Reader:
    """A `TopicReader` of given records of partition 2."""

    def __init__(self, *records: TopicRecord) -> None:
        self._parts = [FetchedRecords("risk", 2, [one]) for one in records]

    def at_end(self) -> bool:
        return not self._parts

    def poll(self, timeout_s: float) -> list[FetchedRecords]:
        return [self._parts.pop(0)]


def test_what_ends_the_subject_on_the_risk_topic() -> None:
    """Its own old record gets a tombstone, another's loses the name; what is new, another tenant's or ended, stays."""
    beat = TopicRecord(0, 1, b'{"partition":2}', b'{"bot": 1}', [])
    own, others = risk("bot", 3), (risk("other", 4, "calls bot"), risk("joe", 4, "calls robot"))
    found = find_corrections(Reader(beat, own, *others, risk("x", 4, "bot", "globex")), BOT, {2: 9})  # type: ignore[arg-type]
    assert (found[0].key, found[0].value, found[0].headers) == (BOT.partition_key, None, [(ERASED_UP_TO_HEADER, b"9")])
    assert msgspec.json.decode(found[1].value or b"", type=RiskRecord).counterfactual == "calls erased~1"
    assert (len(found), found[1].partition) == (2, 2)
    assert b'"bot"' not in (found[1].value or b"")
    assert find_corrections(Reader(risk("bot", 10), risk("other", 10, "calls bot")), BOT, {2: 9}) == []  # type: ignore[arg-type]
    ended = risk("bot", 3)._replace(value=None)
    assert find_corrections(Reader(risk("bot", 3), ended), BOT, {2: 9}) == []  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    made = open_store(sqlite_url(tmp_path / "store.db"))
    yield made
    made.close()


def archives(store: SqlStore, folder: Path, host: str, **more: Any) -> LocalArchives:
    given = {"latest_report": lambda: None, "kept_ms": 10 * REGISTERED_WITHIN_MS} | more
    folders = given.pop("folders", {"events": folder / "archive"})
    return LocalArchives(store, folders, "t.events", folder / "spool", host, **given)


def test_an_erasure_waits_for_archives_that_are_there(store: SqlStore, tmp_path: Path) -> None:
    """Not before it is past the order; an archive that is away is named, and one that is away for good is not."""
    pytest.importorskip("pyarrow")
    here, there = archives(store, tmp_path / "a", "here"), archives(store, tmp_path / "b", "there")
    here.register(0)
    there.register(REGISTERED_WITHIN_MS)
    now = REGISTERED_WITHIN_MS + 1
    standing = here.erasure_progress(MADE, now)
    assert [one.host for one in standing.awaited.values()] == ["there"]
    assert [one.host for one in standing.missing.values()] == ["here"]

    asyncio.run(there.erase(MADE, {0: 5, 1: 7}))
    assert there.erasure_progress(MADE, now).awaited
    write_positions(tmp_path / "b" / "archive", "t.events", {0: 6, 1: 8})
    asyncio.run(there.erase(MADE, {0: 5, 1: 7}))
    standing = here.erasure_progress(MADE, now)
    assert (standing.awaited, [one.host for one, _ in standing.done.values()]) == ({}, ["there"])
    again = msgspec.structs.replace(MADE, at_ms=2000)
    assert here.erasure_progress(again, now).awaited  # ordered once more: an earlier answer does not count
    assert here.erasure_progress(MADE, 11 * REGISTERED_WITHIN_MS).missing == {}


def test_each_spool_of_a_shared_folder_is_waited_for(store: SqlStore, tmp_path: Path) -> None:
    """A worker with nothing on its way does not answer for another one, whose vectors would come in afterwards."""
    pytest.importorskip("pyarrow")
    folders, walked = {"vectors": tmp_path / "shared"}, []
    reports: list[object] = [object()]

    def worker(host: str) -> LocalArchives:
        (tmp_path / host / "spool").mkdir(parents=True)
        made: Any = archives(store, tmp_path / host, host, folders=folders, latest_report=lambda: reports[-1])
        walk = made._try_erase
        made._try_erase = lambda *given: (walked.append(host), walk(*given))[1]
        made.register(0)
        return made

    idle, busy = worker("idle"), worker("busy")
    waiting = tmp_path / "busy" / "spool" / "7.frames"
    waiting.write_bytes(b"frames")
    for _ in range(4):
        reports.append(object())
        for one in (idle, busy):
            asyncio.run(one.erase(MADE, {0: 5}))
    standing = idle.erasure_progress(MADE, 0)
    assert [one.host for one, _ in standing.done.values()] == ["idle"]
    assert [one.host for one in standing.awaited.values()] == ["busy"]

    waiting.unlink()  # it is in the folder now
    asyncio.run(busy.erase(MADE, {0: 5}))
    assert idle.erasure_progress(MADE, 0).awaited == {}
    assert walked == ["idle", "busy"]
    assert idle.other_archives(0) == []  # the same folder
    other = archives(store, tmp_path / "c", "other")
    other.register(0)
    assert [one.host for one in idle.other_archives(0)] == ["other"]
    assert {one.kind for one in other.other_archives(0)} == {"vectors"}
    assert idle.other_archives(11 * REGISTERED_WITHIN_MS) == []  # its files are too old to be there
    restarted = archives(store, tmp_path / "idle", "again", folders=folders)
    restarted.register(0)
    assert idle._ids == restarted._ids


def test_vectors_are_waited_for_until_the_worker_has_reported_twice(store: SqlStore, tmp_path: Path) -> None:
    """What it computed before the order may be on its way into the spool, and then has to be in files."""
    pytest.importorskip("pyarrow")
    spool, reports = tmp_path / "spool", [object()]
    spool.mkdir()
    local = archives(
        store, tmp_path, "here", folders={"vectors": tmp_path / "vectors"}, latest_report=lambda: reports[-1]
    )
    local.register(0)

    def done() -> bool:
        asyncio.run(local.erase(MADE, {0: 5}))
        return bool(local.erasure_progress(MADE, 0).done)

    assert [done(), done()] == [False, False]
    for _ in range(2):
        assert not done()
        reports.append(object())
        (spool / "7.frames").write_bytes(b"frames")
    assert not done()
    (spool / "7.frames").unlink()
    (spool / "8.open").write_bytes(b"of later events")
    assert done()
