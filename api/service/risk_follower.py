"""Reads the risk topic for an API replica: `python -m trustwatch.api.service.risk_follower`, started by the service.

A separate process, so that decoding the records of a thousand workers never delays an answer.
"""

from __future__ import annotations

import gc
from contextlib import closing, suppress

from trustwatch.ingest.errors import Unavailable
from trustwatch.scoring.pipeline.risk_topic_reader import RiskTopicReader

from .. import clock
from ..brokers import open_reader, open_writer
from ..child_process import ChildRuntime, run_child
from ..composition import open_service_identities

POLL_S = 0.05
REPORT_EVERY_S = 0.5


def follow_risk(child: ChildRuntime) -> None:
    """Read risk from the beginning of its topic, and decisions from now on, until asked to stop or the service ends."""
    brokers, topics = child.settings.brokers, child.settings.brokers.topic_names
    with closing(open_writer(brokers)) as writer:
        partitions = writer.partitions(topics.events)
    risk = RiskTopicReader(partitions, open_service_identities(child.settings))
    caught_up, reported_at = False, 0.0
    gc.freeze()
    # Old changes of level are not news, and there may be a month of them; answers need risk only.
    with closing(open_reader(brokers, (topics.risk, topics.decisions), start={topics.decisions: "latest"})) as reader:
        while not child.should_stop:
            fetched = reader.poll(POLL_S)
            for part in fetched:
                for record in part.records:
                    if part.topic == topics.risk:
                        risk.read_risk(record.key, record.value, record.headers, part.partition)
                    else:
                        risk.read_decision(record.value)
            if not caught_up:
                with suppress(Unavailable):
                    caught_up = reader.at_end()
            now = clock.monotonic()
            if fetched or now - reported_at >= REPORT_EVERY_S:
                reported_at = now
                for update in risk.drain_updates(with_freshness=caught_up):
                    child.sender.send(update)


if __name__ == "__main__":
    raise SystemExit(run_child(follow_risk))
