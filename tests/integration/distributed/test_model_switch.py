"""A switch of models on Kafka: every partition meets the command at its own offset, whoever works on it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from trustwatch.api.models.service import write_to_each_partition
from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.kafka import open_writer
from trustwatch.ingest.log.group_commit import GroupCommit
from trustwatch.ingest.topics.topic_commit_log import TopicCommitLog
from trustwatch.models.detector import DetectorSettings
from trustwatch.models.model_directory import read_manifest
from trustwatch.models.model_persistence import load_trained_model as load_model
from trustwatch.models.model_persistence import save_trained_model
from trustwatch.models.model_training import train_model
from trustwatch.scoring.records.models import SwitchModel, encode_model_switch

from ...support.distributed_testbed import PARTITIONS

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def announce(rig: Any, version: str) -> None:
    """What the desk of models does with an order."""
    place = rig.settings.data_dir / "models" / version
    command = encode_model_switch(SwitchModel(version, read_manifest(place)[1], "test", "to see"))
    writer = open_writer(rig.kafka_settings)

    async def tell() -> None:
        log = GroupCommit(TopicCommitLog(writer, rig.kafka_settings.topic_names.events))
        await write_to_each_partition(log, lambda: time.time_ns() // 1_000_000, command)
        await log.close()

    try:
        asyncio.run(tell())
    finally:
        writer.close()


def test_workers_that_are_killed_agree_with_an_undisturbed_one(rig: Any, load: Any, world: Any) -> None:
    """There and back again, with a kill -9 after each command; decisions name the version of their offset."""
    salt = load_model(world.model).salt
    columns = ColumnEncoder(salt, rig.settings.domains()).encode([decode_event(raw) for raw in world.day])
    settings = DetectorSettings(seed=9, trees=20, folds=3)
    save_trained_model(
        rig.settings.data_dir / "models" / "two", train_model(columns, salt, "two", settings), settings, 9, 0
    )
    producer = load(rig)
    worker = rig.worker()
    worker.working(PARTITIONS)
    for version in ("two", "integration"):
        producer.reached(400)
        announce(rig, version)
        producer.reached(100)
        worker.kill()
        worker = rig.worker()
        worker.working(PARTITIONS)
    producer.reached(400)
    sent = producer.end()
    rig.settle()
    state = rig.check_end(sent)

    switches = sorted((one.partition, one.epoch, one.offset, one.version) for one in rig.store.models.list_switches())
    for partition in range(PARTITIONS):
        mine = [version for number, *_, version in switches if number == partition]
        assert mine == ["integration", "two", "integration"]
    assert {decision.model_version for decision in state.decisions.values()} == {"integration", "two"}
    for decision in state.decisions.values():
        before = [one for one in switches if one[0] == decision.partition and one[2] <= decision.offset]
        assert decision.model_version == before[-1][3]
