"""What a service without a trained model says of itself, and which model may end that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trustwatch.api.models.service import PromotionRefused
from trustwatch.models.model_persistence import LEARNING_VERSION, save_learning_model
from trustwatch.scoring.records.commits import Commit, Position
from trustwatch.scoring.records.models import ModelHistoryEntry, ModelSwitch, ModelVersion

NOW_MS = 1_764_000_000_000


@pytest.fixture
def site(new_site: Callable[..., Any], tmp_path: Path) -> Any:
    """A service that has learned nothing yet, which has looked at how much there is."""
    save_learning_model(tmp_path / "model", NOW_MS)
    found = new_site(model_dir=tmp_path / "model")
    found.desk.refresh()
    return found


def test_it_says_that_it_learns(site: Any) -> None:
    """To whoever asks whether it is ready, and in every answer."""
    site.report()
    ready = site.client.get("/readyz").json()
    assert ready["ready"] and ready["learning"] is True  # no figure: it is open to everybody
    listed = site.get("/v1/models", "all").json()
    assert (listed["in_force"], listed["keeper"]) == (LEARNING_VERSION, True)
    assert listed["learning"] == (
        "The service learns: it has 0 of 2,000 events, and 0.0 of 3 days. Until it has both, every agent is unknown."
    )
    told = site.get("/v1/models", "gateway").json()["learning"]
    assert told == "Every agent is unknown until one was trained."  # figures are of all tenants
    assert [(one["version"], one["status"]) for one in listed["items"]] == [(LEARNING_VERSION, "champion")]
    (line,) = site.get("/v1/models/history", "all").json()["items"]
    assert (line["act"], line["by"], line["why"]) == ("installed", "service", "no model was in model_dir")
    assert site.get("/v1/agents/nobody/risk", tenant="acme").json()["model_version"] == LEARNING_VERSION


@pytest.mark.parametrize("over", [[], ["high"]])
def test_any_model_within_its_budget_ends_it(site: Any, over: list[str]) -> None:
    """There is none that it could be worse than; one over budget waits for a person."""
    made = ModelVersion("m1", "challenger", "d", NOW_MS, NOW_MS, NOW_MS, 0, NOW_MS, 0, {"over_budget": over})
    site.store.models.add(made, ModelHistoryEntry("h1", NOW_MS, "m1", "trained", "schedule", ""))
    judged = site.get("/v1/models/m1", "all").json()["judgement"]
    assert judged["gains"] == ["there is no trained model yet"]
    assert len(judged["reasons"]) == len(over) and all("high" in text for text in judged["reasons"])
    if over:
        site.clock.now += 60
        site.desk.refresh()
        assert "it trained m1, which breaks the alert budget" in site.get("/v1/models", "all").json()["learning"]
        with pytest.raises(PromotionRefused, match=r"more often than `risk.alert_budget` allows: high"):
            asyncio.run(site.desk.promote_proved("m1"))


def test_an_order_that_is_under_way_is_not_overruled(site: Any) -> None:
    """The keeper asks again and again: a person's order comes before, and its own is given once."""
    for version in ("m1", "m2"):
        made = ModelVersion(version, "challenger", "d", NOW_MS, NOW_MS, NOW_MS, 0, NOW_MS, 0, {"over_budget": []})
        site.store.models.add(made, ModelHistoryEntry(f"h{version}", NOW_MS, version, "trained", "schedule", ""))
    now_ms = int(site.clock.now * 1000)
    site.store.models.update([], [ModelHistoryEntry("o1", now_ms, "m1", "promoted", "ann", "")])
    assert asyncio.run(site.desk.promote_proved("m2")) is False
    site.clock.now += 601  # lost on its way to the log
    with pytest.raises(PromotionRefused):  # looked at again: its directory is not there
        asyncio.run(site.desk.promote_proved("m2"))


def test_who_went_back_to_learning_is_not_hurried(site: Any) -> None:
    """Nothing is trained by itself, and the version of before has to prove itself like any other."""
    made = ModelVersion("m1", "challenger", "d", NOW_MS, NOW_MS, NOW_MS, 0, NOW_MS, 0, {"over_budget": []})
    site.store.models.add(made, ModelHistoryEntry("h1", NOW_MS, "m1", "trained", "schedule", ""))
    installed = site.store.models.get(LEARNING_VERSION).digest
    at = site.store.partitions.claim(0)
    switches = [
        ModelSwitch(0, at.epoch, offset, version, installed, installed, NOW_MS + offset)
        for offset, version in enumerate((LEARNING_VERSION, "m1", LEARNING_VERSION))
    ]
    site.store.commit(Commit(at, Position(0, at.epoch, 3), [], [], [], [], switches=switches))
    site.clock.now += 60
    site.desk.refresh()
    listed = site.get("/v1/models", "all").json()
    assert listed["learning"].startswith("Somebody went back to learning.") and not listed["keeper"]
    assert "nothing is known of it" in site.get("/v1/models/m1", "all").json()["judgement"]["reasons"][0]
