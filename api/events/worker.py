"""The ingest process: `python -m trustwatch.api.events.worker`, started by the service for foreign topics.

A process of its own, so that taking gateways' logs apart holds up neither answers nor scoring.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

from trustwatch.ingest.topics.protocols import TopicReader

from .. import clock
from ..brokers import BrokerSettings, open_reader, open_writer
from ..child_process import ChildRuntime, run_child
from ..composition import open_service_identities, principal_alias
from ..settings.access_settings import ForeignTopicSettings
from ..settings.root import Settings
from .admission import Admission, AgentRegistry
from .foreign_topics import ForeignTopicReader, TopicIngest
from .ingest_status import encode_ingest_report

REPORT_EVERY_S = 0.5


def run_ingest_worker(child: ChildRuntime) -> None:
    """Read foreign topics until told to end; then what was read is durable and committed."""
    role = make_topic_ingest(child.settings, child)
    try:
        gc.freeze()
        role.run(lambda: child.should_stop, lambda report: child.send(encode_ingest_report(report)), REPORT_EVERY_S)
    finally:
        role.close()


def make_topic_ingest(settings: Settings, child: ChildRuntime) -> TopicIngest:
    """All foreign topics of the settings. Nothing is opened yet: what does not answer is tried again."""
    brokers = settings.brokers
    admission = Admission(
        AgentRegistry(settings.registry),
        principal_alias(settings),
        open_service_identities(settings),
        settings.scope_actions,
    )
    sources = [
        ForeignTopicReader(topic, _reader_factory(brokers, topic), admission, clock.monotonic, clock.now_ms)
        for topic in settings.brokers.topics
    ]
    return TopicIngest(
        sources, lambda: open_writer(brokers), brokers.topic_names, clock.monotonic, clock.now_ms, child.sleep
    )


def _reader_factory(brokers: BrokerSettings, topic: ForeignTopicSettings) -> Callable[[], TopicReader]:
    """A group of its own for each topic: where one is read from is no other's business."""
    return lambda: open_reader(brokers, [topic.topic], f"{brokers.group_id}.ingest.{topic.name}", topic.start)


if __name__ == "__main__":
    raise SystemExit(run_child(run_ingest_worker))
