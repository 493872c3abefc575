"""Pages of models: only people who may see all tenants see figures of all tenants."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from trustwatch.api.http.store_executor import StoreExecutor
from trustwatch.api.models.service import ModelService
from trustwatch.scoring.learning.budget_chart import CalibrationCurve, CalibrationPoint
from trustwatch.scoring.learning.promotion import PromotionAssessment
from trustwatch.scoring.records.models import ModelHistoryEntry, ModelVersion

from ....support.console_records import NOW_MS

WORDS = ("shown to those who may see all of them", "87,654", "agent-days of others", "root-of-all")


FLEET = CalibrationCurve("*", "*", 4_321, True, (CalibrationPoint(0.1, 1.0), CalibrationPoint(0.9, 0.001)))


class Known:
    """Curves of agents that a version knows; none until it was rehearsed."""

    curves: tuple[CalibrationCurve, ...] = ()


async def _no_control(_: bytes) -> None:
    raise AssertionError("nothing is ordered")


def serve(site: Any, monkeypatch: pytest.MonkeyPatch) -> Known:
    """Give the site a champion and a challenger; curves and judgements are as the test says."""
    told, known = {"source": "archive", "events": 87_654}, Known()
    versions = [
        ModelVersion("m2", "challenger", "d", 1, 2, 3, trained=told),
        ModelVersion("m1", "champion", "d", 1, 2, 3, trained=told),
    ]
    for version in versions:
        entry = ModelHistoryEntry(version.version, 3, version.version, "trained", "root-of-all", "it was time")
        assert site.store.models.add(version, entry)
    registry: Any = SimpleNamespace(installed_model=lambda: SimpleNamespace(version="m1"))
    models = ModelService(
        site.settings, site.store, registry, _no_control, StoreExecutor(), lambda: NOW_MS, lambda: "1"
    )
    monkeypatch.setattr(models, "_calibration_curves", lambda *_: ([FLEET], list(known.curves)))
    judgement = PromotionAssessment(["fewer on 12 agent-days of others"], [])
    monkeypatch.setattr(models, "_assess", lambda _: judgement)
    site.app.app.state.services.add(models)
    return known


@pytest.mark.parametrize(("group", "everybody"), [("trust-admins", True), ("soc", False)])
def test_figures_of_all_tenants_are_for_those_who_see_all(
    new_site: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, group: str, everybody: bool
) -> None:
    site = new_site()
    serve(site, monkeypatch)
    site.sign_in(group)
    listed, one = (site.browser.get(path) for path in ("/console/models", "/console/models/m2"))

    assert (listed.status_code, one.status_code) == (200, 200)
    assert "m2" in listed.text and "challenger" in listed.text
    assert [word in listed.text for word in WORDS] == [not everybody, everybody, False, everybody]
    assert [word in one.text for word in WORDS] == [not everybody, everybody, everybody, everybody]
    assert "Should it come into force?" in one.text
