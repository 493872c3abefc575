"""The model's pages: figures of all tenants are for people who may see all of them; others are told that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from trustwatch.api.console.pages import models_page
from trustwatch.api.models.service import ModelVersionView
from trustwatch.scoring.learning.calibration_curve import CalibrationCurve, CalibrationPoint
from trustwatch.scoring.learning.promotion import PromotionAssessment
from trustwatch.scoring.records.models import ModelHistoryEntry, ModelVersion
from trustwatch.scoring.store.interface import Page

WORDS = ("shown to those who may see all of them", "87,654", "agent-days of others", "root-of-all")


FLEET = CalibrationCurve("*", "*", 4_321, True, (CalibrationPoint(0.1, 1.0), CalibrationPoint(0.9, 0.001)))


class Versions:
    """A desk with a champion and a challenger."""

    version = "m1"
    known: tuple[CalibrationCurve, ...] = ()

    def __init__(self) -> None:
        told = {"source": "archive", "events": 87_654}
        self.all = [
            ModelVersion(name, kind, "d", 1, 2, 3, trained=told)
            for name, kind in (("m2", "challenger"), ("m1", "champion"))
        ]  # type: ignore[arg-type]
        self.lines = [ModelHistoryEntry("1", 3, "m2", "trained", "root-of-all", "it was time")]

    def versions(self, limit: int) -> Page[ModelVersion]:
        return Page(self.all[:limit], None)

    def budget(self, *_: Any) -> list[Any]:
        return []

    drift = budget

    def history(self, limit: int) -> Page[ModelHistoryEntry]:
        return Page(self.lines[:limit], None)

    def view(self, version: str, _: Any) -> ModelVersionView:
        found = next(one for one in self.all if one.version == version)
        return ModelVersionView(found, version == self.version, True, [FLEET], [], self.lines, [], self.known)

    def judgement(self, _: str) -> PromotionAssessment:
        return PromotionAssessment(["fewer on 12 agent-days of others"], [])


@pytest.mark.parametrize(("group", "everybody"), [("trust-admins", True), ("soc", False)])
def test_figures_of_all_tenants_are_for_those_who_see_all(
    new_site: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, group: str, everybody: bool
) -> None:
    """One tenant's analyst reads which versions there are, and why there is no more."""
    site, desk = new_site(), Versions()
    monkeypatch.setattr(models_page, "model_service_of", lambda _: desk)
    site.sign_in(group)
    listed, one = (site.browser.get(path) for path in ("/console/models", "/console/models/m2"))

    assert (listed.status_code, one.status_code) == (200, 200)
    assert "m2" in listed.text and "challenger" in listed.text
    assert [word in listed.text for word in WORDS] == [not everybody, everybody, False, everybody]
    assert [word in one.text for word in WORDS] == [not everybody, everybody, everybody, everybody]
    assert "Should it come into force?" in one.text


def test_a_version_says_whether_known_agents_have_a_calibration_of_their_own(
    new_site: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rehearsed, both curves are drawn by name; if not, the page warns that all are judged as newcomers."""
    site, desk = new_site(), Versions()
    monkeypatch.setattr(models_page, "model_service_of", lambda _: desk)
    site.sign_in("trust-admins")
    without = site.browser.get("/console/models/m1").text
    desk.known = (FLEET._replace(events=1_234),)
    rehearsed = site.browser.get("/console/models/m1").text

    assert "This version was not rehearsed" in without and "Rehearsed</dt><dd>no</dd>" in without
    assert "not rehearsed" not in rehearsed and "on 1,234 events of known agents" in rehearsed
    assert "known agents, the fleet</li>" in rehearsed and "newcomers, the fleet</li>" in rehearsed
    assert "Newcomers, the fleet: 4,321 held-out events" in rehearsed
