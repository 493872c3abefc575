"""Erasure in topics: their records are not rewritten, but some can be ended, and all age out."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import msgspec
import structlog

from trustwatch.ingest.errors import ConfigError, TrustwatchError
from trustwatch.ingest.record_erasure import ErasureSubject, NameEraser
from trustwatch.ingest.record_keys import key_for_partition
from trustwatch.ingest.source import Record
from trustwatch.ingest.timestamps import DAY_MS, HOUR_MS, MINUTE_MS, WEEK_MS, format_rfc3339
from trustwatch.ingest.topics.protocols import (
    TOPIC_DEFINITIONS,
    TopicAdmin,
    TopicDescription,
    TopicNames,
    TopicReader,
)
from trustwatch.ingest.topics.topic_commit_log import TopicCommitLog
from trustwatch.scoring.pipeline.topic_publisher import erased_agent_record
from trustwatch.scoring.records.agents import RiskRecord
from trustwatch.scoring.records.erasures import Erasure
from trustwatch.scoring.store.erasure_store import ForgetRecordPosition
from trustwatch.scoring.store.subject_store import ErasureScope

from .embedded_targets import ErasureSummary, ErasureTargets, LocalArchives

POLL_S = 0.5
FLUSH_TIMEOUT_S = 20.0
BROKER_DELAY_MS = 15 * MINUTE_MS
"""Brokers look for what is too old every few minutes, and remove its file a minute later."""
FOREVER_MS = 10 * 366 * DAY_MS  # Kafka's own words for `never` are numbers in the thousands of years
_risk_decoder = msgspec.json.Decoder(RiskRecord)


def summarise_topics(admin: TopicAdmin, topics: TopicNames, now_ms: int) -> list[dict[str, Any]]:
    """Statement of a proof on each of our topics; `gone_by`: until when it may hold records. Raises Unavailable."""
    topic_facts = []
    for definition in TOPIC_DEFINITIONS:
        name, gone_by = definition.name(topics), None
        with suppress(ConfigError):  # we may not ask
            if (description := admin.describe(name)) is not None:
                gone_by = gone_by_ms(description, now_ms)
        until = None if gone_by is None else format_rfc3339(gone_by)
        done = _ACTION_BY_ROLE[definition.role]
        topic_facts.append({"topic": name, "holds": definition.holds, "done": done, "gone_by": until})
    return topic_facts


_ACTION_BY_ROLE = {
    "events": "records stay until retention removes them; whatever reads the topic leaves the subject out",
    "dead_letters": "nothing: records stay until retention removes them; nothing here reads them",
    "risk": "what names the subject was deleted by a record without a value, or published again without the name; "
    "compaction removes the earlier records",
    "decisions": "nothing: records stay until retention removes them; only records from now on are read here",
    "alerts": "nothing: records stay until retention removes them; nothing here reads them",
}


def gone_by_ms(topic: TopicDescription, now_ms: int) -> int | None:
    """Latest time at which what was written before *now_ms* is in the topic, both UTC milliseconds; None = no end.

    A file of the log goes when its newest record is old enough, and takes new ones until it is `segment.ms` old.
    """
    segment = _config_number(topic.configs, "segment.ms", WEEK_MS)
    if "delete" in topic.configs.get("cleanup.policy", "delete"):
        ahead = _config_number(topic.configs, "message.timestamp.after.max.ms", 0)
        kept = _config_number(topic.configs, "retention.ms", WEEK_MS)
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
    """Read the risk topic to its end; return the last records of keys that still name the subject, and what ends them.

    Records published after the order are of a new subject, and stay. Raises Unavailable.
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
    corrections = [_correction_of(record_key, value, subject, names, up_to) for record_key, value in last.items()]
    return [correction for correction in corrections if correction is not None]


