"""CPU per event of reading the events topic: `Source.poll` of both clients.

A broker is started for this alone, unless `--bootstrap` names one. Client CPU is that of all threads of this process;
the broker shares the machine, so CPU per event is the fair figure and not the rate.

    python -m benchmarks.bench_kafka [--quick] [--bootstrap HOST:PORT] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, get_args

import msgspec
from kafka.admin import KafkaAdminClient

from scripts.service_stack import ServiceUnavailable
from trustwatch.ingest.kafka import open_group_source, open_writer
from trustwatch.ingest.kafka.settings import KafkaClientName, KafkaClientSettings
from trustwatch.ingest.record_keys import agent_partition_key, raw_id_hash
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.ingest.topics import record_codec

from .distributed_services import AllPartitionsOwner, start_broker

PARTITIONS = 4
NOW_MS = 1_780_000_000_000


def event(number: int) -> Record:
    """A native event of about 400 bytes."""
    agent = f"agent-{number % 1000}"
    payload = msgspec.json.encode(
        {
            "id": f"e{number}",
            "source": "urn:gateway",
            "time": "2026-05-28T20:26:40Z",
            "tenant": "acme",
            "type": "api.call",
            "action": "invoices.read",
            "outcome": "success",
            "effect": "read",
            "agent": {"id": agent, "issuer": "https://as.example", "type": "finance"},
            "resource": {"type": "invoice", "id": f"inv-{number % 977}", "target": "erp.acme.example"},
            "scopes": {"granted": ["invoices:read"]},
            "client": {"ip": "10.0.0.7"},
            "duration_ms": 12.5,
        }
    )
    return Record(
        RecordKind.EVENT, raw_id_hash(payload), NOW_MS + number, payload, agent_partition_key("acme", "i", agent)
    )


def fill(settings: KafkaClientSettings, number: int) -> tuple[float, float]:
    """Write events; returns CPU microseconds per event and events per second."""
    records = [event(n) for n in range(min(number, 20_000))]
    writer = open_writer(settings)
    began, cpu = time.perf_counter(), time.process_time()
    for n in range(number):
        one = records[n % len(records)]
        writer.send(
            settings.topic_names.events,
            one.key,
            one.payload,
            headers=record_codec.headers_for(one),
            timestamp_ms=NOW_MS + n,
        )
    writer.flush(60)
    spent, took = time.process_time() - cpu, time.perf_counter() - began
    writer.close()
    return spent / number * 1e6, number / took


def read(settings: KafkaClientSettings, number: int) -> tuple[float, float]:
    """Read all events as a new group; returns CPU microseconds per event and events per second."""
    source = open_group_source(msgspec.structs.replace(settings, group_id=f"bench-{time.time_ns()}"))
    source.join(AllPartitionsOwner())
    deadline = time.monotonic() + 30
    while len(source.owned()) < PARTITIONS:
        source.poll(1, 0.1)
        if time.monotonic() > deadline:
            raise SystemExit("bench_kafka: no assignment within 30 s")
    for partition in range(PARTITIONS):
        source.seek(partition, 0)
    began, cpu, count = time.perf_counter(), time.process_time(), 0
    while count < number:
        batch = source.poll(2048, 1.0)
        count += len(batch.records) if batch else 0
    spent, took = time.process_time() - cpu, time.perf_counter() - began
    source.close()
    return spent / number * 1e6, number / took


def measure(bootstrap: str, number: int, rounds: int) -> list[dict[str, Any]]:
    """Interleaved rounds of every way; medians."""
    topic = f"bench-{time.time_ns()}"
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.create_topics({topic: {"num_partitions": PARTITIONS, "replication_factor": 1}}, wait_for_metadata=True)
    settings = KafkaClientSettings(bootstrap_servers=(bootstrap,), names={"events": topic}, client="confluent")
    rows = []
    cpu, rate = fill(settings, number)
    rows.append({"way": "write, confluent", "us_per_event": cpu, "per_s": rate})
    found: dict[str, list[tuple[float, float]]] = {client: [] for client in get_args(KafkaClientName)}
    for _ in range(rounds):
        for client, pairs in found.items():
            pairs.append(read(msgspec.structs.replace(settings, client=client), number))
    for client, pairs in found.items():
        cpus, rates = zip(*pairs, strict=True)
        rows.append(
            {"way": f"read, {client}", "us_per_event": statistics.median(cpus), "per_s": statistics.median(rates)}
        )
    admin.delete_topics([topic])
    admin.close()
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--bootstrap", metavar="HOST:PORT")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    number, rounds = (20_000, 1) if options.quick else (400_000, 3)
    if options.bootstrap:
        report(measure(options.bootstrap, number, rounds), options.json)
        return
    try:
        with tempfile.TemporaryDirectory() as folder, start_broker(Path(folder)) as kafka:
            report(measure(kafka.bootstrap, number, rounds), options.json)
    except ServiceUnavailable as reason:
        print(f"NOT MEASURED: no broker can be had: {reason}", file=sys.stderr)


def report(rows: list[dict[str, Any]], to: Path | None) -> None:
    """Print the figures, and write them to a file if asked to."""
    for row in rows:
        print(f"{row['way']:38} {row['us_per_event']:7.2f} us CPU/event {row['per_s']:10.0f} events/s")
    if to is not None:
        to.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
