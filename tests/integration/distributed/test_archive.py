"""The archive of the events topic, and of vectors that workers computed: every event once, whatever is killed."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from typing import Any

import httpx2
import pytest

from trustwatch.ingest.archive.archive_files import read_positions
from trustwatch.ingest.archive.archive_reader import archive_dataset, raw_lines

from ...support.distributed_testbed import PARTITIONS, archive_reaches, wait
from ...support.service_checks import child_pid

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

ARCHIVE = "archive: {directory: archive, vectors: vectors, interval_s: 0.3}\n"


def test_every_event_once_though_the_archiver_is_killed(make_rig: Any, kafka: Any, load: Any, serve: Any) -> None:
    """kill -9 of the archiver under load, again and again; batches are sent twice. Vectors are those of the worker."""
    rig = make_rig(kafka, more=ARCHIVE)
    folder = rig.folder / "archive"
    producer = load(rig, rate=600, twice=0.1, keep=True)
    worker, archiver = serve(rig, "--workers-only"), serve(rig, "--archiver-only")
    archiver.wait(archiver.is_ready)
    known = None
    for _ in range(2):
        known = archiver.wait(
            lambda: (found := child_pid(archiver.process.pid, "api.archive.worker")) != known and found,  # noqa: B023
            60.0,
        )
        before = dict(read_positions(folder) or {}) if (folder / "_position.json").exists() else {}
        producer.reached(300)
        archiver.wait(lambda: (read_positions(folder) or {}) != before, 60.0)  # noqa: B023
        os.kill(known, signal.SIGKILL)
    producer.reached(500)
    producer.end()
    assert producer.again
    rig.settle()
    ends = rig.ends()
    archiver.wait(lambda: archive_reaches(folder, ends), 60.0)
    assert set(ends) == set(range(PARTITIONS))
    assert "\ntrustwatch_archive_lag_seconds " in httpx2.get(f"{archiver.url}/metrics").text
    assert archiver.stop() == 0 and worker.stop() == 0
    wanted = Counter(json.loads(record.payload)["id"] for record in producer.records)
    archived = [json.loads(line)["id"] for line in raw_lines(folder)]
    assert Counter(archived) == wanted
    events, vectors = archive_dataset(folder).to_table(), archive_dataset(rig.folder / "vectors", "vectors").to_table()
    assert places(events) == places(vectors)
    assert vectors["p_value"].null_count == 0
    assert "Traceback" not in archiver.log() + worker.log()


def places(table: Any) -> set[tuple[int, int, str]]:
    """Partition, offset and id of every row, of which none is twice."""
    rows = list(zip(*(table[name].to_pylist() for name in ("partition", "offset", "id")), strict=True))
    assert len(set(rows)) == len(rows)
    return set(rows)


def test_it_begins_where_the_topic_does(make_rig: Any, kafka: Any, load: Any, serve: Any, world: Any) -> None:
    """Records from before the archive are in it; without a place for it the role does not start. A back-test, too,
    reads all of the topic, or a range of it."""
    rig = make_rig(kafka, client="confluent")
    producer = load(rig, most=1_000)
    wait(lambda: not producer.is_alive(), 60.0, "sent")
    sent = producer.end()
    refused = serve(rig, "--archiver-only")
    assert refused.process.wait(60) == 1 and "archive.directory" in refused.log()
    archiver = serve(rig, "--archiver-only", more=ARCHIVE)
    archiver.wait(lambda: archive_reaches(rig.folder / "archive", rig.ends()), 60.0)
    assert archiver.stop() == 0
    assert len(list(raw_lines(rig.folder / "archive"))) == sum(sent.values())
    options = ("--model", str(world.model), "--jobs", "1")
    told = rig.run("backtest", "kafka:", *options)
    assert told["files"] == ["kafka:"]
    assert told["sides"][0]["events"] == sum(sent.values()) and told["sides"][0]["malformed"] == 0
    servers, topic = rig.kafka_settings.bootstrap_servers, rig.kafka_settings.topic_names.events
    part = rig.run(
        "backtest", f"kafka://{servers[0]}/{topic}?offsets=1:10-110", "--model", str(world.model), "--jobs", "1"
    )
    assert part["sides"][0]["events"] == 100
