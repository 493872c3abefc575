"""From events in a log to a client at its server and back, with the real pipeline, store, outbox and dispatcher."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trustwatch.api.access.actuation import ACTUATION_DISPATCH_POLICY as ACTION_POLICY
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.source import Record
from trustwatch.scoring.delivery.actuators.actuator_notifier import ActuationMetrics, ActuatorNotifier
from trustwatch.scoring.delivery.actuators.actuator_settings import ActuatorSettings
from trustwatch.scoring.delivery.actuators.desired_state import ACTION_ROW_KIND
from trustwatch.scoring.delivery.delivery_target import DeliveryChannel, DispatchPolicy
from trustwatch.scoring.delivery.dispatcher import Dispatcher
from trustwatch.scoring.pipeline.desired_state_resolver import DesiredStateResolver
from trustwatch.scoring.pipeline.settings import PipelineSettings, PipelineTuning
from trustwatch.scoring.policy.access_evaluation import PolicyEvaluator
from trustwatch.scoring.policy.book import LivePolicy, PolicyBook
from trustwatch.scoring.policy.interventions import ActiveInterventions
from trustwatch.scoring.policy.risk_view import RiskView
from trustwatch.scoring.store.sql_store import open_store, sqlite_url

from ....support.authorization_servers import DEFAULT_S, MemoryActuator, MemoryServer
from ....support.one_partition import EmbeddedPipeline

DAY = 86_400_000
NAME = "agent-1"


class ActuatingPipeline:
    """One machine's worth of Trustwatch, and a server with the client of one agent."""

    def __init__(self, folder: Path, kit: Any, book: PolicyBook) -> None:
        self.now = 0
        self.log = EventLog(folder / "log")
        self.store = open_store(sqlite_url(folder / "tw.db"))
        policy = LivePolicy(book)
        self.pipeline = EmbeddedPipeline(
            folder / "log",
            kit.processor(self.store.agents),
            self.store,
            policy,
            PipelineSettings(commit_interval_s=0.0),
            time.monotonic,
            time.sleep,
            tuning=PipelineTuning(poll_s=0.0),
        )
        self.pipeline.start()
        self.server = MemoryServer()
        self.server.client(NAME)
        self.figures = ActuationMetrics()
        verdicts = PolicyEvaluator(RiskView(), policy, ActiveInterventions(), lambda _: False, lambda: self.now)
        wishes = DesiredStateResolver(self.store, verdicts, lambda: self.now, lambda: "id")
        self.notifier = ActuatorNotifier(
            MemoryActuator(self.server, True),
            self.store.actuations,
            wishes.resolve,
            lambda: self.now,
            self.figures.record,
        )

    def happen(self, records: list[Record]) -> None:
        """Records arrive, and are applied and committed."""
        self.log.append(records)
        self.log.sync()
        self.pipeline.drain()
        self.now = records[-1].received_ms + 250

    def deliver(self) -> None:
        """All that is due leaves. Alerts have a slow way of their own."""

        async def drain() -> None:
            target = ActuatorSettings("as", "hydra", "https://as", ("*",))
            channel = DeliveryChannel(ACTION_ROW_KIND, target, self.notifier, ACTION_POLICY)
            slow = DispatchPolicy(backoff_base_s=300.0)
            await Dispatcher(self.store.outbox, [channel], slow, lambda: self.now, random.Random(7)).drain()

        asyncio.run(drain())

    def close(self) -> None:
        self.pipeline.kill()
        self.log.close()
        self.store.close()


@pytest.fixture
def site(tmp_path: Path, kit: Any) -> Iterator[ActuatingPipeline]:
    """Policy is enforced."""
    made = ActuatingPipeline(tmp_path, kit, PolicyBook(modes={"acme": "enforce"}))
    yield made
    made.close()


def attack(make: Any, kit: Any) -> list[Record]:
    """A token that was revoked is used: critical."""
    token = {"credential": {"method": "none", "token_id": "t1"}}
    at = make.START_MS
    events = [make.event(1, 1, at, type="token.revoke", **token), make.event(2, 1, at + 1, **token)]
    found: list[Record] = kit.records([*events, make.event(3, 1, at + 2, **token)])
    return found


def test_an_attack_contains_and_time_alone_restores(site: ActuatingPipeline, kit: Any, make: Any) -> None:
    """The agent is denied and so stays silent; ticks let it down, and its client is exactly as it was."""
    before = site.server.shown(NAME)
    token = site.server.issued(NAME).token

    site.happen(attack(make, kit))
    site.deliver()

    assert not site.server.active(token)
    assert site.server.issue(NAME) is None
    assert site.figures.outcomes["as", "confirmed"] >= 1
    (bucket,) = [count for bound, count in site.figures.histogram_buckets("as") if bound == "0.5"]
    assert bucket >= 1  # 250 ms after the event
    seen = set()
    for hours in range(1, 24 * 9):
        site.happen([kit.tick(make.START_MS + hours * 3_600_000)])
        site.deliver()
        seen.add((site.server.clients[NAME].enabled, site.server.clients[NAME].lifespan_s))
    assert (True, None) in seen
    assert site.server.shown(NAME) == before
    assert site.server.issued(NAME).lifetime_s == DEFAULT_S
    last = site.store.actuations.page().items[0]
    assert (last.status, last.original) == ("restored", b"")


def test_in_shadow_the_server_hears_nothing(tmp_path: Path, kit: Any, make: Any) -> None:
    site = ActuatingPipeline(tmp_path, kit, PolicyBook())
    try:
        site.happen(attack(make, kit))
        site.deliver()
        assert site.server.issue(NAME) is not None
        assert site.store.actuations.page().items == []
        assert site.store.decisions.page().items
    finally:
        site.close()


def test_actions_are_tried_again_sooner_than_alerts(site: ActuatingPipeline, kit: Any, make: Any) -> None:
    """Their channel has a policy of its own: at most 15 s between two attempts, however long the server was away."""
    site.server.stop()
    site.happen(attack(make, kit))
    for _ in range(40):
        site.deliver()
        site.now += 15_000
    assert site.server.issue(NAME) is not None
    site.server.start()

    site.deliver()

    assert site.server.issue(NAME) is None
    assert site.figures.outcomes["as", "retry"] >= 40
