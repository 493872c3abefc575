"""A partition is lost while its commit waits for brokers: what never arrived does not count as published."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.publishing_partition import POLICY, PublishingPartition, busy_records
from trustwatch.ingest.errors import Fenced, Unavailable
from trustwatch.ingest.topics.protocols import TopicNames
from trustwatch.scoring.pipeline import partition_commits
from trustwatch.scoring.pipeline.pipeline import Pipeline
from trustwatch.scoring.pipeline.topic_publisher import TopicPublisher

RISK = TopicNames().risk


class BrokersAway:
    """A writer of topics whose brokers may be away: risk is not taken then, and nothing arrives."""

    def __init__(self) -> None:
        self.are_up = True
        self.told: set[bytes] = set()
        self.waited = threading.Event()

    def send(self, topic: str, key: bytes, value: bytes | None, **more: object) -> None:
        """Take a record."""
        if topic == RISK and not self.are_up:
            raise Unavailable("no room")
        if topic == RISK:
            self.told.add(key)

    def flush(self, timeout_s: float) -> None:
        """Wait for it."""
        if not self.are_up:
            self.waited.set()
            raise Unavailable("no broker answers")


@pytest.fixture
def site(tmp_path: Path, kit: Any, make: Any) -> Iterator[PublishingPartition]:
    made = PublishingPartition(tmp_path / "store.db", kit, busy_records(kit, make))
    made.written = 0
    yield made
    made.preloader.close()
    made.store.close()


@pytest.mark.parametrize("end", ["lost by the group", "refused by the store"])
@pytest.mark.parametrize("many_agents", [1, 5_000])
def test_its_next_owner_tells_it(
    site: PublishingPartition, kit: Any, monkeypatch: pytest.MonkeyPatch, many_agents: int, end: str
) -> None:
    """The commit thread goes on once brokers are back, when the records are forgotten already."""
    monkeypatch.setattr(partition_commits, "MANY_AGENTS", many_agents)
    monkeypatch.setattr(site, "sleep", lambda _: time.sleep(0.01))
    brokers = BrokersAway()
    publisher = TopicPublisher(brokers, site.store, TopicNames(), POLICY, "https://tw")
    context = site.context(publisher.publish_risk)._replace(publisher=publisher)
    source: Any = site  # of which no records are asked for
    group = Pipeline(source, context, lambda _: kit.processor(site.store.agents, max(20, many_agents)))
    group.assigned([0])
    site.written = 100
    work = group._partitions[0]
    brokers.are_up = False
    site.apply(work, 100)
    group._begin_commit([work], with_states=True)
    assert brokers.waited.wait(10), "it is in the database, and waits for brokers"
    if end == "lost by the group":
        group.lost([0])
    else:
        monkeypatch.setattr(site, "pause", lambda _: None, raising=False)
        group._drop_refused({0: Fenced("another worker has it")})
    brokers.are_up = True
    group.assigned([0])
    group._partitions[0].risk.publish_due(at_once=True)
    group.close()
    stored = list(site.store.agents.iterate())
    assert len(brokers.told) == len(stored) > 5
