"""The load generator: simulated events straight into the events topic, at a steady rate."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from ...ingest.events import decode_event
from ...ingest.identity import event_id_hash
from ...ingest.kafka import KafkaClientSettings, KafkaCommitLog, open_writer
from ...ingest.routing import agent_partition_key
from ...ingest.source import Record, RecordKind
from .. import clock
from ..simulator import SimulatedEvent

SEND_SLICE_S = 0.05
MAX_EVENTS_PER_APPEND = 5_000


def send_at_rate(events: Iterable[SimulatedEvent], kafka: KafkaClientSettings, rate: float) -> tuple[int, float]:
    """Write *events* to the events topic as the ingest role would.

    Args:
        events: of the simulator, which speaks for every tenant.
        kafka: where to.
        rate: events per second; 0 = as fast as the topic takes them.

    Returns:
        Number of events and the seconds that they took.

    Raises:
        LogFailed: the brokers did not acknowledge.
    """
    writer = open_writer(kafka)
    log = KafkaCommitLog(writer, kafka.topics.events)
    started, sent = clock.monotonic(), 0
    waiting = iter(events)
    try:
        while True:
            due = MAX_EVENTS_PER_APPEND if not rate else int((clock.monotonic() - started + SEND_SLICE_S) * rate) - sent
            part = list(islice(waiting, min(due, MAX_EVENTS_PER_APPEND)))
            if part:
                log.append([_event_record(event.event) for event in part])
                log.sync()
                sent += len(part)
            elif due > 0:
                return sent, clock.monotonic() - started
            if rate:
                clock.sleep(max(0.0, started + sent / rate - clock.monotonic()))
    finally:
        log.close()
        writer.close()


def _event_record(raw: bytes) -> Record:
    event = decode_event(raw)
    tenant, agent = event.tenant or "", event.agent
    id_hash = event_id_hash(event.tenant, event.source or "simulate", event.id, raw)
    return Record(
        RecordKind.EVENT, id_hash, clock.now_ms(), raw, agent_partition_key(tenant, agent.issuer or "", agent.id)
    )
