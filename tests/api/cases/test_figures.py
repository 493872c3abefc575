"""Figures of cases among the metrics: how many wait, how old they are, how soon people act."""

from __future__ import annotations

from typing import Any

import pytest

from trustwatch.api.cases.figures import CaseFigures
from trustwatch.ingest.errors import Unavailable

from ...support.case_triage import Triage, agent, rise

CASE, OTHER = "case-D0001", "case-D0002"


@pytest.fixture
def triage(site: Any) -> Triage:
    """A service with a case at high and one at critical."""
    person = Triage(site)
    person.raise_agents(rise(1, agent("a")), rise(2, agent("b"), level=4))
    return person


def look(triage: Triage) -> CaseFigures:
    """The figures, as new as the store."""
    figures: CaseFigures = triage.site.app.app.state.services.get(CaseFigures)
    triage.site.wait(figures.look())
    return figures


def lines(triage: Triage) -> dict[str, float]:
    """Values of the metrics of cases, by name and labels."""
    text = triage.site.client.get("/metrics").text
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("trustwatch_case"))
    return {name: float(value) for name, value in pairs}


def test_cases_that_wait_are_counted(triage: Triage) -> None:
    """By status and level, with the age of the oldest; what is closed is not there."""
    triage.site.clock.now += 60
    look(triage)
    found = lines(triage)
    assert found['trustwatch_cases{level="high",status="open"}'] == 1
    assert found['trustwatch_cases{level="critical",status="open"}'] == 1
    age = found['trustwatch_case_oldest_seconds{status="open"}']
    triage.site.clock.now += 100
    assert lines(triage)['trustwatch_case_oldest_seconds{status="open"}'] == age + 100

    triage.act(CASE, "acknowledge")
    triage.act(OTHER, "close", verdict="expected", note="a drill")
    look(triage)
    kinds = {name for name in lines(triage) if name.startswith(("trustwatch_cases", "trustwatch_case_oldest"))}
    assert kinds == {
        'trustwatch_cases{level="high",status="acknowledged"}',
        'trustwatch_case_oldest_seconds{status="acknowledged"}',
    }


def test_first_acts_are_timed_from_the_opening(triage: Triage) -> None:
    """Each case once for each act, however often it is done; other acts are not timed."""
    base = dict.fromkeys(("acknowledge", "contain"), 0.0)
    counts = {act: lines(triage).get(f'trustwatch_case_response_seconds_count{{act="{act}"}}') for act in base}
    assert counts == base
    triage.site.clock.now += 600
    for _ in range(2):
        triage.act(CASE, "acknowledge")
        triage.act(CASE, "notes", 201, note="seen")
    triage.act(CASE, "contain", note="stop it", valid_s=600)
    found = lines(triage)
    for act in base:
        assert found[f'trustwatch_case_response_seconds_count{{act="{act}"}}'] == 1
        assert 500 < found[f'trustwatch_case_response_seconds_sum{{act="{act}"}}'] < 700
    assert found['trustwatch_case_response_seconds_bucket{act="contain",le="300.0"}'] == 0
    assert found['trustwatch_case_response_seconds_bucket{act="contain",le="900.0"}'] == 1


def test_figures_stay_while_the_store_does_not_answer(triage: Triage, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they were; the next look tries again."""
    look(triage)

    def refuse() -> None:
        raise Unavailable("the database does not answer")

    monkeypatch.setattr(triage.site.store.cases, "waiting", refuse)
    with pytest.raises(Unavailable):
        look(triage)
    assert lines(triage)['trustwatch_cases{level="high",status="open"}'] == 1
