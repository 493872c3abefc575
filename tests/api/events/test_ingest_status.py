"""Sources over real HTTP: silence of callers, what the ingest process reports, refused records of topics."""

from __future__ import annotations

import json
from typing import Any

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


def test_a_refused_record_of_a_topic_is_tried_again_as_its_mapping_says(new_site: Any) -> None:
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
