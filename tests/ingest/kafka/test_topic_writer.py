"""The replacement of producers by `KafkaPythonTopicWriter`; with a real broker: `distributed/test_outages.py`."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any

import pytest
from kafka import errors
from kafka.future import Future

from trustwatch.ingest.errors import Unavailable
from trustwatch.ingest.kafka.kafka_python import topic_writer
from trustwatch.ingest.kafka.settings import KafkaClientSettings, KafkaTuning
from trustwatch.ingest.kafka.shared import LastWaits

TUNING = KafkaTuning(delivery_timeout_ms=20_000)


class Producer:
    """Stands for kafka-python's: keeps what it is sent, and gives no outcome by itself."""

    def __init__(self) -> None:
        self.sent: list[Future] = []
        self.given_up = False
        self.closed_within_s: list[float] = []
        self.during_flush: Any = lambda: None

    def send(self, *_: Any, **__: Any) -> Future:
        self.sent.append(Future())
        return self.sent[-1]

    def flush(self, _: float) -> None:
        self.during_flush()
        if not all(future.is_done for future in self.sent):
            raise errors.KafkaTimeoutError("no outcome")

    def close(self, timeout_s: float) -> None:
        self.closed_within_s.append(timeout_s)
        self.flush(timeout_s)

    def give_up(self) -> None:
        self.given_up = True

    def acknowledge(self) -> None:
        """All that it has."""
        for future in self.sent:
            future.success(None)


class Opened:
    """A writer, the producers that it opened, and its clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.producers: list[Producer] = []
        self.now = 1_000.0
        monkeypatch.setattr(topic_writer, "open_client", self._open)
        monkeypatch.setattr(topic_writer.UnacknowledgedSends, "_monotonic", lambda _: self.now)
        self.writer = topic_writer.KafkaPythonTopicWriter(KafkaClientSettings(bootstrap_servers=("b:1",)), TUNING)

    def _open(self, _: Any, **__: Any) -> Producer:
        self.producers.append(Producer())
        return self.producers[-1]

    def send(self) -> None:
        self.writer.send("topic", b"key", b"value", partition=0)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    return Opened(monkeypatch)


def test_a_silent_producer_is_replaced(opened: Opened) -> None:
    """No outcome for longer than kafka-python promises one; until then a slow broker may still answer."""
    opened.send()
    for after_s in (0, 20):
        opened.now = 1_000.0 + after_s
        with pytest.raises(Unavailable):
            opened.writer.flush(0)
        assert opened.writer.replaced == 0
    opened.now += 6
    with pytest.raises(Unavailable):
        opened.writer.flush(0)
    silent = opened.producers[0]
    assert (opened.writer.replaced, silent.given_up, len(opened.producers)) == (1, True, 1)
    opened.send()
    opened.producers[1].acknowledge()
    opened.writer.flush(0)
    assert (opened.writer.replaced, len(silent.sent), len(opened.producers[1].sent)) == (1, 1, 1)


def test_who_only_sends_has_it_replaced_too(opened: Opened) -> None:
    """Ticks and heartbeats are not waited for; the next flush, if one comes, says that something is lost."""
    opened.send()
    opened.now += 26
    opened.send()
    opened.producers[1].acknowledge()
    assert opened.producers[0].given_up
    with pytest.raises(Unavailable, match="no outcome"):
        opened.writer.flush(0)
    opened.writer.flush(0)


def test_a_failed_record_replaces_it(opened: Opened) -> None:
    """The flush says so once; the next records go to a new one."""
    opened.send()
    opened.producers[0].sent[0].failure(errors.InvalidTimestampError("too far ahead"))
    with pytest.raises(Unavailable, match="too far ahead"):
        opened.writer.flush(0)
    opened.writer.flush(0)
    opened.send()
    assert (opened.writer.replaced, opened.producers[0].given_up, len(opened.producers)) == (1, True, 2)


def test_a_flush_that_another_thread_takes_the_producer_from_fails(opened: Opened) -> None:
    """Its records went with the producer."""
    opened.send()
    first = opened.producers[0]

    def replaced_meanwhile() -> None:
        first.during_flush = lambda: None
        first.sent[0].failure(errors.KafkaTimeoutError("expired"))
        with suppress(Unavailable):
            opened.writer.flush(0)

    first.during_flush = replaced_meanwhile
    with pytest.raises(Unavailable, match="replaced meanwhile"):
        opened.writer.flush(0)


def test_a_flush_knows_which_records_its_producer_had(opened: Opened) -> None:
    """Where another thread takes the producer as a flush begins, its records are not those of the next one."""

    class Watched(topic_writer.KafkaPythonTopicWriter):
        """Lets another thread flush, if that may, right after the producer is looked up."""

        was_looked_up = False

        def __getattribute__(self, name: str) -> Any:
            found = super().__getattribute__(name)
            if name == "_producer" and not self.was_looked_up and threading.current_thread() is threading.main_thread():
                self.was_looked_up = True
                other.start()
                other.join(0.2)
            return found

    def flush_too() -> None:
        with suppress(Unavailable):
            opened.writer.flush(0)

    other = threading.Thread(target=flush_too)
    opened.send()
    opened.producers[0].sent[0].failure(errors.KafkaTimeoutError("expired"))
    opened.writer.__class__ = Watched
    with pytest.raises(Unavailable):
        opened.writer.flush(0)
    other.join()


def test_a_process_that_ends_waits_no_longer(opened: Opened) -> None:
    """A flush that is under way ends; after it none waits, nothing new is opened, and closing has no time left."""
    opened.send()
    opened.producers[0].during_flush = lambda: opened.writer.bound_waits(0.1)
    began = time.monotonic()
    for _ in range(2):
        with pytest.raises(Unavailable):
            opened.writer.flush(60)
    assert time.monotonic() - began < 10.0
    opened.writer.close()
    for ask in (opened.send, lambda: opened.writer.partitions("other")):
        with pytest.raises(Unavailable, match="this process ends"):
            ask()
    assert opened.producers[0].closed_within_s == [0.0]
    assert opened.producers[0].given_up


def test_waits_last_as_their_callers_say_until_the_process_is_to_end() -> None:
    """Then each has so much from its own beginning: what else a worker has to do does not shorten it."""
    waits, now_s = LastWaits(), time.monotonic()
    assert 29.0 < waits.left_s(now_s, 30.0) <= 30.0
    waits.note_in_vain()
    assert 29.0 < waits.left_s(now_s, 30.0) <= 30.0
    waits.begin(5.0)
    waits.begin(50.0)
    assert 4.0 < waits.left_s(now_s - 20.0, 30.0) <= 5.0  # under way for 20 s
    assert 0.0 < waits.left_s(now_s, 1.0) <= 1.0
    assert 104.0 < waits.left_s(now_s + 100.0, 30.0) <= 105.0  # the next one begins later
    assert not waits.over
    waits.note_in_vain()
    assert (waits.over, waits.left_s(time.monotonic(), 30.0)) == (True, 0.0)
    waits.begin(5.0)
    assert waits.over
