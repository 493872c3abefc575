"""`TopicReader` and `GroupSource` over kafka-python."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, TypeVar

import structlog
from kafka import KafkaConsumer, TopicPartition, errors
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.base import MemberState
from kafka.future import Future
from kafka.net.compat import KafkaNetClient
from kafka.structs import OffsetAndMetadata

from ...errors import CorruptLog, Fenced, TrustwatchError, Unavailable
from ...identities import IdentityHasher
from ...source import PartitionOwner, RecordBatch
from ...topics.protocols import MAX_POLL_RECORDS, FetchedRecords, start_position_of
from ...topics.record_codec import SourcePartition, to_record_runs
from ..settings import KafkaClientSettings, KafkaTuning
from ..shared import CLOSE_S, KafkaGroupSource, KafkaTopicReader, TopicPartitionKey
from .client_connection import (
    consumer_options,
    end_offset,
    group_options,
    offset_bounds,
    open_client,
    partition_count,
    to_kafka_record,
    translated_errors,
)
from .retained_join import retain_joins

_log = structlog.get_logger(__name__)


class KafkaPythonTopicReader(KafkaTopicReader):
    """`KafkaTopicReader` over kafka-python."""

    def _open(self, group_id: str) -> None:
        options = consumer_options(self.settings, self._tuning)
        if group_id:
            options |= {"group_id": group_id, **group_options(self.settings, self._tuning)}
        self._consumer = open_client(KafkaConsumer, **options)

    def _count_partitions(self, topic: str) -> int:
        return partition_count(self._consumer, topic)

    def _subscribe(self, topics: list[str]) -> None:
        retain_joins(self._consumer)
        self._consumer.subscribe(topics)

    def _assign_all(self, keys: list[TopicPartitionKey]) -> None:
        partitions = [TopicPartition(*key) for key in keys]
        self._consumer.assign(partitions)
        self._end_targets = self._ends_of(partitions)
        for partition in partitions:
            if start_position_of(partition.topic, self._start) == "latest":
                self._consumer.seek(partition, self._end_targets[partition])
            else:
                self._consumer.seek_to_beginning(partition)

    def poll(self, timeout_s: float, max_records: int = MAX_POLL_RECORDS) -> list[FetchedRecords]:
        """See `TopicReader.poll`.

        Records that retention removed before they were read are logged as an error and skipped.
        """
        try:
            with translated_errors("reading topics"):
                fetched = self._fetch(int(timeout_s * 1000), max_records)
        except Unavailable as error:
            self.failed_polls += 1
            _log.warning("Kafka does not answer", error=str(error))
            return []
        return [
            FetchedRecords(partition.topic, partition.partition, [to_kafka_record(record) for record in records])
            for partition, records in fetched.items()
        ]

    def _fetch(self, timeout_ms: int, max_records: int) -> Mapping[TopicPartition, list[object]]:
        try:
            records: Mapping[TopicPartition, list[object]] = self._consumer.poll(timeout_ms, max_records=max_records)
            return records
        except errors.NoOffsetForPartitionError:  # a new group
            missing = [
                partition for partition in self._consumer.assignment() if self._consumer.committed(partition) is None
            ]
            for partition in missing:
                late = start_position_of(partition.topic, self._start) == "latest"
                (self._consumer.seek_to_end if late else self._consumer.seek_to_beginning)(partition)
        except errors.OffsetOutOfRangeError as error:
            for partition, offset in dict(error.args[0]).items():
                start, end = offset_bounds(self._consumer, partition, self._tuning.metadata_timeout_ms)
                self._skip_lost(partition, offset, start, end)
        except (errors.CorruptRecordError, errors.LogTruncationError) as error:
            raise CorruptLog(f"reading topics: {error}") from error
        return {}

    def commit(self) -> None:
        with translated_errors("committing offsets"):
            self._consumer.commit(timeout_ms=self._tuning.metadata_timeout_ms)

    def first_offsets(self) -> dict[TopicPartitionKey, int]:
        partitions = list(self._consumer.assignment())
        with translated_errors("asking for offsets"):
            return self._consumer.beginning_offsets(partitions, self._tuning.metadata_timeout_ms) if partitions else {}

    def offsets_at(self, time_ms: int) -> dict[TopicPartitionKey, int]:
        ends = self.end_offsets()
        with translated_errors("asking for offsets"):
            offsets = self._consumer.offsets_for_times(dict.fromkeys(ends, max(0, time_ms))) if ends else {}
        return {key: end if offsets.get(key) is None else offsets[key].offset for key, end in ends.items()}

    def seek(self, topic: str, partition: int, offset: int) -> None:
        self._consumer.seek(TopicPartition(topic, partition), offset)

    def position(self, key: TopicPartitionKey) -> int:
        with translated_errors("asking for positions"):
            position: int | None = self._consumer.position(TopicPartition(*key), self._tuning.metadata_timeout_ms)
        if position is None:
            raise Unavailable("asking for positions: no answer in time")
        return position

    def _partitions(self) -> Collection[TopicPartitionKey]:
        partitions: Collection[TopicPartitionKey] = self._consumer.assignment()
        return partitions

    def _ends_of(self, keys: Collection[TopicPartitionKey]) -> dict[TopicPartitionKey, int]:
        with translated_errors("asking for offsets"):
            return self._consumer.end_offsets(list(keys), self._tuning.metadata_timeout_ms) if keys else {}

    def close(self) -> None:
        self._consumer.close(timeout_ms=int(CLOSE_S * 1000))


_CLOSE_MS = int(CLOSE_S * 1000)


class KafkaPythonGroupSource(KafkaGroupSource):
    """The events topic, read as a member of a consumer group. Raises Unavailable or ConfigError."""

    def __init__(
        self,
        settings: KafkaClientSettings,
        tuning: KafkaTuning,
        member: str,
        identities: IdentityHasher,
    ) -> None:
        super().__init__(settings, tuning, member, identities)
        self._partition_count = 0
        self._member_id = ""  # our id in the group when our partitions were assigned
        self._query_consumer: KafkaConsumer | None = None
        self._assignor = CooperativeStickyAssignor()
        self._poll_thread = PollThread(self._run_rebalance_callback)
        try:
            self._consumer = open_client(
                KafkaConsumer,
                group_id=settings.group_id,
                group_instance_id=member or None,
                partition_assignment_strategy=[self._assignor],
                kafka_client=self._poll_thread.client,
                **group_options(settings, tuning),
                **consumer_options(settings, tuning),
            )
        except TrustwatchError:
            self._poll_thread.close()
            raise
        retain_joins(self._consumer)

    def join(self, owner: PartitionOwner) -> None:
        """Become a member of the group; *owner* is called from within `poll` and `close`.

        Raises ConfigError or Unavailable.
        """
        self._owner = owner
        self._partition_count = partition_count(self._consumer, self.topic)
        self._consumer.subscribe([self.topic], listener=self._poll_thread)

    def poll(self, max_records: int, timeout_s: float) -> RecordBatch | None:
        """At most *max_records* records of one partition; None after *timeout_s* seconds without any.

        While no broker answers there are none: that is logged, and counted in `failed_polls`. Raises CorruptLog, Fenced
        or ConfigError.
        """
        slept = self._has_slept()
        if slept:
            self._hand_buffer_back()
        batch = self._buffer.take(max_records)
        if batch is not None:
            return batch
        try:
            with translated_errors(f"reading {self.topic}"):
                self._fetch(0 if slept else max(0, int(timeout_s * 1000)))
        except Unavailable as error:
            self.failed_polls += 1
            _log.warning("Kafka does not answer", topic=self.topic, error=str(error))
            return None
        return self._buffer.take(max_records)

    def _hand_buffer_back(self) -> None:
        """Let the consumer fetch again what is buffered, if it is still ours: after a long pause it may be others'."""
        for partition, offset in self._buffer.first_offsets().items():
            self._consumer.seek(TopicPartition(self.topic, partition), offset)
            self._buffer.drop([partition])

    def _fetch(self, timeout_ms: int) -> None:
        self._last_poll = time.monotonic()
        try:
            fetched = self._poll_thread.call(lambda: self._consumer.poll(timeout_ms, max_records=MAX_POLL_RECORDS))
        except errors.OffsetOutOfRangeError as error:
            (topic_partition, offset), *_ = dict(error.args[0]).items()
            raise self._gone(topic_partition.partition, offset) from error
        except (errors.CorruptRecordError, errors.LogTruncationError) as error:
            raise CorruptLog(f"{self.topic}: {error}") from error
        except errors.FencedInstanceIdError as error:
            name = self._member
            raise Fenced(f"another member of the group {self.settings.group_id} is called {name}") from error
        retaken = self._retake_after_expulsion()
        for topic_partition, records in fetched.items():
            partition = topic_partition.partition
            if partition in self._owned and partition not in retaken:  # a retaken one is read from its offset next time
                origin = SourcePartition(self.topic, partition, self._partition_count, self._identities)
                self._buffer.add(partition, to_record_runs(map(to_kafka_record, records), origin))

    def _run_rebalance_callback(self, name: str, topic_partitions: Collection[TopicPartition]) -> None:
        """Run a callback of the owner, on the thread that polls."""
        partitions = {topic_partition.partition for topic_partition in topic_partitions}
        if name == "assigned":
            self._take_over(partitions | self._take_away_after_expulsion())
            return
        if name == "lost":  # else our next join would claim partitions that others may own by now
            self._assignor.member_assignment = None
        self._take_away(partitions, lost=name == "lost" or self._member_id_changed())

    def _member_id_changed(self) -> bool:
        """True if the group gave us a new member id: it removed us meanwhile, and we joined again as a new member."""
        return bool(self._consumer.group_metadata().member_id != self._member_id)

    def _retake_after_expulsion(self) -> set[int]:
        """Take over again the partitions that are ours after the group had expelled us; returns them.

        A member that polls between its expulsion and its next heartbeat learns of it from the refusal of its join, and
        kafka-python then calls neither the loss callback nor that for the partitions that it gets back. Other members
        may have worked on them.
        """
        if self._consumer.group_metadata().state is not MemberState.STABLE:
            return set()
        kept = self._take_away_after_expulsion()
        if kept:
            self._take_over(kept)
        return kept

    def _take_away_after_expulsion(self) -> set[int]:
        """Take from the owner the partitions that it has had since before the group expelled us; returns them."""
        return self._take_away(self._owned, lost=True) if self._owned and self._member_id_changed() else set()

    def _take_over(self, partitions: set[int]) -> None:
        assert self._owner is not None
        self._member_id = self._consumer.group_metadata().member_id
        self._partition_count = partition_count(self._consumer, self.topic)
        for partition in partitions:  # nothing is fetched, even if the owner fails, or lets some wait
            self._consumer.seek(TopicPartition(self.topic, partition), 0)
            self._consumer.pause(TopicPartition(self.topic, partition))
        offsets = self._owner.assigned(partitions)
        self._owned |= partitions
        for partition in partitions & offsets.keys():
            self._consumer.seek(TopicPartition(self.topic, partition), offsets[partition])
            self._consumer.resume(TopicPartition(self.topic, partition))

    def _move(self, partition: int, offset: int) -> None:
        self._consumer.seek(TopicPartition(self.topic, partition), offset)
        self._consumer.resume(TopicPartition(self.topic, partition))

    def pause(self, partition: int) -> None:
        """Return no more records of *partition* until it is assigned again, or sought."""
        self._buffer.drop([partition])
        if partition in self._owned:
            self._consumer.pause(TopicPartition(self.topic, partition))

    def end_offset(self, partition: int) -> int:
        key, limit_ms = TopicPartition(self.topic, partition), self._tuning.metadata_timeout_ms
        return end_offset(self._open_query_consumer(), key, limit_ms)  # one request; the bounds take two

    def _bounds(self, partition: int) -> tuple[int, int]:
        key, limit_ms = TopicPartition(self.topic, partition), self._tuning.metadata_timeout_ms
        return offset_bounds(self._open_query_consumer(), key, limit_ms)

    def _open_query_consumer(self) -> KafkaConsumer:
        """Consumer for requests of offsets. On the fetching connection a reply would wait for the fetch before it, half
        a second on a quiet topic."""
        if self._query_consumer is None:
            self._query_consumer = open_client(KafkaConsumer, **consumer_options(self.settings, self._tuning))
        return self._query_consumer

    def _open_reader(self, partitions: Collection[int] | None = None) -> KafkaPythonTopicReader:
        return KafkaPythonTopicReader(self.settings, (self.topic,), tuning=self._tuning, partitions=partitions)

    def note_position(self, offsets: Mapping[int, int]) -> None:
        """Commit positions to the group, for tools that show lag only; a failure is ignored."""
        committed = {
            TopicPartition(self.topic, partition): OffsetAndMetadata(offset, "", -1)
            for partition, offset in offsets.items()
        }
        self._consumer.commit_async(committed)

    def close(self) -> None:
        """Hand the partitions back (`revoked` is called) and leave the group."""
        if self._closed:
            return
        self._closed = True
        try:
            with translated_errors("leaving the group"):
                self._poll_thread.call(lambda: self._consumer.close(timeout_ms=_CLOSE_MS))
        except Unavailable as error:
            _log.warning("the brokers did not confirm that this member left the group", error=str(error))
        finally:
            self._owned.clear()
            self._poll_thread.close()
            if self._query_consumer is not None:
                self._query_consumer.close(timeout_ms=_CLOSE_MS)


