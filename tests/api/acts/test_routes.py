"""Acts over HTTP: what people did by the other routes, to whom it is shown, and how it is narrowed."""

from __future__ import annotations

from typing import Any

import pytest

from ...support.case_triage import Triage, agent, rise

CASE = "case-D0001"


@pytest.fixture
def triage(site: Any) -> Triage:
    """Somebody who acknowledged a case of one agent, contained it and closed it, with a second between."""
    person = Triage(site)
    person.raise_agents(rise(1, agent("a"), level=4, network="AS65537"))
    for act, words in (
        ("acknowledge", {}),
        ("contain", {"note": "stop it", "valid_s": 600}),
        ("close", {"verdict": "expected", "note": "a drill"}),
    ):
        site.clock.now += 1
        person.act(CASE, act, **words)
    return person


def acts(triage: Triage, client: str = "gateway", **params: Any) -> list[dict[str, Any]]:
    answer = triage.site.get("/v1/acts", client, **params)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def test_what_was_done_is_told_newest_first(triage: Triage) -> None:
    found = [(one["kind"], one["action"], one["subject_id"], one["agent_id"]) for one in acts(triage)]
    assert found[0] == ("case", "closed", CASE, None)
    assert found[-1] == ("case", "acknowledged", CASE, None)
    assert {(kind, action, about) for kind, action, _, about in found[1:-1]} == {
        ("case", "contained", None),
        ("pin", "pin", "a"),
    }
    closed = acts(triage)[0]
    assert (closed["by"], closed["why"], closed["detail"], closed["tenant"]) == (
        "gateway",
        "a drill",
        "verdict expected",
        "acme",
    )


def test_others_see_nothing_of_it(triage: Triage) -> None:
    assert acts(triage, "globex") == []
    assert len(acts(triage, "all")) == 4
    assert triage.site.get("/v1/acts", "globex", tenant="acme").status_code == 403
    reader = triage.site.client.get("/v1/acts", headers=triage.site.auth("gateway", "trust.score:read"))
    assert reader.status_code == 403


@pytest.mark.parametrize(
    "wrong", [{"kind": "coffee"}, {"since": "yesterday"}, {"until": "9999-12-31T23:59:59-23:59"}], ids=str
)
def test_what_can_not_be_meant_is_said(shared: Any, wrong: dict[str, str]) -> None:
    assert shared.get("/v1/acts", **wrong).status_code in (200, 422)
    if "until" not in wrong:
        assert shared.get("/v1/acts", **wrong).status_code == 422
