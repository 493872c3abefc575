"""The end of an erasure on a broker that removes old records: the name is kept out of all that reads the topic, until
the topic has let go of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from trustwatch.api.composition import load_erased_filter
from trustwatch.ingest.kafka import open_reader
from trustwatch.ingest.topics.topic_history import topic_event_lines

from ...support.distributed_testbed import attacked_event, post_json, wait, write_events

if TYPE_CHECKING:
    from scripts.service_stack import KafkaCluster

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

NAME, OTHER = "agent-that-is-erased", "agent-that-stays"
SOON = {"retention.ms": "3000", "segment.ms": "1000"}


@pytest.fixture
def forgetful(tmp_path: Path) -> Iterator[KafkaCluster]:
    """A broker that looks for old records twice a second, in place of every five minutes."""
    from scripts.service_stack import KafkaCluster

    made = KafkaCluster(tmp_path / "kafka", bound=True)
    try:
        made.start()
        with (tmp_path / "kafka" / "node-1" / "server.properties").open("a") as properties:
            properties.write("log.retention.check.interval.ms=500\n")
        made.restart()
        yield made
    finally:
        made.remove()


def configure(rig: Any, configs: dict[str, str]) -> None:
    """What an operator does with kafka-configs.sh."""
    from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

    entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in configs.items()]
    topic = ConfigResource(ResourceType.TOPIC, rig.kafka_settings.topic_names.events, incremental_configs=entries)
    client = AdminClient({"bootstrap.servers": ",".join(rig.kafka_settings.bootstrap_servers)})
    for done in client.incremental_alter_configs([topic]).values():
        done.result(20)


def read(rig: Any) -> list[dict[str, Any]]:
    """What training, a back-test or a notebook reads of the topic now."""
    topic = rig.kafka_settings.topic_names.events
    reader = open_reader(rig.kafka_settings, (topic,))
    try:
        lines = topic_event_lines(reader, topic, lambda *_: True, lambda: None, load_erased_filter(rig.settings, topic))
        return [json.loads(line) for line in lines]
    finally:
        reader.close()


def test_the_name_goes_once_the_topic_has_let_go_of_it(
    make_rig: Any, forgetful: KafkaCluster, serve: Any, world: Any
) -> None:
    """Erased with a proof while its records are there; kept out of what reads them; gone with them, and not before."""
    pytest.importorskip("confluent_kafka")
    rig = make_rig(forgetful)
    first = serve(rig, "")
    wait(first.is_ready, 90.0)
    second = serve(rig, "--workers-only")
    event = attacked_event(world)

    def acts(name: str, number: int) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat()
        return {**event, "agent": {**event["agent"], "id": name}, "id": f"{name}-{number}", "time": now}

    write_events(rig, [acts(name, number) for name in (NAME, OTHER) for number in range(5)])
    rig.settle()
    wish = {"agent": NAME, "tenant": event["tenant"], "issuer": event["agent"]["issuer"], "reason": "retired"}
    made = post_json(first, "/v1/privacy/erasures", wish)
    assert made.status_code == 202, made.text
    where = f"/v1/privacy/erasures/{made.json()['erasure_id']}"
    told = wait(lambda: (found := first.get(where).json())["status"] in ("done", "failed") and found, 90.0)
    assert told["status"] == "done" and told["subject"] is None and told["proof"]

    assert any(NAME.encode() in (raw.value or b"") for raw in rig.records("events")["events"])
    assert {one["agent"]["id"] for one in read(rig)} == {OTHER}
    (kept,) = rig.store.erasures.erased_in_topic()
    assert kept.subject.name == NAME

    configure(rig, SOON)
    wait(lambda: not any(NAME.encode() in (raw.value or b"") for raw in rig.records("events")["events"]), 60.0)
    wait(lambda: past(rig, kept.up_to), 60.0, "the topic is past the order")
    configure(rig, {"retention.ms": str(7 * 86_400_000)})
    assert rig.store.erasures.erased_in_topic() == [kept]  # looked at every hour, and by who takes over
    wait(second.is_ready, 90.0)
    assert first.stop() == 0
    wait(lambda: rig.store.erasures.erased_in_topic() == [], 90.0, "the name is gone")
    rows = rig.store.erasures.page().items
    assert [(one.status, one.subject, bool(one.proof)) for one in rows] == [("done", "", True)]
    assert rig.store.metadata.find("forget.") == {}
    write_events(rig, [acts(NAME, 9)])
    rig.settle()
    assert NAME in {one["agent"]["id"] for one in read(rig)}  # somebody new: nobody is left out any more
    assert second.stop() == 0
    assert "Traceback" not in first.log() + second.log()


def past(rig: Any, up_to: Any) -> bool:
    """Whether the topic has no record from before the order any more, nor the order."""
    topic = rig.kafka_settings.topic_names.events
    reader = open_reader(rig.kafka_settings, (topic,))
    try:
        first = reader.first_offsets()
    finally:
        reader.close()
    return all(first[topic, partition] > offset for partition, offset in up_to.items())
