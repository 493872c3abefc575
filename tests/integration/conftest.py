"""The real service as a process of its own on loopback, with a model that is trained once per session."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.events import decode_event
from trustwatch.models.detector import DetectorSettings
from trustwatch.models.model_persistence import save_trained_model
from trustwatch.models.model_training import session_ids, train_model
from trustwatch.simulator.event_stream import simulate
from trustwatch.simulator.population import Attack, SimulationSettings

from ..support.made_once import made_once
from ..support.service_process import ModelAndDay, Service

MONDAY = datetime(2024, 1, 8, tzinfo=UTC)
HISTORY = timedelta(days=4)
DOMAINS = {"acme-corp": ["acme-corp.example"], "globex": ["globex.example"]}


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> ModelAndDay:
    """Four simulated days are the model's history, the fifth has the attacks. Fixed dates: the same on any day."""
    folder = made_once(tmp_path_factory, "world", make_world)
    day = (folder / "day.jsonl").read_bytes().splitlines()
    attacked = {(tenant, agent): name for tenant, agent, name in json.loads((folder / "attacked.json").read_text())}
    return ModelAndDay(folder / "model", day, attacked)


def make_world(folder: Path) -> None:
    """Train the model and write it, the day and its attacks into *folder*."""
    attacks = (
        Attack("scope_creep", at=HISTORY + timedelta(hours=10)),
        Attack("stolen_credential", at=HISTORY + timedelta(hours=15)),
    )
    plan = SimulationSettings(
        start=MONDAY,
        duration=HISTORY + timedelta(days=1),
        seed=7,
        agents=30,
        attacks=attacks,
        events_per_agent_day=80.0,
    )
    ends = (MONDAY + HISTORY).timestamp() * 1000
    past, day, attacked = [], [], {}
    for event in simulate(plan):
        (past if event.at_ms < ends else day).append(event.event)
        if event.label.event_label:
            attacked[json.loads(event.event)["tenant"], event.label.agent_id] = event.label.scenario
    salt = b"salt of the service tests"
    columns = ColumnEncoder(salt, DOMAINS).encode([decode_event(raw) for raw in past])
    settings = DetectorSettings(seed=7, trees=50, folds=3)
    trained = train_model(columns, salt, "integration", settings)
    save_trained_model(folder / "model", trained, settings, len(set(session_ids(columns).tolist())), int(ends))
    (folder / "day.jsonl").write_bytes(b"\n".join(day))
    (folder / "attacked.json").write_text(json.dumps([[*agent, name] for agent, name in attacked.items()]))


@pytest.fixture
def service(tmp_path: Path, world: ModelAndDay) -> Iterator[Service]:
    """A service of this test alone, not started yet."""
    made = Service(tmp_path / "service", world.model)
    yield made
    made.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, world: ModelAndDay) -> Iterator[Service]:
    """A service that runs for all tests of a module; each test uses agents of its own."""
    made = Service(tmp_path_factory.mktemp("service"), world.model)
    made.start()
    yield made
    made.close()


@pytest.fixture
def interruptible(running: Service) -> Iterator[Service]:
    """The service of the module, for a test that stops or kills it: whoever comes next finds it running."""
    yield running
    if not running.runs():
        running.start()


@pytest.fixture
def make_service(tmp_path: Path, world: ModelAndDay) -> Iterator[Callable[..., Service]]:
    made: list[Service] = []

    def make(more: str = "", model: Path | None = None) -> Service:
        made.append(Service(tmp_path / f"service-{len(made)}", model or world.model, more))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="session")
def make_event() -> Callable[..., dict[str, Any]]:
    """Makes events of now, or `ago_s` seconds before; other members by name."""

    def make(
        agent: str, number: int = 0, *, ago_s: float = 0.0, tenant: str = "acme-corp", **members: Any
    ) -> dict[str, Any]:
        at = datetime.fromtimestamp(time.time() - ago_s, UTC).isoformat(timespec="milliseconds")
        return {
            "id": f"{agent}/{number}",
            "time": at,
            "type": "tool.call",
            "tenant": tenant,
            "action": "read_file",
            "agent": {"id": agent, "issuer": "https://as.example", "type": "Clerk"},
            "outcome": "success",
            **members,
        }

    return make
