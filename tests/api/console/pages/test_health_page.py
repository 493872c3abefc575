"""The page of health: the state of the process, and the settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from trustwatch.api.events.ingest_status import (
    ForeignTopicReport,
    IngestReport,
    IngestStatus,
    SilenceDetector,
    SilenceReport,
)
from trustwatch.api.settings.access_settings import CallerSettings, ForeignTopicSettings, KafkaSettings
from trustwatch.ingest.errors import Unavailable
from trustwatch.ingest.settings import Secret
from trustwatch.scoring.delivery.notifiers.webhook_target import WebhookTarget

from ....support.console_records import NOW_MS


def health(site: Any, group: str = "trust-admins") -> str:
    """The page, as somebody of a group sees it."""
    site.sign_in(group)
    answer = site.browser.get("/console/health")
    assert answer.status_code == 200, answer.text
    text: str = answer.text
    return text


def test_each_part_is_told_in_words(site: Any, make_row: Callable[..., Any]) -> None:
    site.know(make_row("bot"))
    text = health(site)
    assert "judges what arrives" in text and ">ready<" in text
    site.inside(site.status.mark_stopped)
    site.clock.now += 60
    text = health(site)
    assert "does not report: answers become stale" in text and ">not ready<" in text
    assert "2025-11-24 16:01:00 UTC" in text.partition("does not report")[2].partition("</tr>")[0]


def test_what_does_not_hold_or_work_yet_is_told(site: Any) -> None:
    site.status.waiting_for, site.reloads.restart_needed = "a partition: none yet", ("hooks", "listen.port")
    assert "The worker waits for a partition: none yet." in health(site)
    assert "hold after a restart alone: hooks, listen.port." in health(site)
    assert "listen.port" not in health(site, "blind")


def test_what_was_lost_is_counted_and_what_was_not_is_left_out(site: Any) -> None:
    assert "Nothing since this process started." in health(site)
    site.status.dropped_dead_letters = 7
    site.status.work_counts = {"late_events": 9, "vectors_dropped": 3}
    text = health(site)
    site.status.dropped_dead_letters, site.status.work_counts = 0, {}
    row = text.partition("dead letters that were dropped: the store was full")[2].partition("</tr>")[0]
    assert ">7<" in row and "trustwatch_dead_letters_dropped_total" in row
    assert "vectors_dropped" in text and "late_events" not in text


def test_versions_and_store(site: Any) -> None:
    text = health(site)
    assert "<dt>Model</dt><dd>m1</dd>" in text and "<dt>Token policy</dt><dd>3</dd>" in text
    assert f"<dt>Tables of the store</dt><dd>{site.store.schema_revision()}</dd>" in text


def test_a_store_that_does_not_answer_is_told(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise Unavailable("the database does not answer: no route")

    monkeypatch.setattr(site.store, "schema_revision", away)
    assert "does not answer" in health(site)


def test_settings_are_for_people_of_all_tenants_and_without_secrets(site: Any) -> None:
    text = health(site)
    assert "client_secret: " in text and "with+in it" not in text and "***" in text
    assert "trust-admins" in text
    narrow = health(site, "blind")
    assert "client_secret" not in narrow and "they name every tenant" in narrow.lower()
    site.sign_in("soc")
    assert site.browser.get("/console/health").status_code == 403


def test_a_target_that_was_stopped_says_since_when_and_why(new_site: Callable[..., Any]) -> None:
    site = new_site(webhooks=(WebhookTarget("soc", Secret("https://soc.example/in"), "slack"),))
    site.store.outbox.stop_target("soc", "f", NOW_MS - 60_000, "410 Gone")
    site.store.outbox.stop_target("of-old", "f", NOW_MS, "404 Not Found")
    text = health(site)
    assert "2025-11-24 15:59:00 UTC" in text and "410 Gone" in text and "404 Not Found" not in text
    assert "soc.example" not in text


def test_names_of_other_tenants_are_for_people_of_all(new_site: Callable[..., Any]) -> None:
    """Callers and topics show to whose tenants they belong; targets, counts and sources of all belong to none."""
    bound = {"issuers": ("https://as.example",), "silence_s": 60.0}
    callers = tuple(
        CallerSettings(name=f"caller-{name}", client_id=name, tenants=tenants, **bound)
        for name, tenants in {
            "acme": ("acme",),
            "both": ("acme", "globex"),
            "globex": ("globex",),
            "any": ("*",),
        }.items()
    )
    topics = tuple(
        ForeignTopicSettings(topic=name, name=f"topic-{name}", format="native", tenants=(name,), issuers=("*",))
        for name in ("acme", "globex")
    )
    target = WebhookTarget("target-soc", Secret("https://soc.example/in"), "slack")
    kafka = KafkaSettings(bootstrap_servers="127.0.0.1:1", topics=topics)
    site = new_site(webhooks=(target,), callers=callers, kafka=kafka)
    site.store.outbox.stop_target("target-soc", "f", NOW_MS, "410 Gone")
    site.status.work_counts = {"vectors_dropped": 3}
    services, ingest = site.app.app.state.services, IngestStatus()
    reports = [SilenceReport(topic.name, True, 0) for topic in topics]
    ingest.note(IngestReport([ForeignTopicReport(topic.name) for topic in topics], reports))
    services.add(ingest)
    site.clock.now += 61
    site.inside(lambda: services.get(SilenceDetector).check(site.clock()))

    everything, narrow = health(site), health(site, "blind")
    overview = site.browser.get("/console/").text

    own = {"caller-acme", "caller-both", "topic-acme"}
    foreign = {"caller-globex", "caller-any", "topic-globex", "target-soc"}
    assert {name for name in own | foreign if f"<strong>{name}</strong>" not in everything} == set()
    assert {name for name in own if f"<strong>{name}</strong>" not in narrow} == set()
    assert {name for name in foreign if name in narrow + overview} == set()
    assert "vectors_dropped" in everything and "vectors_dropped" not in narrow
    assert "1 of 1: people of all tenants see which" in narrow
