"""From an archived history to a promotion by figures, with an alert of drift on the way, on Kafka and PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from standardwebhooks import Webhook

from trustwatch.scoring.delivery.notifiers.alert_events import DRIFT_ALERT_TYPE

from ...support.alert_receiver import SECRET, Receiver
from ...support.distributed_testbed import PARTITIONS, archive_reaches, switches_to, wait
from ...support.service_checks import Models, post_lines

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

ARCHIVE = "archive: {directory: archive, interval_s: 0.3}\n"
LIFECYCLE = """\
lifecycle: {{enabled: true, min_agent_days: 20, promote: automatic, drift: {{reference_days: 1}}}}
webhooks: [{{name: soc, url: "{url}", secret: {{file: soc.secret}}, levels: [medium]}}]
"""
EARLY = 200
"""Events of a day that are not the whole day, and go on until long after its first hour."""
GROWTH = 30.0
"""What a new release does to the sizes of requests and answers: the champion finds that odd in every event, who has
learned it does not. Three times as much is too little: what agents show in event after event soon bets less
(`usual_oddness`), and three alerts of 28 agents tell no two models apart."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def later(world: Any, days: int, growth: float = 1.0) -> list[bytes]:
    """The day of the world without its attacks, on the Friday before last and *days* later."""
    events = [json.loads(raw) for raw in world.day]
    times = [msgspec.convert(event["time"], datetime) for event in events]
    weeks = (datetime.now(UTC) - times[0] - timedelta(days=10)) // timedelta(days=7)
    made = []
    for event, at in zip(events, times, strict=True):
        if (event["tenant"], event["agent"]["id"]) in world.attacked:
            continue
        event |= {"id": f"{event['id']}+{days}", "time": (at + timedelta(days=7 * weeks + days)).isoformat()}
        if growth > 1.0:
            event |= {name: int((event.get(name) or 100) * growth) for name in ("bytes_in", "bytes_out")}
        made.append(json.dumps(event).encode())
    return made


def test_a_challenger_from_the_archive_wins_and_drift_is_told(
    make_rig: Any, kafka: Any, serve: Any, world: Any, receiver: Receiver
) -> None:
    """Trained on schedule from what is archived; promoted by figures in every partition; drift told to a webhook, once;
    rolled back."""
    # The events are of last week, ticks of today: one between two batches would end their evidence, and what the
    # champion suspects (what training leaves out) would follow the pace of the test.
    rig = make_rig(kafka, more=ARCHIVE, tick_s=3600)
    (rig.folder / "soc.secret").write_text(SECRET)
    archiver, replica, first = serve(rig, "--archiver-only"), serve(rig, "--api-only"), rig.worker()
    wait(replica.is_ready, 90.0)
    news = later(world, 4, GROWTH)
    # Of one day of the release the challenger learns too little: whether it keeps its budget hung on the model's salt.
    grown = [*later(world, 2, GROWTH), *later(world, 3, GROWTH)]
    past = [*later(world, 0), *grown, *news[:EARLY]]  # what ends the day before, too
    post_lines(replica, past)
    rig.settle()
    archiver.wait(lambda: archive_reaches(rig.folder / "archive", rig.offsets()), 60.0)
    keeping = serve(rig, "--workers-only", more=ARCHIVE + LIFECYCLE.format(url=receiver.url))
    models = Models(replica)
    challenger = keeping.wait(models.challenger, 240.0)
    version, trained = challenger["version"], challenger["trained"]
    assert (trained["by"], trained["source"], trained["after"]) == ("schedule", "archive and topic", "integration")
    assert trained["events"] + sum(trained["left_out"].values()) == len(past)
    assert sum(begin for begin, _ in trained["offsets"].values()) >= len(past)  # nothing of it was read from the topic

    (told,) = keeping.wait(lambda: [one for one in alerts(receiver) if one["type"] == DRIFT_ALERT_TYPE], 90.0)
    assert told["subject"] == "*/*" and told["data"]["model_version"] == "integration"
    (judged,) = [day for day in models.get("/drift")["items"] if day["judged"] and day["agent_type"] == "*"]
    assert judged["drifted"] == told["data"]["drifted"] and "request_size_surprise" in judged["drifted"]

    delivery = keeping.wait(lambda: replica.pages("/v1/deliveries", key=told["id"], status="delivered"), 30.0)
    assert [(one["target"], one["type"], one["attempts"]) for one in delivery] == [("soc", DRIFT_ALERT_TYPE, 1)]

    post_lines(replica, news[EARLY:])
    keeping.wait(lambda: {one.partition for one in switches_to(rig, version)} == set(range(PARTITIONS)), 90.0)
    keeping.wait(lambda: models.in_force(version), 30.0)
    figures = models.get(f"/{version}")["figures"]
    assert figures["challenger"]["per_1000"]["high"] < figures["champion"]["per_1000"]["high"]
    (promoted,) = [line for line in models.get("/history")["items"] if line["act"] == "promoted"]
    assert promoted["version"] == version and promoted["detail"]["gains"] and not promoted["detail"]["forced"]

    back = replica.run("call", "order_rollback", "why=to see it", "--url", replica.url, "--token", replica.token())
    assert back.returncode == 0 and "integration" in back.stdout + back.stderr, back
    keeping.wait(lambda: models.in_force("integration"), 60.0)
    assert {one["version"]: one["status"] for one in models.get()["items"]} == {
        "integration": "champion",
        version: "rejected",
    }
    rig.settle()
    assert rig.store.dead_letters.page().items == []
    assert keeping.stop() == 0 and archiver.stop() == 0
    first.stop()
    assert "Traceback" not in keeping.log() + archiver.log() + first.log()


def alerts(receiver: Receiver) -> list[dict[str, Any]]:
    """What the webhook got, with signatures that hold."""
    return [Webhook(SECRET).verify(body, headers) for headers, body in receiver.got]
