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
    site.sign_in(group)
    answer = site.browser.get("/console/health")
    assert answer.status_code == 200, answer.text
    text: str = answer.text
    return text


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


def test_names_of_other_tenants_are_for_people_of_all(new_site: Callable[..., Any]) -> None:
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
