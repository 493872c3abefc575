"""Reads the risk topic for an API replica: `python -m trustwatch.api.service.risk_follower`, started by the service.

A separate process, so that decoding the records of a thousand workers never delays an answer.
"""

from __future__ import annotations

import gc
from contextlib import closing

from trustwatch.ingest.errors import Unavailable
from trustwatch.ingest.topics.protocols import FetchedRecords, TopicReader
from trustwatch.scoring.pipeline.risk_topic_reader import RiskTopicReader

from .. import clock
from ..brokers import open_reader, open_writer
from ..child_process import ChildRuntime, run_child
from ..composition import open_service_identities

POLL_S = 0.05
TELL_EVERY_S = 0.5


class RiskTopicFollower:
    """Follows risk from the beginning of its topic and decisions from now on."""

    def __init__(self, child: ChildRuntime) -> None:
        brokers = child.settings.brokers
        self._child = child
        self._names = topics = brokers.topic_names
        with closing(open_writer(brokers)) as writer:
            partitions = writer.partitions(topics.events)
        self._risk_topic_reader = RiskTopicReader(partitions, open_service_identities(child.settings))
        # Old changes of level are not news, and there may be a month of them; answers need risk only.
        self._reader: TopicReader = open_reader(
            brokers, (topics.risk, topics.decisions), start={topics.decisions: "latest"}
        )
        self._caught_up = False
        self._reported_at = 0.0

    def run(self) -> None:
        """Read until asked to stop or the service ends."""
        gc.freeze()
        with closing(self._reader):
            while not self._child.should_stop:
                self._step()

    def _step(self) -> None:
        fetched = self._reader.poll(POLL_S)
        for part in fetched:
            self._apply(part)
        self._caught_up = self._caught_up or self._at_end()
        now = clock.monotonic()
        if fetched or now - self._reported_at >= TELL_EVERY_S:
            self._reported_at = now
            for update in self._risk_topic_reader.drain_updates(with_freshness=self._caught_up):
                self._child.sender.send(update)

    def _apply(self, part: FetchedRecords) -> None:
        if part.topic == self._names.risk:
            for record in part.records:
                self._risk_topic_reader.read_risk(record.key, record.value, record.headers, part.partition)
        else:
            for record in part.records:
                self._risk_topic_reader.read_decision(record.value)

    def _at_end(self) -> bool:
        try:
            return self._reader.at_end()
        except Unavailable:
            return False


if __name__ == "__main__":
    raise SystemExit(run_child(lambda child: RiskTopicFollower(child).run()))
