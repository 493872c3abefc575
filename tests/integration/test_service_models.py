"""The life of models in the real service: trained from its log, measured in shadow, switched, killed, rolled back."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trustwatch.api.composition import (
    engine_settings,
    live_policy,
    open_model_registry,
    open_service_identities,
    open_service_store,
)
from trustwatch.api.settings.loading import load_settings
from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.duplicate_window import DuplicateWindow
from trustwatch.ingest.log.log_reader import LogReader
from trustwatch.scoring.engine.delegation import EdgeCollector
from trustwatch.scoring.engine.engine import Engine
from trustwatch.scoring.pipeline.model_switch import ActiveModels
from trustwatch.scoring.pipeline.processor import Processor
from trustwatch.scoring.pipeline.settings import PipelineSettings, PipelineTuning
from trustwatch.scoring.store.sql_store import open_store, sqlite_url

from ..support.one_partition import EmbeddedPipeline
from ..support.service_checks import Models, child_pid, post_lines

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

MORE = "lifecycle: {enabled: true, every_h: 0, min_agent_days: 10}\n"


def undisturbed(folder: Path) -> tuple[dict[str, Any], list[tuple[str, str, int]]]:
    """State of one run over the service's log from its beginning, with the same versions at hand."""
    settings = load_settings(folder / "settings.yaml", {})
    store = open_store(sqlite_url(folder / "again.db"))
    store.use_identities(open_service_identities(settings))
    models = ActiveModels(open_model_registry(settings), lambda: 0)
    chosen = models.choose(None)
    model, policy = models.load(chosen.version, chosen.digest), live_policy(settings)
    processor = Processor(
        Engine(model, engine_settings(settings), store.agents, identities=store.identities),
        ColumnEncoder(model.salt, settings.domains(), store.identities),
        DuplicateWindow(),
        policy,
        edges=EdgeCollector(),
        models=models,
    )
    pipeline = EmbeddedPipeline(
        settings.data_dir / "log",
        processor,
        store,
        policy,
        PipelineSettings(),
        time.monotonic,
        time.sleep,
        tuning=PipelineTuning(poll_s=0.0),
    )
    pipeline.start()
    pipeline.drain()
    found = state(store)
    pipeline.kill()
    store.close()
    return found


def state(store: Any) -> tuple[dict[str, Any], list[tuple[str, str, int]]]:
    """Agents with all their state; decisions with the version that made them."""
    keys = [one.name.key for one in store.agents.iterate()]
    decisions, cursor = [], None
    while True:
        page = store.decisions.page(limit=500, cursor=cursor)
        decisions += [(one.decision_id, one.model_version, one.level) for one in page.items]
        cursor = page.next_cursor
        if cursor is None:
            return {row.name.agent_id: row for row in store.agents.load(keys).values()}, sorted(decisions)


@pytest.mark.timeout(600)
def test_a_model_lives(make_service: Callable[..., Any], world: Any) -> None:
    """Trained from the log, in shadow, refused, forced, answered, killed on the way, rolled back; nothing is lost."""
    service = make_service(MORE)
    service.start()
    models = Models(service)
    third = len(world.day) // 3
    post_lines(service, world.day[:third])
    assert models.order("train", why="the first of our own").status_code == 202
    challenger = service.wait(models.challenger, 240.0)
    assert challenger["trained"]["by"] == "all"
    assert 0 < challenger["trained"]["events"] + sum(challenger["trained"]["left_out"].values()) <= third
    version = challenger["version"]

    post_lines(service, world.day[third : 2 * third])
    figures = service.wait(
        lambda: (found := models.challenger()["figures"]) and found["events"] == third and found, 180.0
    )
    assert figures["champion"]["version"] == "integration"
    assert figures["challenger"]["version"] == version
    assert 0 < figures["agent_days"] <= 60
    days = models.get("/budget?days=366")  # of today: the simulated day is long ago
    assert days["level"] == "medium"
    shown = models.get(f"/{version}")
    assert shown["on_disk"] and shown["calibration"] and shown["judgement"] is not None

    if shown["judgement"]["reasons"]:
        assert models.order(f"{version}/promote", why="please").status_code == 409
    assert models.order(f"{version}/promote", why="seen in shadow", force=True).status_code == 202
    service.wait(lambda: models.in_force(version))
    post_lines(service, world.day[2 * third :])
    assert models.order("rollback", why="too loud").json()["version"] == "integration"
    worker = child_pid(service.process.pid, "api.service.pipeline_worker")
    assert worker is not None
    os.kill(worker, signal.SIGKILL)  # on its way: it ends with the old one or the new one in force
    service.wait(lambda: models.in_force("integration"), 180.0)
    keeper = child_pid(service.process.pid, "api.models.worker")
    assert keeper is not None
    os.kill(keeper, signal.SIGKILL)
    service.wait(lambda: child_pid(service.process.pid, "api.models.worker") not in (None, keeper))

    states = {one["version"]: one["status"] for one in models.get()["items"]}
    assert states == {"integration": "champion", version: "rejected"}
    acts = [line["act"] for line in models.get("/history")["items"]]
    assert acts == ["switched", "rolled_back", "switched", "promoted", "trained", "installed"]
    assert service.stop() == 0
    assert "Traceback" not in service.log()

    settings = load_settings(service.settings, {})
    store = open_service_store(settings)
    agents, decisions = state(store)
    offset, switches = (
        store.partitions.position(0).offset,
        [(one.version, one.offset) for one in store.models.list_switches()],
    )
    store.close()
    with LogReader(settings.data_dir / "log") as reader:
        assert reader.end_offset(0) == offset == len(world.day) + 2
    assert switches == [
        ("integration", 3 * third + len(world.day) % 3 + 2),
        (version, 2 * third + 1),
        ("integration", 0),
    ]
    assert {made for _, made, _ in decisions} == {"integration", version}
    folder = service.folder.parent / "again"
    shutil.copytree(service.folder, folder)
    assert undisturbed(folder) == (agents, decisions)
