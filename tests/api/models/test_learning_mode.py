"""What a service without a trained model says of itself, and which model may end that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trustwatch.api.models.service import PromotionRefused
from trustwatch.models.learning_model import save_learning_model
from trustwatch.scoring.records.models import ModelHistoryEntry, ModelVersion

NOW_MS = 1_764_000_000_000


@pytest.fixture
def site(new_site: Callable[..., Any], tmp_path: Path) -> Any:
    """A service that has learned nothing yet, which has looked at how much there is."""
    save_learning_model(tmp_path / "model", NOW_MS)
    found = new_site(model_dir=tmp_path / "model")
    found.desk.refresh()
    return found


@pytest.mark.parametrize("over", [[], ["high"]])
def test_any_model_within_its_budget_ends_it(site: Any, over: list[str]) -> None:
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
    for version in ("m1", "m2"):
        made = ModelVersion(version, "challenger", "d", NOW_MS, NOW_MS, NOW_MS, 0, NOW_MS, 0, {"over_budget": []})
        site.store.models.add(made, ModelHistoryEntry(f"h{version}", NOW_MS, version, "trained", "schedule", ""))
    now_ms = int(site.clock.now * 1000)
    site.store.models.update([], [ModelHistoryEntry("o1", now_ms, "m1", "promoted", "ann", "")])
    assert asyncio.run(site.desk.promote_proved("m2")) is False
    site.clock.now += 601  # lost on its way to the log
    with pytest.raises(PromotionRefused):  # looked at again: its directory is not there
        asyncio.run(site.desk.promote_proved("m2"))
