"""URLs of topics on the command line."""

from __future__ import annotations

import pytest

from trustwatch.api.cli.topic_input import are_ours, parse_topic_url
from trustwatch.api.settings.access_settings import KafkaSettings
from trustwatch.api.settings.root import Settings
from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.ingest.topics.record_codec import TopicRecord, headers_for

CONFIGURED = Settings(kafka=KafkaSettings(bootstrap_servers=("one:9092",)))


def test_what_is_not_said_comes_from_the_settings() -> None:
    topic = parse_topic_url("kafka:", CONFIGURED)
    assert topic.broker_settings.bootstrap_servers == ("one:9092",)
    assert (topic.name, topic.offsets) == ("trustwatch.events", None)
    topic = parse_topic_url("kafka://a:1,b:2/other.topic?offsets=0:5-7,12:3-", Settings())
    assert (topic.broker_settings.bootstrap_servers, topic.name) == (("a:1", "b:2"), "other.topic")
    held = {(partition, offset) for partition in (0, 1, 12) for offset in range(9) if topic.contains(partition, offset)}
    assert held == {(0, 5), (0, 6), *((12, offset) for offset in range(3, 9))}


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("kafka:", "names no brokers"),
        ("kafka://a:1/t?from=3", "must be kafka://"),
        ("kafka://a:1/t?offsets=1-2", "offsets must be"),
        ("kafka://a:1/t?offsets=", "offsets must be"),
        ("kafka+x://a:1/t", "must be kafka://"),
    ],
)
def test_what_is_meant_wrongly_is_told(named: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse_topic_url(named, Settings())


def test_a_forged_record_does_not_make_a_topic_ours() -> None:
    written = TopicRecord(0, 1_000, None, b"{}", ())
    forged = written._replace(headers=headers_for(Record(RecordKind.EVENT, 1, 1_000, b"{}")))
    assert not are_ours([])
    assert not are_ours([forged, *[written] * 9])
    assert not are_ours([forged, written])
    assert are_ours([forged] * 9 + [written])
