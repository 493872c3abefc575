"""Sources over real HTTP: silence of callers, what the ingest process reports, refused records of topics."""

from __future__ import annotations

import json
import time
from typing import Any

from trustwatch.api.events.ingest_status import (
    ForeignTopicReport,
    IngestReport,
    SilenceReport,
    decode_ingest_report,
    encode_ingest_report,
)
from trustwatch.api.settings.access_settings import ForeignTopicSettings, KafkaSettings
from trustwatch.ingest.source import RecordKind
from trustwatch.scoring.records.commits import Commit, Position
from trustwatch.scoring.records.dead_letters import DeadLetter

LINE = {
    "start_time": "2025-11-24T16:00:00Z",
    "method": "GET",
    "response_code": 200,
    "route_name": "pay",
    "jwt.client_id": "bot",
    "x-envoy-origin-path": "/v1?token=t",
}


def metrics(site: Any) -> dict[str, float]:
    lines = site.client.get("/metrics").text.splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[:1] != "#")}


def soon(site: Any, name: str, value: float) -> bool:
    end = time.monotonic() + 5
    while metrics(site)[name] != value and time.monotonic() < end:
        time.sleep(0.05)
    return metrics(site)[name] == value


def test_a_caller_that_sends_nothing_is_noticed(site: Any, event: Any) -> None:
    """After its bound, not before; refused events end its silence too; callers without a bound are not watched."""
    silent = 'trustwatch_source_silent{source="slow"}'
    first = metrics(site)
    site.clock.now += 61

    assert first[silent] == 0
    assert soon(site, silent, 1)
    assert site.send({"no": "event"}, "slow").status_code == 400
    assert metrics(site)[silent] == 0
    assert [name for name in metrics(site) if name.startswith("trustwatch_source_silent")] == [silent]


def test_reports_of_the_ingest_process_become_metrics(site: Any) -> None:
    """As they come over its socket; without such a process there are none."""
    report = IngestReport([ForeignTopicReport("gw", 5, 2, 1, 7, True)], [SilenceReport("gw", True, 0)])

    before = metrics(site)
    site.inside(lambda: site.ingest.note(decode_ingest_report(encode_ingest_report(report))))
    after = metrics(site)
    site.inside(site.ingest.ended)
    ended = metrics(site)

    assert not any(name.startswith("trustwatch_ingest") for name in before)
    assert after['trustwatch_ingest_records_total{outcome="rejected",source="gw"}'] == 2
    assert after['trustwatch_ingest_lag{source="gw"}'] == 7
    assert after['trustwatch_source_silent{source="gw"}'] == 1
    assert (after['trustwatch_ingest_reading{source="gw"}'], ended['trustwatch_ingest_reading{source="gw"}']) == (1, 0)
    assert site.ingest.alive is False


def test_a_refused_record_of_a_topic_is_tried_again_as_its_mapping_says(new_site: Any) -> None:
    """With the tenant and issuer that the topic stands for, whoever asks; its form is the gateway's own."""
    topic = ForeignTopicSettings(topic="t", name="edge", format="envoy", tenants=("acme",), issuers=("https://as",))
    site = new_site(kafka=KafkaSettings(bootstrap_servers=("127.0.0.1:1",), topics=(topic,)))
    position = site.store.partitions.claim(0)
    letters = [
        DeadLetter(name, 0, "edge", "wrong", "$", raw, 0, 0)
        for name, raw in (("good", json.dumps(LINE).encode()), ("bad", b"GET /"), ("broken", b"[{"))
    ]
    site.store.commit(Commit(position, Position(0, position.epoch, 1), [], [], [], letters))

    answers = {
        name: site.client.post(f"/v1/dead-letters/{name}/replay", headers=site.auth("all"))
        for name in ("good", "bad", "broken")
    }

    assert [answer.status_code for answer in answers.values()] == [202, 400, 400]
    assert "not a JSON object" in answers["bad"].json()["detail"]
    (record,) = site.logged()
    native = json.loads(record.payload)
    assert (native["tenant"], native["agent"]["issuer"], native["action"]) == ("acme", "https://as", "GET pay")
    assert site.logged(RecordKind.DEAD) == []
    assert site.get("/v1/dead-letters/good", "gateway").status_code == 404
