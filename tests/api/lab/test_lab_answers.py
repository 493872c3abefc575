"""What the lab says of the example is what happened in it, and what the service itself would say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from trustwatch.lab.facade import LabSession
from trustwatch.lab.session import LabError, LabWarning, open_session
from trustwatch.lab.store_frames import DecisionExplanation

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def attacked(lab: LabSession) -> list[tuple[str, str]]:
    """Tenant and id of the agents that the labels call bad."""
    labels = lab.labels()
    bad = labels[labels["bad_event"]]
    return sorted(set(zip(bad["tenant"], bad["agent_id"], strict=True)))


def test_attacked_agents_are_the_worst(lab: LabSession, attacked: list[tuple[str, str]]) -> None:
    """Both are contained, and one of them is where an analyst is sent first."""
    agents = lab.agents().set_index(["tenant", "agent_id"])
    assert len(attacked) == 2
    assert (agents.loc[attacked, "level"] == "critical").all()
    worst = lab.worst_decision()
    assert (worst["tenant"], worst["agent_id"]) in attacked
    assert lab.reasons(worst)["contribution"].iloc[0] > 0
    assert worst["reason"] == lab.reasons(worst)["text"].iloc[0]


def test_a_decision_in_sentences_is_whole_and_harmless(lab: LabSession) -> None:
    """All reasons to their end; names that come from outside can not smuggle markup into a notebook."""
    worst = lab.worst_decision()
    told = lab.explain_decision(worst)
    assert str(worst["agent_id"]) in repr(told)
    assert all(text in repr(told) for text in lab.reasons(worst)["text"])
    found = lab._find_decision(worst)
    evil = msgspec.structs.replace(
        found, agent=msgspec.structs.replace(found.agent, agent_id="<script>alert(1)</script>")
    )
    assert "<script>" not in DecisionExplanation(evil)._repr_html_()
    assert "&lt;script&gt;" in DecisionExplanation(evil)._repr_html_()


def test_replayed_risk_is_what_the_service_decided(lab: LabSession) -> None:
    """Every recorded change of level of a day is met by the replay: same event, level and score."""
    scores = lab.scores().set_index("id")
    decided = lab.decisions()
    decided = decided[decided["cause"] == "event"]
    assert len(decided) > 5
    met = scores.loc[decided["event_id"]]
    assert met["level"].astype(str).tolist() == decided["level"].astype(str).tolist()
    np.testing.assert_allclose(met["risk_score"], decided["risk_score"], rtol=1e-9)
    np.testing.assert_allclose(met["p_value"], decided["p_value"], rtol=1e-9)


def test_vectors_are_those_that_decisions_kept(lab: LabSession) -> None:
    """Features of the replay equal the recorded vector; the contributions speak of the same values."""
    worst = lab.worst_decision()
    vectors = lab.vectors(agent=worst).set_index("id").loc[worst["event_id"]]
    contributions = lab.contributions(worst).set_index("feature")["value"]
    for feature, value in contributions.items():
        assert vectors[feature] == pytest.approx(value, abs=1e-6)


def test_events_come_once_whichever_way(lab: LabSession, day: dict[str, Any], tmp_path: Path) -> None:
    """Log, archive, both in turn, and a file with every event twice."""
    columns = ["id", "time", "agent_id", "action"]
    log, archive, both = (
        lab.events(**day, source=source)[columns].reset_index(drop=True) for source in ("log", "archive", "auto")
    )
    pd.testing.assert_frame_equal(log, both)
    pd.testing.assert_frame_equal(log.astype("str"), archive.astype("str"))
    twice = tmp_path / "twice.jsonl"
    raw = lab.events(**day)["raw"].tolist()
    twice.write_bytes(b"\n".join([*raw, *raw, b"no event", b""]))
    assert len(lab.events(source=twice)) == len(log)


def test_a_window_and_an_agent_are_what_was_asked_for(lab: LabSession) -> None:
    """since is included, until is not; text is UTC; an id that is nobody's gives no row."""
    assert len(lab.events(since="2026-01-13T10:00", until=pd.Timestamp("2026-01-13T11:00+01:00"))) == 0
    found = lab.events(since="2026-01-13T10:00", until="2026-01-13T11:00Z")
    assert len(found) > 0
    assert found["time"].min() >= pd.Timestamp("2026-01-13T10:00Z")
    assert found["time"].max() < pd.Timestamp("2026-01-13T11:00Z")
    one = lab.events(lab.worst_decision())
    assert one[["tenant", "agent_id"]].drop_duplicates().shape == (1, 2)
    assert len(lab.events("nobody")) == 0


def test_frames_are_bounded_and_say_so(lab: LabSession, day: dict[str, Any]) -> None:
    """Of more rows than the limit the newest are kept, with a warning; at the limit there is none."""
    everything = lab.events(**day)
    with pytest.warns(LabWarning, match="raise limit"):
        last = lab.events(**day, limit=100)
    assert last["id"].tolist() == everything["id"].tolist()[-100:]
    assert len(lab.events(**day, limit=len(everything))) == len(everything)
    with pytest.warns(LabWarning, match="scored"):
        scored = lab.scores(**day, limit=150)
    assert scored["id"].tolist() == lab.scores(**day)["id"].tolist()[-150:]
    with pytest.warns(LabWarning, match="agents"):
        assert len(lab.agents(limit=3)) == 3
    with pytest.warns(LabWarning, match="decisions"):
        newest = lab.decisions(limit=2)
    assert newest["decision_id"].tolist() == lab.decisions()["decision_id"].tolist()[-2:]