def _correction_of(
    record_key: tuple[int, bytes], value: bytes, subject: ErasureSubject, names: NameEraser, up_to: Mapping[int, int]
) -> RiskTopicCorrection | None:
    try:
        risk_record = _risk_decoder.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None  # not ours
    offset = up_to.get(risk_record.partition, -1)
    if risk_record.tenant != subject.tenant or risk_record.offset > offset:
        return None
    if subject.kind == "agent" and record_key[1] == subject.partition_key:
        return RiskTopicCorrection(record_key[0], *erased_agent_record(record_key[1], offset))
    if risk_record.agent_id == subject.name:
        return None  # another one of that very name
    before = bytes(risk_record.reasons), bytes(risk_record.indicators)
    reasons, indicators = (names.erase_in_json(part, keep_members=True) for part in before)
    counterfactual = names.erase_in_text(risk_record.counterfactual)
    if (reasons, indicators) == before and counterfactual == risk_record.counterfactual:
        return None
    changed = msgspec.structs.replace(
        risk_record, reasons=msgspec.Raw(reasons), counterfactual=counterfactual, indicators=msgspec.Raw(indicators)
    )
    return RiskTopicCorrection(record_key[0], record_key[1], msgspec.json.encode(changed), [])


# The order to forget is met in each partition at a separate offset, in the transaction of that position. The topic
# cannot be rewritten: the identifier is kept until its records have expired there, so that every reader omits the
# subject (`ingest/record_erasure.py`).

_log = structlog.get_logger(__name__)
TOPIC_MEMBER = "topic"
"""Member of `Erasure.counts`: partitions that were ordered to forget, and the offset of the order in each."""
MAX_TRACKED_ERASURES = 200
RECHECK_DONE_WITHIN_MS = 2 * HOUR_MS
"""Time for which a finished erasure is looked at again, ms: clocks of processes differ, and reports may be late."""


class BrokerClients(NamedTuple):
    """Access to topics: their names, a reader of one from its beginning, and the admin client."""

    topics: TopicNames
    reader: Callable[[str], TopicReader]
    admin: Callable[[], TopicAdmin]


