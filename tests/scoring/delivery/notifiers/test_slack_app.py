"""Alerts of cases as threads of a channel: the real dispatcher and store, and a Slack with the documented answers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from trustwatch.ingest.settings import Secret
from trustwatch.scoring.delivery.delivery_target import DeliveryChannel, DispatchPolicy
from trustwatch.scoring.delivery.dispatcher import Dispatcher
from trustwatch.scoring.delivery.notifiers.alert_events import build_alert_row, build_case_row
from trustwatch.scoring.delivery.notifiers.slack_app import read_answer
from trustwatch.scoring.delivery.notifiers.slack_app_settings import SlackAppSettings
from trustwatch.scoring.delivery.notifiers.webhook_notifier import WebhookNotifier, make_webhook_client
from trustwatch.scoring.delivery.notifiers.webhook_target import WebhookTarget
from trustwatch.scoring.records.cases import Case, CaseEntry
from trustwatch.scoring.records.commits import Delivery
from trustwatch.scoring.store.case_store import CaseUpdate
from trustwatch.scoring.store.sql_store import SqlStore, open_store, sqlite_url

from ....support.alert_receiver import Receiver
from ....support.alert_receiver import target as webhook
from ....support.slack import BOT_TOKEN, CHANNEL, FakeSlack, slack_target
from ....support.stored_rows import NOW, commit, decision, name

A, B, C = name("a"), name("b"), name("c")


@pytest.fixture
def slack() -> Iterator[FakeSlack]:
    made = FakeSlack()
    yield made
    made.close()


@pytest.fixture
def place(tmp_path: Path) -> str:
    return sqlite_url(tmp_path / "s.db")


@pytest.fixture
def store(place: str) -> Iterator[SqlStore]:
    made = open_store(place)
    yield made
    made.close()


def rise(store: SqlStore, number: int, agent: Any = A, before: int = 1, level: int = 3, **indicators: str) -> None:
    """An agent's level changed; *indicators* are new to it."""
    shown = [
        {"kind": kind, "value": value, "status": "new", "at": "2026-01-01T00:00:00Z"}
        for kind, value in indicators.items()
    ]
    changed = msgspec.structs.replace(
        decision(number, agent), previous_level=before, level=level, evidence={"indicators": shown}
    )
    commit(store, decisions=[changed], outbox=[build_alert_row(changed, {}, "https://trust.example")])


def act(store: SqlStore, case: Case, action: Any, **values: Any) -> None:
    """Something that a person does to a case, of which targets hear."""
    changed = msgspec.structs.replace(case, **values)
    entry = CaseEntry(case.case_id, 0, NOW, "ann", action, "because")
    row = build_case_row(changed, entry, store.cases.agents(case.case_id), "https://trust.example")
    assert store.cases.update(CaseUpdate(changed, entry, (row,)))


def deliver(store: SqlStore, *targets: WebhookTarget, now_ms: int = NOW, policy: DispatchPolicy | None = None) -> None:
    """A dispatcher of its own, as after a kill: all that it knows is in the store."""

    async def go() -> None:
        async with make_webhook_client() as client:
            notifier = WebhookNotifier(client, lambda: now_ms)
            channels = [DeliveryChannel("alert", one, notifier) for one in targets]
            chosen = policy or DispatchPolicy(cooldown_s=0)
            await Dispatcher(store.outbox, channels, chosen, lambda: now_ms, random.Random(3)).drain()

    asyncio.run(go())


def state(store: SqlStore, key: str, target: str = "chat") -> Delivery:
    (found,) = [one for one in store.outbox.page(key=key).items if one.target == target]
    return found


def threads(messages: Sequence[dict[str, Any]]) -> list[str]:
    return [one.get("thread_ts", "") for one in messages]


def test_what_belongs_to_one_case_is_one_thread(slack: FakeSlack, store: SqlStore, place: str) -> None:
    """Rises of its agents, falls and what people do follow the first message, over restarts; another case begins its
    own. A worse level than before shows in the channel, too."""
    chat = slack_target(slack.url)
    rise(store, 1, target="x")
    rise(store, 2, C)
    deliver(store, chat)
    store.close()
    again = open_store(place)
    again.partitions.claim(0)
    try:
        rise(again, 3, B, target="x")
        rise(again, 4, A, before=3, level=4)
        deliver(again, chat)
        (case,) = [one for one in again.cases.page().items if one.agents == 2]
        act(again, case, "closed", status="closed", verdict="false")
        deliver(again, chat)
    finally:
        again.close()

    by_id = {one["metadata"]["event_payload"]["id"]: one for one in slack.messages}
    first, other, *further = by_id["alert-D1"], by_id["alert-D2"], *slack.messages[2:]
    assert {one["channel"] for one in slack.messages} == {CHANNEL}
    assert threads([first, other]) == ["", ""]
    assert threads(further) == [first["ts"]] * 3
    assert [one["reply_broadcast"] for one in further] == [False, True, False]
    assert "Case closed as false" in further[-1]["text"]
    assert first["metadata"] == {"event_type": "trustwatch_alert", "event_payload": {"id": "alert-D1"}}


