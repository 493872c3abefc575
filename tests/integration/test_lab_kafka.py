"""The lab reads the events topic where brokers are configured: each event once, of all partitions, in order of time."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from trustwatch.ingest.kafka import open_admin, open_writer
from trustwatch.ingest.record_keys import agent_partition_key, raw_id_hash
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.ingest.topics.topic_commit_log import TopicCommitLog
from trustwatch.lab import frames, open_session

if TYPE_CHECKING:
    from scripts.service_stack import KafkaCluster

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def record(number: int) -> Record:
    """An event of one of five agents, a minute after the one before."""
    agent = f"agent-{number % 5}"
    event = {
        "id": f"e-{number}",
        "time": f"2026-01-13T{10 + number // 60}:{number % 60:02d}:00Z",
        "tenant": "acme",
        "agent": {"id": agent, "issuer": "https://as.example", "type": "Reader"},
        "type": "tool.call",
        "action": "read",
        "outcome": "success",
    }
    raw = json.dumps(event).encode()
    return Record(
        RecordKind.EVENT,
        raw_id_hash(raw),
        1_768_300_000_000 + number,
        raw,
        agent_partition_key("acme", "https://as.example", agent),
    )


def test_events_of_a_topic(kafka: KafkaCluster, tmp_path: Path) -> None:
    """A window, an agent, and nothing twice; the topic is left as it was."""
    name = uuid4().hex[:8]
    names = ", ".join(
        f"{kind}: lab.{name}.{kind}" for kind in ("events", "dead_letters", "risk", "decisions", "alerts")
    )
    settings = tmp_path / "settings.yaml"
    settings.write_text(
        f"kafka: {{bootstrap_servers: [{kafka.bootstrap}], names: {{{names}}}}}\nprivacy: {{read_unlisted: true}}\n"
    )
    session = open_session(settings)
    brokers = session.settings.kafka
    with closing(open_admin(brokers)) as admin:
        admin.create_topics(brokers.topic_names, 3, 1)
    with closing(open_writer(brokers)) as writer:
        log = TopicCommitLog(writer, brokers.topic_names.events)
        log.append([record(number) for number in range(120)] + [record(7)])
        log.sync()
    found = frames.events(session)
    assert found["id"].tolist() == [f"e-{number}" for number in range(120)]
    one = frames.events(session, "agent-3", since="2026-01-13T11:00Z", source="kafka:")
    assert set(one["agent_id"]) == {"agent-3"}
    assert len(one) == 12
    assert len(frames.events(session)) == 120
