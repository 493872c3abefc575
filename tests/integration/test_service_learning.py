"""A service without a model: it knows nobody, says so, and trains its first model once it has seen enough."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from trustwatch.simulator.event_stream import simulate
from trustwatch.simulator.population import SimulationSettings

from ..support.service_checks import Models, post_lines

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

MONDAY = datetime(2024, 1, 8, tzinfo=UTC)


@pytest.fixture(scope="module")
def history() -> list[bytes]:
    plan = SimulationSettings(start=MONDAY, duration=timedelta(days=4), seed=11, agents=20, events_per_agent_day=60.0)
    return [one.event for one in simulate(plan)]


def test_it_learns_until_it_has_enough(make_service: Callable[..., Any], tmp_path: Path, history: list[bytes]) -> None:
    """Unknown and `learning` until then; afterwards each agent goes on with all that it has shown, counted once."""
    model_dir = tmp_path / "model"
    service = make_service(model=model_dir)
    service.start()
    third = len(history) // 3
    post_lines(service, history[:third])
    service.settle()
    states = {row["agent_id"]: row["risk_level"] for row in service.pages("/v1/agents")}
    assert len(states) > 10 and set(states.values()) == {"unknown"}
    models = Models(service)
    said = service.wait(lambda: f"has {third:,} of" in (text := models.get()["learning"]) and text)
    assert "of 2,000 events" in said and "of 3 days" in said and "every agent is unknown" in said
    assert [(one["version"], one["status"]) for one in models.get()["items"]] == [("learning", "champion")]
    assert models.in_force("learning")

    post_lines(service, history[third:-40])
    service.wait(lambda: not learning(service), 120.0)
    first = models.get()["in_force"]
    assert first != "learning" and models.in_force(first)
    post_lines(service, history[-40:])
    service.settle()
    assert "low" in {row["risk_level"] for row in service.pages("/v1/agents")}
    sent = Counter((event["tenant"], event["agent"]["id"]) for event in map(json.loads, history))

    def counted() -> dict[tuple[str, str], int]:
        return {(row["tenant"], row["agent_id"]): row["events"] for row in service.pages("/v1/agents")}

    service.wait(lambda: len(counted()) == len(sent), 30.0)  # what the new model counts again is stored in parts
    assert counted() == sent
    assert service.stop() == 0

    service.start()  # the installed model still knows nothing; the switch holds
    service.wait(lambda: models.in_force(first))
    assert not learning(service)
    acts = [(line["act"], line["version"]) for line in models.get("/history")["items"]]
    assert acts == [("switched", first), ("promoted", first), ("trained", first), ("installed", "learning")]
    assert service.stop() == 0 and "Traceback" not in service.log()

    shutil.rmtree(model_dir)  # lost by mistake: nothing begins anew in silence
    refused = service.run("serve", "--settings", str(service.settings))
    assert refused.returncode == 1 and f"judged by '{first}' before: put it back" in refused.stderr


def learning(service: Any) -> bool:
    """Whether `/readyz` says that no trained model is in force."""
    return "learning" in service.client.get("/readyz").json()