def test_other_tenants_are_not_there(example: Path, lab: LabSession, day: dict[str, Any]) -> None:
    """A lab of one tenant shows nothing of the other, by any method."""
    theirs = lab.decisions()
    theirs = theirs[theirs["tenant"] != "globex"].iloc[0]
    with open_session(example, tenants=["globex"]) as ours:
        for found in (ours.agents(), ours.events(**day), ours.scores(**day), ours.edges()):
            assert set(found["tenant"]) == {"globex"}
        for found in (ours.decisions(), ours.alerts()):  # it may have had a calm day
            assert set(found["tenant"]) <= {"globex"}
        assert len(ours.events(**day, tenant="acme-corp")) == 0
        with pytest.raises(LabError, match="no decision"):
            ours.reasons(theirs["decision_id"])
        with pytest.raises(LabError, match="no agent"):
            ours.profile(theirs)
        assert "globex" in repr(ours)


def test_an_ambiguous_agent_is_asked_back(lab: LabSession) -> None:
    """Ids are unique within a tenant and issuer alone."""
    agents = lab.agents()
    twice = agents[agents["agent_id"].duplicated(keep=False)]["agent_id"].iloc[0]
    with pytest.raises(LabError, match="name tenant="):
        lab.profile(twice)
    assert len(lab.profile(twice, tenant="globex")) > 0
    assert len(lab.profile(agents[agents["agent_id"] == twice].iloc[0])) > 0


def test_comparing_with_itself_shows_no_difference(lab: LabSession, day: dict[str, Any]) -> None:
    """And shares of each kind add up to one."""
    events = lab.events(**day)
    same = lab.comparison(events, events)
    assert (same["difference"] == 0).all()
    assert lab.distances(same)["distance"].max() == 0
    shares = same.groupby("kind", observed=True)["share_a"].sum()
    np.testing.assert_allclose(shares, 1.0)
    other = lab.comparison(events[events["tenant"] == "globex"], events[events["tenant"] == "acme-corp"])
    assert 0.1 < lab.distances(other).set_index("kind")["distance"]["principal"] <= 1.0


def test_a_back_test_is_that_of_the_command(
    lab: LabSession, day: dict[str, Any], example: Path, tmp_path: Path
) -> None:
    """Same figures as `trustwatch backtest` on the same events."""
    found = lab.run_backtest(**day)
    file = tmp_path / "day.jsonl"
    file.write_bytes(b"\n".join(lab.events(**day)["raw"].tolist()) + b"\n")
    command = [
        sys.executable,
        "-m",
        "trustwatch",
        "backtest",
        str(file),
        "--settings",
        str(example / "settings.yaml"),
        "--labels",
        str(example / "data" / "labels.jsonl"),
        "--jobs",
        "1",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    side = json.loads(done.stdout)["sides"][0]
    assert found.alerts()["alerts"].tolist() == [one["alerts"] for one in side["alerts"]]
    assert found.revoked()["agent_id"].tolist() == [one["agent_id"] for one in side["policy"]["revoked"]]
    assert found.requests()["requests"].sum() == sum(side["policy"]["totals"].values())
    assert found.separation()["roc_auc"].tolist() == [
        side["evaluation"][unit]["roc_auc"] for unit in ("by_event", "by_session")
    ]
    assert found.report(tmp_path / "report.html").read_text().startswith("<!doctype html>")


def test_budgets_and_policies_change_what_they_should(lab: LabSession, day: dict[str, Any]) -> None:
    """A larger budget alerts no less; a policy that revokes sooner revokes no fewer; the settings' own is the run's."""
    budgets = lab.budgets(**day, factors=(0.2, 1.0, 20.0))
    medium = budgets[budgets["level"] == "medium"].set_index("factor")["alerts"]
    assert medium[0.2] <= medium[1.0] < medium[20.0]
    own = lab.run_backtest(**day)
    assert medium[1.0] == own.alerts()["alerts"].iloc[0]
    told, revoked = lab.what_if({"as set": None, "at high": {"levels": {"high": {"revoke": True}}}}, **day)
    told = told.set_index("policy")
    assert told.loc["as set", "agents_revoked"] == own.revoked()["agent_id"].nunique()
    assert told.loc["at high", "agents_revoked"] >= told.loc["as set", "agents_revoked"]
    assert set(revoked["policy"]) == {"as set", "at high"}
    judged = lab.labelled_revocations(revoked).groupby(["tenant", "agent_id"], observed=True)["attacked"].any()
    assert judged.sum() == 2
    totals = told[["denied", "held", "narrowed", "shortened", "allowed"]].sum(axis=1)
    assert totals.nunique() == 1


def test_training_gives_a_model_that_scores(lab: LabSession, day: dict[str, Any], tmp_path: Path) -> None:
    """On the days before; it is kept where it was told to, and has a promise."""
    week = lab.events(until=day["since"])
    small = lab.train_model(
        week[week["tenant"] == "globex"], version="globex-only", trees=20, directory=tmp_path / "model"
    )
    promise = small.budget_report_frame()
    assert promise["level"].astype(str).tolist() == ["medium", "high", "critical"]
    assert (promise["agent_days"] > 0).all()
    assert small.version == "globex-only"
    assert set(small.groups()["group"].str.split().str[0]) == {"fleet", "globex"}
    assert lab.model(tmp_path / "model").version == "globex-only"
    found = lab.run_backtest(models=[lab.model(), small], **day)
    assert set(found.alerts()["side"]) == {"A", "B"}
    assert len(found.comparison()) > 0
    with pytest.raises(LabError, match="not trained here"):
        open_session(lab.settings).model(tmp_path / "model").budget_report_frame()