def test_an_answer_that_was_lost_doubles_one_message_at_most(slack: FakeSlack, store: SqlStore) -> None:
    """Slack knows no message again: it is posted once more, with the same id, and the case goes on after that one."""
    chat = slack_target(slack.url)
    rise(store, 1)
    slack.lost = 1
    deliver(store, chat)
    waiting = state(store, "alert-D1")
    assert waiting.status == "pending"
    rise(store, 2, before=3, level=4)
    deliver(store, chat)  # what follows waits
    assert len(slack.messages) == 1
    deliver(store, chat, now_ms=waiting.next_attempt_ms)

    first, second, reply = slack.messages
    assert first["metadata"] == second["metadata"]
    assert threads([first, second, reply]) == ["", "", second["ts"]]
    assert slack.requests == 3


def test_too_many_requests_pause_the_target(slack: FakeSlack, store: SqlStore) -> None:
    """429 with Retry-After holds for all that waits; then each goes once, in order."""
    chat = slack_target(slack.url)
    slack.refusals = [(429, {"retry-after": "30"}, "ratelimited")]
    rise(store, 1)
    rise(store, 2, before=3, level=4)
    deliver(store, chat)
    assert slack.requests == 1
    due = state(store, "alert-D1").next_attempt_ms
    assert due >= NOW + 30_000
    deliver(store, chat, now_ms=due)
    assert threads(slack.messages) == ["", slack.messages[0]["ts"]]


def test_a_thread_that_a_person_removed_begins_anew(slack: FakeSlack, store: SqlStore) -> None:
    """The next message is posted by itself, and further ones follow that one."""
    chat = slack_target(slack.url)
    rise(store, 1)
    deliver(store, chat)
    slack.remove(slack.messages[0]["ts"])
    rise(store, 2, before=3, level=4)
    deliver(store, chat)
    rise(store, 3, before=4, level=3)
    deliver(store, chat)
    first, reply = slack.messages
    assert threads([first, reply]) == ["", first["ts"]]


def test_another_channel_has_threads_of_its_own(slack: FakeSlack, store: SqlStore) -> None:
    """A message of the channel before is not followed there: Slack would refuse it."""
    rise(store, 1)
    deliver(store, slack_target(slack.url))
    rise(store, 2, before=3, level=4)
    deliver(store, slack_target(slack.url, channel="C9999999999"))
    waiting = state(store, "alert-D2")
    assert (waiting.status, waiting.last_error) == ("pending", "Slack: channel_not_found")
    deliver(store, slack_target(slack.url), now_ms=waiting.next_attempt_ms)
    assert threads(slack.messages) == ["", slack.messages[0]["ts"]]


def test_a_slow_slack_holds_up_nobody_else(slack: FakeSlack, store: SqlStore) -> None:
    """It has its own attempts and its own time; the other target has the alert meanwhile."""
    other = Receiver()
    slack.go.clear()
    try:
        rise(store, 1)
        deliver(store, slack_target(slack.url, timeout_s=0.3), webhook(other.url, "cloudevents"))
        assert state(store, "alert-D1", "soc").status == "delivered"
        waiting = state(store, "alert-D1")
        assert (waiting.status, waiting.last_error) == ("pending", "no answer within 0.3 s")
    finally:
        slack.go.set()
        other.close()


@pytest.mark.parametrize(
    ("status", "body", "outcome", "error"),
    [
        (200, b'{"ok":true,"channel":"C1","ts":"1.2"}', "delivered", ""),
        (200, b'{"ok":false,"error":"ratelimited"}', "retry", "Slack: ratelimited"),
        (200, b'{"ok":false,"error":"not_in_channel"}', "retry", "Slack: not_in_channel"),
        (200, b'{"ok":false,"error":"invalid_blocks"}', "failed", "Slack: invalid_blocks"),
        (200, b'{"ok":false,"error":"token_revoked"}', "gone", "Slack: token_revoked"),
        (200, b'{"ok":false}', "failed", "Slack: not ok"),
        (200, b"<html>", "retry", "HTTP 200: not an answer of Slack's Web API"),
        (302, b"", "failed", "HTTP 302: not an answer of Slack's Web API"),
        (404, b"<html>", "failed", "HTTP 404: not an answer of Slack's Web API"),
        (503, b"", "retry", "HTTP 503"),
    ],
)
def test_meaning_of_answers(status: int, body: bytes, outcome: str, error: str) -> None:
    """200 alone says nothing: `ok` does. What time or an administrator may mend is tried again."""
    result, _ = read_answer(status, None, body, NOW)
    assert (result.outcome, result.error) == (outcome, error)


def test_no_secret_is_shown(slack: FakeSlack) -> None:
    """The token stands in the header alone; another token is another target, so that a stopped one goes on."""
    one = slack_target(slack.url)
    assert BOT_TOKEN not in repr(one) + one.fingerprint
    assert one.redact(f"no {BOT_TOKEN}") == "no ***"
    other = SlackAppSettings(bot_token=Secret("xoxb-another"), channel=CHANNEL)
    assert one.fingerprint != slack_target(slack.url, slack_app=other).fingerprint


def test_a_bot_posts_in_the_format_of_slack_alone() -> None:
    """A setting that would do nothing is an error; a channel is told by its id."""
    app = SlackAppSettings(bot_token=Secret(BOT_TOKEN), channel=CHANNEL)
    with pytest.raises(ValueError, match="`slack_app` means nothing in format `pagerduty`; leave it out"):
        WebhookTarget(
            name="p",
            url=Secret("https://events.example"),
            format="pagerduty",
            routing_key=Secret("k" * 32),
            slack_app=app,
        )
    with pytest.raises(msgspec.ValidationError, match="channel"):
        msgspec.convert({"bot_token": Secret("x"), "channel": "#alerts"}, SlackAppSettings)