# kafka-python runs rebalance listeners on its own I/O thread while `poll` waits for them. The owner of the partitions
# works on the polling thread (a commit there must not meet a batch that is being applied), so that thread has to be
# free: a helper thread calls kafka-python, and the polling thread waits for the result, or for a call of the listener.
# Heartbeats continue while the owner answers: the listener is a coroutine.


ResultT = TypeVar("ResultT")


class RebalanceCall(NamedTuple):
    """A rebalance callback to be run: `assigned`, `revoked` or `lost`, with kafka-python's TopicPartitions."""

    name: str
    partitions: Collection[Any]
    answered: Future


class _CallResult(NamedTuple):
    value: Any
    error: BaseException | None


class PollThread(AsyncConsumerRebalanceListener):
    """Runs calls on a separate thread; `call` runs the rebalance callbacks that they cause."""

    def __init__(self, serve: Callable[[str, Collection[Any]], None]) -> None:
        self._serve = serve
        self._work: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[RebalanceCall | _CallResult] = queue.SimpleQueue()
        self._client: KafkaNetClient | None = None
        self._thread = threading.Thread(target=self._run, name="kafka-poll", daemon=True)
        self._thread.start()

    def client(self, **config: Any) -> KafkaNetClient:
        """Makes the consumer's network client (its option `kafka_client`): it wakes the I/O thread."""
        self._client = KafkaNetClient(**config)
        return self._client

    def call(self, work: Callable[[], ResultT]) -> ResultT:
        """Run *work* on the helper thread, and on this one whatever the listener asks for until it is done."""
        self._work.put(work)
        failed: BaseException | None = None
        while isinstance(answer := self._results.get(), RebalanceCall):
            try:
                self._serve(answer.name, answer.partitions)
            except Exception as error:  # the rebalance must end either way; the caller hears of it below
                failed = failed or error
            finally:
                answer.answered.success(None)
                assert self._client is not None
                self._client.wakeup()
        if failed or answer.error:
            raise failed or answer.error  # type: ignore[misc] # one of them is set
        result: ResultT = answer.value
        return result

    def close(self) -> None:
        """End the thread."""
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                answer = _CallResult(work(), None)
            except BaseException as error:  # raised again in the caller's thread
                answer = _CallResult(None, error)
            self._results.put(answer)

    async def _request_callback(self, name: str, partitions: Collection[Any]) -> None:
        if partitions:
            question = RebalanceCall(name, partitions, Future())
            self._results.put(question)
            await question.answered

    async def on_partitions_assigned(self, assigned: Collection[Any]) -> None:
        await self._request_callback("assigned", assigned)

    async def on_partitions_revoked(self, revoked: Collection[Any]) -> None:
        await self._request_callback("revoked", revoked)

    async def on_partitions_lost(self, lost: Collection[Any]) -> None:
        await self._request_callback("lost", lost)
