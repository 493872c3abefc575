"""A thread for `KafkaConsumer.poll`, so that rebalance callbacks run on the thread that polls us.

kafka-python runs rebalance listeners on its own I/O thread while `poll` waits for them. The owner of the partitions
works on the polling thread (a commit there must not meet a batch that is being applied), so that thread has to be free:
a helper thread calls kafka-python, and the polling thread waits for the result, or for a question of the listener.
Heartbeats go on while the owner answers: the listener is a coroutine.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Collection
from typing import Any, NamedTuple, TypeVar

from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.future import Future
from kafka.net.compat import KafkaNetClient

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
    """Runs calls on a thread of its own; `call` runs the rebalance callbacks that they cause."""

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
        """Called by kafka-python."""
        await self._request_callback("assigned", assigned)

    async def on_partitions_revoked(self, revoked: Collection[Any]) -> None:
        """Called by kafka-python."""
        await self._request_callback("revoked", revoked)

    async def on_partitions_lost(self, lost: Collection[Any]) -> None:
        """Called by kafka-python."""
        await self._request_callback("lost", lost)