@dataclass(eq=False, repr=False)
class TopicErasureTargets(ErasureTargets):
    """Every place of a deployment with brokers, as one process of it sees them."""

    brokers: BrokerClients
    archives: LocalArchives
    expected: frozenset[str]

    keeps_name: ClassVar = True

    def __post_init__(self) -> None:
        self._since_ms = 0
        self._unfinished: set[str] = set()

    async def write_order(self, erasure: Erasure, record: Record) -> Erasure:
        count = await self._partitions()
        await self.log.commit([record._replace(key=key_for_partition(partition, count)) for partition in range(count)])
        counts = {**erasure.counts, TOPIC_MEMBER: {"partitions": count}}
        return msgspec.structs.replace(erasure, at_offset=0, counts=counts)

    async def waiting_for(self, erasure: Erasure, now_ms: int) -> str:
        met = await self._acknowledged_offsets(erasure)
        missing = [partition for partition in range(await self._ordered_partitions(erasure)) if partition not in met]
        if missing:
            listed = ", ".join(map(str, missing))
            return f"waits for the workers to come to the order in partitions {listed} of {self.brokers.topics.events}"
        await self.archives.erase(erasure, met)
        progress = await asyncio.to_thread(self.archives.erasure_progress, erasure, now_ms)
        if progress.awaited:
            errors = {archive_id: f", which says: {error}" for archive_id, error in progress.errors.items()}
            listed = ", ".join(one.place + errors.get(archive_id, "") for archive_id, one in progress.awaited.items())
            return f"waits for archives to be erased by the processes that keep them: {listed}"
        known = [*(registration for registration, _ in progress.done.values()), *progress.missing.values()]
        if unknown := self.expected - {registration.kind for registration in known}:
            return f"waits for a process that keeps the archive of {' and '.join(sorted(unknown))}: none has reported"
        return ""

    async def acknowledged(self, erasure: Erasure) -> Erasure:
        met = await self._acknowledged_offsets(erasure)
        offsets = {str(at): offset for at, offset in met.items()}
        topic_counts = {**erasure.counts.get(TOPIC_MEMBER, {}), "offsets": offsets}
        return msgspec.structs.replace(erasure, counts={**erasure.counts, TOPIC_MEMBER: topic_counts})

    async def _acknowledged_offsets(self, erasure: Erasure) -> dict[int, int]:
        positions = await asyncio.to_thread(self.store.erasures.forget_positions, erasure.erasure_id)
        return acknowledged_offsets(erasure, positions)

    async def _ordered_partitions(self, erasure: Erasure) -> int:
        """Partitions that the order was logged in; an erasure that was found in the topic again does not know."""
        return int(erasure.counts.get(TOPIC_MEMBER, {}).get("partitions", 0)) or await self._partitions()

    async def _partitions(self) -> int:
        count: int = await self.log.run_between_rounds(lambda log: log.partitions)
        return count

    def _offsets_of(self, erasure: Erasure) -> Mapping[int, int]:
        return order_offsets(erasure)

    async def _erase_elsewhere(self, erasure: Erasure, scope: ErasureScope) -> Mapping[str, int]:  # noqa: ARG002
        ended = await self._correct_risk_topic(erasure, order_offsets(erasure))
        return {"topic.risk": ended} if ended else {}

    def _count_elsewhere(self, erasure: Erasure, scope: ErasureScope) -> Mapping[str, int]:  # noqa: ARG002
        up_to = order_offsets(erasure)
        named = self._find_corrections(erasure, up_to)
        return {"topic.risk": len(named), **self.archives.remaining(erasure, up_to)}

    async def _correct_risk_topic(self, erasure: Erasure, up_to: Mapping[int, int]) -> int:
        corrections = await asyncio.to_thread(self._find_corrections, erasure, up_to)

        def send(log: TopicCommitLog) -> None:
            for partition, key, value, headers in corrections:
                log.writer.send(self.brokers.topics.risk, key, value, partition=partition, headers=headers)
            log.writer.flush(FLUSH_TIMEOUT_S)

        if corrections:
            await self.log.run_between_rounds(send)
        return len(corrections)

    async def not_checked(self, now_ms: int) -> list[str]:
        """Topics, which are not rewritten, and archives of other processes."""
        away = await asyncio.to_thread(self.archives.other_archives, now_ms)
        archives = sorted({f"the archive of {archive.place}" for archive in away})
        topics = self.brokers.topics
        unread = (topics.events, topics.dead_letters, topics.decisions, topics.alerts)
        return archives + [f"the topic {name}, whose records stay until its retention removes them" for name in unread]

    def _find_corrections(self, erasure: Erasure, up_to: Mapping[int, int]) -> list[RiskTopicCorrection]:
        with closing(self.brokers.reader(self.brokers.topics.risk)) as reader:
            return find_corrections(reader, erasure.erasure_subject, up_to)

    async def summary(self, erasure: Erasure, now_ms: int) -> ErasureSummary:
        def describe_topics() -> list[dict[str, Any]]:
            with closing(self.brokers.admin()) as admin:
                return summarise_topics(admin, self.brokers.topics, now_ms)

        topics = await asyncio.to_thread(describe_topics)
        progress = await asyncio.to_thread(self.archives.erasure_progress, erasure, now_ms)
        counts, remains = Counter[str](), []
        for registration, ack in progress.done.values():
            name = f"archive.{registration.kind}"
            counts.update({name: ack.removed, f"{name}.changed": ack.changed})
        for topic in topics:
            until = "no limit: the topic keeps records forever, or its settings could not be read"
            if topic["gone_by"] is not None:
                until = f"{topic['gone_by']} at the latest, as the topic is set now"
            what = f"records of the topic {topic['topic']} ({topic['holds']})"
            remains.append((what, f"a topic is never rewritten; {topic['done']}", until))
        remains += _REMAINS
        for registration in (*progress.missing.values(), *progress.awaited.values()):
            why = f"its process was last seen at {format_rfc3339(registration.seen_ms)}"
            remains.append(
                (
                    f"the archive of {registration.place}",
                    why,
                    "the archive is reachable again; it then erases automatically",
                )
            )
        covers = {
            "topic": self.brokers.topics.events,
            "up_to": format_rfc3339(erasure.at_ms),
            "offsets": {str(at): offset for at, offset in sorted(order_offsets(erasure).items())},
        }
        return ErasureSummary(covers, counts, topics, remains)

    async def assist(self, now_ms: int) -> list[Erasure]:
        """Show the archives of this process, and erase in them."""
        await asyncio.to_thread(self.archives.register, now_ms)
        if len(self._unfinished) > MAX_TRACKED_ERASURES:  # all of them, rather than so many by name
            self._since_ms = 0
        passed = []
        for erasure, positions in await asyncio.to_thread(
            self.store.erasures.list_with_positions, self._since_ms, self._unfinished
        ):
            met, over = acknowledged_offsets(erasure, positions), False
            try:
                if erasure.at_ms and len(met) >= await self._ordered_partitions(erasure):
                    over = await self.archives.erase(erasure, met)
                    passed.append(erasure)
            except (TrustwatchError, OSError) as error:  # of one erasure; the others go on
                _log.warning("archives have to wait to be erased", erasure_id=erasure.erasure_id, error=str(error))
            (self._unfinished.discard if over else self._unfinished.add)(erasure.erasure_id)
        self._since_ms = now_ms - RECHECK_DONE_WITHIN_MS
        return passed

    async def release_names(self, now_ms: int) -> list[Erasure]:
        """End late records of a stalled worker, and see if the topic has any."""
        over: list[Erasure] = []
        first: dict[int, int] | None = None

        def read_first_offsets() -> dict[int, int]:
            with closing(self.brokers.reader(self.brokers.topics.events)) as reader:
                return {partition: offset for (_, partition), offset in reader.first_offsets().items()}

        for erasure, positions in await asyncio.to_thread(self.store.erasures.list_with_positions):
            if erasure.status != "done":
                continue
            try:
                if first is None:
                    first = await asyncio.to_thread(read_first_offsets)
                gone = all(  # it may have been logged twice: the later one counts
                    first.get(at, 0) > max(offset, positions[at].offset if at in positions else offset)
                    for at, offset in order_offsets(erasure).items()
                )
                if await self._try_release_name(erasure, now_ms, gone=gone):
                    over.append(erasure)
            except (TrustwatchError, OSError) as error:  # of one erasure; the others go on
                _log.warning("an erased name has to be kept longer", erasure_id=erasure.erasure_id, error=str(error))
                words = f"the identifier is still kept: {error}"
                await asyncio.to_thread(self.store.erasures.record_error, erasure, words)
        return over

    async def _try_release_name(self, erasure: Erasure, now_ms: int, *, gone: bool) -> bool:
        """*gone*: the topic has no record from before the order any more, nor the order itself."""
        if gone or now_ms - erasure.done_ms < RECHECK_DONE_WITHIN_MS:  # it reads all of the risk topic
            await self._correct_risk_topic(erasure, order_offsets(erasure))
        if not gone:
            return False
        progress = await asyncio.to_thread(self.archives.erasure_progress, erasure, now_ms)
        if progress.awaited or progress.missing:
            return False
        nameless = msgspec.structs.replace(erasure, subject="", error="")
        if not await asyncio.to_thread(self.store.erasures.update, erasure, nameless):
            return False
        await asyncio.to_thread(self.store.erasures.delete_positions, erasure.erasure_id)
        await asyncio.to_thread(self.archives.drop_acknowledgements, erasure)
        self._unfinished.discard(erasure.erasure_id)
        return True


def acknowledged_offsets(erasure: Erasure, positions: Mapping[int, ForgetRecordPosition]) -> dict[int, int]:
    """Offset of the order by partition, if it was met. An order that was logged twice is met twice, and may be the
    later one by its own time; an earlier time belongs to a previous round."""
    return {at: position.offset for at, position in positions.items() if position.at_ms >= erasure.at_ms}


def order_offsets(erasure: Erasure) -> dict[int, int]:
    """Offset of the order by partition, once all workers have come to it."""
    offsets: dict[str, Any] = erasure.counts.get(TOPIC_MEMBER, {}).get("offsets", {})
    return {int(partition): int(offset) for partition, offset in offsets.items()}


_REMAINS = (
    (
        "the identifier, in the list of the erased",
        "so that nothing that reads the events topic again (a replay, a restored backup, a back-test, an archive) "
        "takes up the subject",
        "the topic has none of those records any more: looked at every hour",
    ),
    (
        "copies of these topics: mirrors, consumers of others, topics of gateways that events came from",
        "they are in other systems, which were not notified",
        "they erase it",
    ),
)
