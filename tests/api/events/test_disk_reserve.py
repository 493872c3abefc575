"""Quotas of bytes, and room on the disk that is left to orders of people."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trustwatch.api.events.admission import Admission, AgentRegistry
from trustwatch.api.events.audit_sink import AuditSink
from trustwatch.api.events.intake_limits import DiskReserve, IntakeLimits, disk_reserve
from trustwatch.api.http.auth.callers import SourceBinding
from trustwatch.api.http.ledger import Overloaded
from trustwatch.api.settings.access_settings import EventSourceSettings, KafkaSettings
from trustwatch.api.settings.root import Settings

MIB = 1024 * 1024


class Disk:
    """What the system says of a disk."""

    def __init__(self, monkeypatch: Any, total: int = 100_000 * MIB, free: int = 50_000 * MIB) -> None:
        self.total, self.free = total, free
        self.looks = 0
        monkeypatch.setattr(shutil, "disk_usage", self._usage)

    def _usage(self, _: Path) -> Any:
        self.looks += 1
        if self.free < 0:
            raise OSError("gone")
        return SimpleNamespace(total=self.total, free=self.free)


def test_the_reserve_is_reached_and_left_again(monkeypatch: Any, tmp_path: Path) -> None:
    """Below it, to the byte; freeing room is enough. A disk that cannot be asked keeps nobody out."""
    disk, now = Disk(monkeypatch), [0.0]
    reserve = DiskReserve(tmp_path, 512 * MIB, lambda: now[0])
    found = []
    for free in (512 * MIB, 512 * MIB - 1, 0, 513 * MIB, -1):
        disk.free = free
        now[0] += 1.0
        found.append(reserve.is_reached())

    assert found == [False, True, True, False, False]


def test_a_small_disk_keeps_a_tenth(monkeypatch: Any, tmp_path: Path) -> None:
    Disk(monkeypatch, total=100 * MIB, free=11 * MIB)
    assert not DiskReserve(tmp_path, 512 * MIB, lambda: 0.0).is_reached()
    Disk(monkeypatch, total=100 * MIB, free=9 * MIB)
    assert DiskReserve(tmp_path, 512 * MIB, lambda: 0.0).is_reached()
    assert not DiskReserve(tmp_path, 0, lambda: 0.0).is_reached()


def test_a_flood_of_requests_asks_the_disk_a_few_times(monkeypatch: Any, tmp_path: Path) -> None:
    disk, now = Disk(monkeypatch), [0.0]
    reserve = DiskReserve(tmp_path, MIB, lambda: now[0])
    for step in range(1000):
        now[0] = step / 1000
        reserve.is_reached()

    assert disk.looks == 4


def test_with_kafka_the_disk_of_the_service_holds_no_events(monkeypatch: Any, tmp_path: Path) -> None:
    Disk(monkeypatch, free=0)
    local = Settings(data_dir=tmp_path)
    distributed = Settings(data_dir=tmp_path, kafka=KafkaSettings(bootstrap_servers=("b:9092",)))

    assert disk_reserve(local, lambda: 0.0).is_reached()
    assert not disk_reserve(distributed, lambda: 0.0).is_reached()


def test_on_a_full_disk_a_person_still_contains(site: Any, event: Any, monkeypatch: Any, summary: Any) -> None:
    """Events are told to come again and are counted; a pin goes through, with its record."""
    disk = Disk(monkeypatch)
    assert site.send(event(1)).status_code == 202
    site.report([summary()])
    disk.free = 511 * MIB
    site.clock.now += 1.0

    answer = site.send(event(2))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "30")
    assert "orders of people" in answer.json()["detail"]
    order = {"level": "critical", "why": "hijacked", "valid_s": 600}
    pinned = site.client.post("/v1/agents/bot/pin", json=order, headers=site.auth("gateway"))
    assert pinned.is_success, pinned.text
    assert site.wait(site.guard.audit_sink.flush(5.0))
    assert [found["type"] for found in site.events()] == ["tool.call", "approval"]

    metrics = site.client.get("/metrics").text
    assert 'trustwatch_limited_requests_total{limit="reserve",source="gateway"} 1.0' in metrics
    assert "trustwatch_disk_reserve_reached 1.0" in metrics
    disk.free = 512 * MIB
    site.clock.now += 1.0
    assert site.send(event(2)).status_code == 202


def test_our_own_records_of_questions_take_no_room_of_the_reserve() -> None:
    """What people ordered is written, what agents made us say is counted as dropped."""
    full = [True]
    sink = AuditSink(None, Admission(AgentRegistry(())), lambda: 1_772_500_000_000, lambda: "id", lambda: full[0])
    said = {
        "time": "2026-03-02T08:00:00Z",
        "source": "urn:trustwatch:x",
        "agent": {"id": "bot"},
        "action": "a",
        "outcome": "denied",
    }

    sink.enqueue({**said, "type": "api.call"})
    sink.enqueue({**said, "type": "approval"})
    assert (len(sink), sink.dropped) == (1, 1)
    full[0] = False
    sink.enqueue({**said, "type": "api.call"})
    assert (len(sink), sink.dropped) == (2, 1)


def test_a_quota_is_of_one_caller_and_comes_back_evenly() -> None:
    """The whole of it at once, more only as it comes back; a body that goes beyond it is paid for with time."""
    now = [0.0]
    limits = IntakeLimits(lambda: 0, MIB, lambda: now[0])
    bound, other = (SourceBinding(EventSourceSettings(name), bytes_per_day=86_400) for name in "ab")
    limits.check(bound)
    limits.count_bytes(bound, 86_400 + 600)

    with pytest.raises(Overloaded) as refused:
        limits.check(bound)
    assert (refused.value.limit, refused.value.retry_after_s) == ("quota", 600.0)
    limits.check(other)
    limits.check(SourceBinding(EventSourceSettings("c")))
    now[0] = 601.0
    limits.check(bound)


def test_what_is_packed_counts_unpacked(site: Any, event: Any) -> None:
    """The disk holds it so; each try is refused until there is room again, and nothing of it is kept."""
    body = json.dumps([{**event(number), "source": None} for number in range(40)]).encode()
    sent = [site.send(gzip.compress(body), client="narrow", content_encoding="gzip").status_code for _ in range(3)]

    assert sent == [202, 429, 429]
    metrics = site.client.get("/metrics").text
    assert 'trustwatch_limited_requests_total{limit="quota",source="narrow"} 2.0' in metrics
