"""What can be said and done about records in topics: nobody rewrites them, but some can be ended, and all age out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from ...ingest.erasing import ErasureSubject, NameEraser
from ...ingest.errors import ConfigError
from ...ingest.kafka import TOPIC_DEFINITIONS, KafkaAdmin, KafkaTopics, TopicDefinition, TopicDescription, TopicReader
from ...ingest.source import TopicWriter
from ...scoring.notify.alert import format_rfc3339
from ...scoring.publish import RiskRecord, erased_agent_record

POLL_S = 0.5
FLUSH_TIMEOUT_S = 20.0
BROKER_DELAY_MS = 15 * 60_000
"""Brokers look for what is too old every few minutes, and remove its file a minute later."""
FOREVER_MS = 10 * 366 * 86_400_000
"""Kafka's own words for `never` are numbers in the thousands of years."""
_WEEK_MS = 7 * 86_400_000
_risk_decoder = msgspec.json.Decoder(RiskRecord)


class TopicErasureSummary(NamedTuple):
    """What was done about a topic, and until when records of the subject may be in it.

    `gone_by_ms` is UTC milliseconds, as its settings are now; None = nothing ends it.
    """

    topic: str
    holds: str
    done: str
    gone_by_ms: int | None

    def document(self) -> dict[str, Any]:
        """As it stands in a proof."""
        gone_by = None if self.gone_by_ms is None else format_rfc3339(self.gone_by_ms)
        return {"topic": self.topic, "holds": self.holds, "done": self.done, "gone_by": gone_by}


def summarise_topics(admin: KafkaAdmin, topics: KafkaTopics, now_ms: int) -> list[TopicErasureSummary]:
    """About each of our topics. Raises Unavailable."""
    return [_summarise_topic(admin, definition, definition.name(topics), now_ms) for definition in TOPIC_DEFINITIONS]


def _summarise_topic(admin: KafkaAdmin, definition: TopicDefinition, name: str, now_ms: int) -> TopicErasureSummary:
    try:
        found = admin.describe(name)
    except ConfigError:
        found = None  # we may not ask
    gone_by = None if found is None else gone_by_ms(found, now_ms)
    return TopicErasureSummary(name, definition.holds, _ACTION_BY_ROLE[definition.role], gone_by)


_ACTION_BY_ROLE = {
    "events": "records stay until retention removes them; whatever reads the topic leaves the subject out",
    "dead_letters": "nothing: records stay until retention removes them; nothing here reads them",
    "risk": "what names the subject was ended by a record without a value, or told again without the name; compaction "
    "removes what was told before",
    "decisions": "nothing: records stay until retention removes them; only what is told from now on is read here",
    "alerts": "nothing: records stay until retention removes them; nothing here reads them",
}


def gone_by_ms(topic: TopicDescription, now_ms: int) -> int | None:
    """Latest time at which what was written before *now_ms* is in the topic, both UTC milliseconds; None = no end.

    A file of the log goes when its newest record is old enough, and takes new ones until it is `segment.ms` old.
    """
    segment = _config_number(topic.configs, "segment.ms", _WEEK_MS)
    if "delete" in topic.configs.get("cleanup.policy", "delete"):
        ahead = _config_number(topic.configs, "message.timestamp.after.max.ms", 0)
        kept = _config_number(topic.configs, "retention.ms", _WEEK_MS)
        parts = [segment, kept, 0 if ahead > FOREVER_MS else ahead]
        kept_for = -1 if kept < 0 else sum(parts)
    else:
        names = ("max.compaction.lag.ms", "delete.retention.ms")
        kept_for = segment + sum(_config_number(topic.configs, name, FOREVER_MS) for name in names)
    return None if kept_for < 0 or kept_for > FOREVER_MS else now_ms + kept_for + BROKER_DELAY_MS


def _config_number(configs: Mapping[str, str], name: str, default: int) -> int:
    try:
        return int(configs[name])
    except (KeyError, ValueError):
        return default


class RiskTopicCorrection(NamedTuple):
    """A record that puts an end to one on the risk topic which names the subject."""

    partition: int
    key: bytes
    value: bytes | None
    headers: list[tuple[str, bytes]]


def find_corrections(
    reader: TopicReader, subject: ErasureSubject, up_to: Mapping[int, int]
) -> list[RiskTopicCorrection]:
    """Read the risk topic to its end: what the last record of a key still says of the subject, and what ends it.

    What commits behind the order told is of somebody new, and stays. Raises Unavailable.
    """
    names = NameEraser(subject.name, subject.pseudonym)
    last: dict[tuple[int, bytes], bytes] = {}
    while not reader.at_end():
        for part in reader.poll(POLL_S):
            for raw in part.records:
                if raw.key is None or raw.key.startswith(b"{"):
                    continue
                if raw.value is not None and names.may_occur_in(raw.value):
                    last[part.partition, raw.key] = raw.value
                else:
                    last.pop((part.partition, raw.key), None)
    found = [_correction_of(place, value, subject, names, up_to) for place, value in last.items()]
    return [one for one in found if one is not None]


def _correction_of(
    place: tuple[int, bytes], value: bytes, subject: ErasureSubject, names: NameEraser, up_to: Mapping[int, int]
) -> RiskTopicCorrection | None:
    try:
        told = _risk_decoder.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None  # none of ours
    offset = up_to.get(told.partition, -1)
    if told.tenant != subject.tenant or told.offset > offset:
        return None
    if subject.kind == "agent" and place[1] == subject.partition_key:
        return RiskTopicCorrection(place[0], *erased_agent_record(place[1], offset))
    if told.agent_id == subject.name:
        return None  # another one of that very name
    reasons, counterfactual = names.erase_in_json(bytes(told.reasons)), names.erase_in_text(told.counterfactual)
    if (reasons, counterfactual) == (bytes(told.reasons), told.counterfactual):
        return None
    changed = msgspec.structs.replace(told, reasons=msgspec.Raw(reasons), counterfactual=counterfactual)
    return RiskTopicCorrection(place[0], place[1], msgspec.json.encode(changed), [])


def send_corrections(writer: TopicWriter, topic: str, found: Iterable[RiskTopicCorrection]) -> None:
    """Write them, and wait until they have arrived. Raises Unavailable."""
    for one in found:
        writer.send(topic, one.key, one.value, partition=one.partition, headers=one.headers)
    writer.flush(FLUSH_TIMEOUT_S)
