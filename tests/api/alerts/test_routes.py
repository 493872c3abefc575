"""Deliveries as the API and the command line show them, and test alerts through the real outbox to real receivers."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from standardwebhooks import Webhook
from typer.testing import CliRunner

from trustwatch.api.cli.main import make_app
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.settings import Secret
from trustwatch.scoring.delivery.delivery_target import DeliveryChannel, DispatchPolicy
from trustwatch.scoring.delivery.dispatcher import Dispatcher
from trustwatch.scoring.delivery.notifiers.alert_events import ALERT_ROW_KIND, TEST_TYPE
from trustwatch.scoring.delivery.notifiers.webhook_notifier import WebhookNotifier, make_webhook_client
from trustwatch.scoring.delivery.notifiers.webhook_target import WebhookTarget
from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.scoring.records.commits import OutboxRow

from ...support.alert_receiver import ROUTING_KEY, SECRET, TOKEN, Receiver, change

AS = "https://as.example"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def alerting(new_site: Callable[..., Any], receiver: Receiver) -> Any:
    return new_site(webhooks=hooks(receiver.url))


def hooks(url: str) -> tuple[WebhookTarget, ...]:
    secret, chat = Secret(SECRET), Secret(f"{url}/services/{TOKEN}")
    return (
        WebhookTarget(name="soc", url=Secret(url), secret=secret),
        WebhookTarget(name="chat", url=chat, format="slack", levels=("low",)),
        WebhookTarget(name="pager", url=Secret(url), format="pagerduty", routing_key=Secret(ROUTING_KEY)),
        WebhookTarget(name="siem", url=Secret(url), format="ocsf", secret=secret),
    )


def drain(site: Any) -> None:
    """What the dispatcher of the service does: it routes and delivers what is due."""

    async def work() -> None:
        async with make_webhook_client() as client:
            notifier = WebhookNotifier(client, lambda: int(site.clock.now * 1000))
            channels = [DeliveryChannel(ALERT_ROW_KIND, target, notifier) for target in site.settings.webhooks]
            clock = lambda: int(site.clock.now * 1000)  # noqa: E731
            await Dispatcher(site.store.outbox, channels, DispatchPolicy(), clock, random.Random(1)).drain()

    asyncio.run(work())


@contextmanager
def dispatching(site: Any) -> Iterator[None]:
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.05):
            drain(site)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    stop.set()
    thread.join()


def post(site: Any, client: str = "all", **body: Any) -> Any:
    return site.client.post("/v1/alerts/test", json=body, headers=site.auth(client))


def command(site: Any, *arguments: str, client: str = "all") -> Any:
    return CliRunner().invoke(make_app(), ["alerts", *arguments, "--url", site.url, "--token", site.token(client)])


def agent_alert(number: int, name: str, level: int, **members: Any) -> OutboxRow:
    key = IdentityHasher().agent_key("acme", AS, name)
    payload = change(RiskLevel.LOW, RiskLevel(level))
    return OutboxRow(f"alert-{number}", "alert", "", payload, 1_764_000_000_000 + number, key, "burst", level, "acme")


def test_a_test_alert_goes_to_every_target(alerting: Any, receiver: Receiver) -> None:
    answer = post(alerting)
    assert answer.status_code == 202
    assert [item["target"] for item in answer.json()["items"]] == ["soc", "chat", "pager", "siem"]
    drain(alerting)

    found = {json.loads(body).get("type", ""): (headers, body) for headers, body in receiver.got}
    assert len(receiver.got) == 4
    assert all("test" in body.decode().lower() and b"othing has happened" in body for _, body in receiver.got)
    headers, body = found[TEST_TYPE]
    assert headers["webhook-id"] == answer.json()["items"][0]["key"]
    assert json.loads(body)["data"]["requested_by"] == "all"
    with pytest.raises(Exception, match="too old"):  # the clock of this test stands; the signature is a real one
        Webhook(SECRET).verify(body, headers)
    listed = alerting.get("/v1/deliveries", "all").json()["items"]
    assert {(one["status"], one["type"]) for one in listed} == {("delivered", TEST_TYPE)}


def test_who_may_send_a_test(alerting: Any) -> None:
    refused = alerting.client.post("/v1/alerts/test", json={}, headers=alerting.auth("all", "trust.score:read"))
    assert (refused.status_code, refused.json()["scope"]) == (403, "trust.admin")
    post(alerting, "gateway", target="soc")
    drain(alerting)

    assert len(alerting.get("/v1/deliveries", "gateway").json()["items"]) == 1
    assert alerting.get("/v1/deliveries", "globex").json()["items"] == []
    assert post(alerting, tarket="soc").status_code == 422


def test_without_targets_there_is_nothing_to_test(site: Any) -> None:
    answer = post(site)

    assert answer.status_code == 404
    assert "`webhooks` of the settings is empty" in answer.json()["detail"]


def test_deliveries_by_agent_and_why_they_were_held_back(alerting: Any, receiver: Receiver) -> None:
    receiver.answers = [(400, {}, b"invalid")] * 20
    alerting.store.outbox.enqueue([agent_alert(1, "bot", 3), agent_alert(2, "bot", 3), agent_alert(3, "other", 3)])
    drain(alerting)

    where = {"agent_id": "bot", "tenant": "acme", "issuer": AS, "target": "soc"}
    found = alerting.get("/v1/deliveries", "all", **where).json()["items"]
    assert [(one["key"], one["status"]) for one in found] == [("alert-2", "suppressed"), ("alert-1", "failed")]
    assert (found[0]["why"][:9], found[0]["last_error"]) == ("cool-down", None)
    assert (found[1]["why"], found[1]["last_error"]) == ("HTTP 400: invalid",) * 2
    assert found[0]["subject"] == "https://agents.example/pay?v=2"
    suppressed = alerting.get("/v1/deliveries", "all", status="suppressed").json()["items"]
    # The third is of another agent with the same new network: one case, which was told.
    assert {one["key"] for one in suppressed} == {"alert-2", "alert-3"}
    assert alerting.get("/v1/deliveries", "all", agent_id="never-seen").json()["items"] == []


def test_the_command_sends_and_shows(alerting: Any) -> None:
    with dispatching(alerting):
        good = command(alerting, "test", "--json")
        lost = command(alerting, "test", "--target", "nobody")

    rows = [json.loads(line) for line in good.stdout.splitlines()]
    assert good.exit_code == 0, good.output
    assert {(row["target"], row["status"]) for row in rows} == {
        (name, "delivered") for name in ("soc", "chat", "pager", "siem")
    }
    assert lost.exit_code == 1
    assert "there is no such target" in lost.output
