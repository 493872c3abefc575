"""Silent sources are told by webhook alert: once per silence, and not while another process hears them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from trustwatch.api.events.ingest_status import SilenceAlerter, SilenceReport, silence_watched_sources
from trustwatch.api.settings.access_settings import CallerSettings, ForeignTopicSettings, KafkaSettings
from trustwatch.api.settings.root import Settings
from trustwatch.ingest.errors import Unavailable
from trustwatch.scoring.delivery.notifiers.alert_events import ALERT_ROW_KIND, SILENCE_TYPE
from trustwatch.scoring.store.outbox_store import DeliveryRoute
from trustwatch.scoring.store.sql_store import SqlStore, open_store, sqlite_url

NOW = 1_764_000_000_000
SETTINGS = Settings(
    callers=(CallerSettings("door", client_id="door", tenants=("acme",), silence_s=20.0),),
    kafka=KafkaSettings(
        bootstrap_servers=("127.0.0.1:9092",),
        topics=(
            ForeignTopicSettings(
                topic="t", name="edge", format="native", tenants=("acme", "globex"), issuers=("*",), silence_s=10.0
            ),
            ForeignTopicSettings(topic="u", name="quiet", format="native", tenants=("acme",), issuers=("*",)),
        ),
    ),
)


class SilenceProcesses:
    """A shared store, and processes with one clock."""

    def __init__(self, store: SqlStore) -> None:
        self.store, self.now, self.woken = store, NOW, 0

    def process(self) -> SilenceAlerter:
        return SilenceAlerter(
            self.store.outbox, silence_watched_sources(SETTINGS), "https://tw", lambda: self.now, self._wake
        )

    def _wake(self) -> None:
        self.woken += 1

    def alerts(self) -> list[tuple[str, dict[str, object]]]:
        """Key and content of what was enqueued since the last call."""
        self.store.outbox.route([DeliveryRoute("t", ALERT_ROW_KIND, frozenset({3}), 900_000)], self.now)
        leased = self.store.outbox.lease("t", self.now, 99, 10**9)
        return [(one.row.key, json.loads(one.row.payload)) for one in leased]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[SilenceProcesses]:
    store = open_store(sqlite_url(tmp_path / "store.db"))
    yield SilenceProcesses(store)
    store.close()


def look(process: SilenceAlerter, kind: str, name: str, *, silent: bool, last_ms: int) -> None:
    asyncio.run(process.report_silence(kind, [SilenceReport(name, silent, last_ms)]))


def test_a_silence_is_told_once_by_all_processes_and_their_successors(site: SilenceProcesses) -> None:
    """With what a person needs to know; the next silence is another alert."""
    first, second = site.process(), site.process()
    look(first, "topic", "edge", silent=False, last_ms=NOW)
    site.now += 10_000
    for process in (first, second, first, site.process()):
        look(process, "topic", "edge", silent=True, last_ms=NOW)
    ((key, event),) = site.alerts()
    assert key == event["id"] == f"silence-topic-edge-{NOW}"
    assert (event["type"], event["subject"]) == (SILENCE_TYPE, "edge")
    assert event["data"] == {
        "source": "edge",
        "kind": "topic",
        "silence_s": 10.0,
        "tenants": ["acme", "globex"],
        "risk_level": "high",
        "last_heard_at": "2025-11-24T16:00:00.000Z",
        "noticed_at": "2025-11-24T16:00:10.000Z",
        "suppressed_before": 0,
    }
    assert site.woken
    assert [(one.tenant, one.level) for one in site.store.outbox.page().items] == [("", 3)]

    site.now += 5_000
    look(first, "topic", "edge", silent=False, last_ms=site.now)
    site.now += 10_000
    look(first, "topic", "edge", silent=True, last_ms=site.now - 10_000)
    assert [key for key, _ in site.alerts()] == [f"silence-topic-edge-{NOW + 15_000}"]


def test_what_another_process_hears_is_not_silent(site: SilenceProcesses) -> None:
    """Partitions of a topic are spread over workers, callers over replicas."""
    hears, deaf = site.process(), site.process()
    for _ in range(10):
        site.now += 3_000
        look(hears, "caller", "door", silent=False, last_ms=site.now)
        look(deaf, "caller", "door", silent=True, last_ms=0)
    assert site.alerts() == []
    last_ms = site.now
    for _ in range(10):
        site.now += 3_000
        look(hears, "caller", "door", silent=False, last_ms=last_ms)
        look(deaf, "caller", "door", silent=True, last_ms=0)
    ((key, event),) = site.alerts()
    assert key == f"silence-caller-door-{last_ms}"
    assert [one.tenant for one in site.store.outbox.page().items] == ["acme"]
    assert event["source"] == "https://tw"


def test_a_source_that_was_never_heard_is_told_once(site: SilenceProcesses) -> None:
    for _ in range(2):
        look(site.process(), "topic", "edge", silent=True, last_ms=0)
        site.now += 3_600_000
    ((key, event),) = site.alerts()
    assert key == "silence-topic-edge-0"
    assert event["data"]["last_heard_at"] is None  # type: ignore[index]


def test_sources_without_a_bound_are_nobodys_concern(site: SilenceProcesses) -> None:
    look(site.process(), "topic", "quiet", silent=True, last_ms=0)
    look(site.process(), "caller", "edge", silent=True, last_ms=0)
    assert site.alerts() == []


def test_while_the_store_is_away_it_is_said_once_and_told_later(site: SilenceProcesses) -> None:
    process, real = site.process(), site.store.outbox.enqueue_silence

    def away(*_: object) -> bool:
        raise Unavailable("away")

    site.store.outbox.enqueue_silence = away  # type: ignore[method-assign]
    with capture_logs() as logs:
        for _ in range(3):
            look(process, "topic", "edge", silent=True, last_ms=0)
    assert [one["event"] for one in logs] == ["silence of sources cannot be reported"]
    site.store.outbox.enqueue_silence = real  # type: ignore[method-assign]
    look(process, "topic", "edge", silent=True, last_ms=0)
    assert len(site.alerts()) == 1
