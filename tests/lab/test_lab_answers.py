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

from trustwatch.lab import LabError, LabSession, LabWarning, frames, open_session
from trustwatch.lab.store_frames import DecisionExplanation, find_decision

from ..support.nightly import nightly

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def attacked(session: LabSession) -> list[tuple[str, str]]:
    """Tenant and id of the agents that the labels call bad."""
    labels = frames.labels(session)
    bad = labels[labels["bad_event"]]
    return sorted(set(zip(bad["tenant"], bad["agent_id"], strict=True)))


def test_attacked_agents_are_the_worst(session: LabSession, attacked: list[tuple[str, str]]) -> None:
    """Both are contained, and one of them is where an analyst is sent first."""
    agents = frames.agents(session).set_index(["tenant", "agent_id"])
    assert len(attacked) == 2
    assert (agents.loc[attacked, "level"] == "critical").all()
    worst = frames.worst_decision(frames.decisions(session))
    assert (worst["tenant"], worst["agent_id"]) in attacked
    assert frames.reasons(session, worst)["contribution"].iloc[0] > 0
    assert worst["reason"] == frames.reasons(session, worst)["text"].iloc[0]


def test_a_decision_in_sentences_is_whole_and_harmless(session: LabSession) -> None:
    """All reasons to their end; names that come from outside can not smuggle markup into a notebook."""
    worst = frames.worst_decision(frames.decisions(session))
    told = frames.explain_decision(session, worst)
    assert str(worst["agent_id"]) in repr(told)
    assert all(text in repr(told) for text in frames.reasons(session, worst)["text"])
    found = find_decision(session, worst)
    evil = msgspec.structs.replace(
        found, agent=msgspec.structs.replace(found.agent, agent_id="<script>alert(1)</script>")
    )
    assert "<script>" not in DecisionExplanation(evil)._repr_html_()
    assert "&lt;script&gt;" in DecisionExplanation(evil)._repr_html_()


def test_replayed_risk_is_what_the_service_decided(session: LabSession) -> None:
    """Every recorded change of level of a day is met by the replay: same event, level and score."""
    scores = frames.scores(session).set_index("id")
    decided = frames.decisions(session)
    decided = decided[decided["cause"] == "event"]
    assert len(decided) > 5
    met = scores.loc[decided["event_id"]]
    assert met["level"].astype(str).tolist() == decided["level"].astype(str).tolist()
    np.testing.assert_allclose(met["risk_score"], decided["risk_score"], rtol=1e-9)
    np.testing.assert_allclose(met["p_value"], decided["p_value"], rtol=1e-9)


def test_vectors_are_those_that_decisions_kept(session: LabSession) -> None:
    """Features of the replay equal the recorded vector; the contributions speak of the same values."""
    worst = frames.worst_decision(frames.decisions(session))
    vectors = frames.vectors(session, agent=worst).set_index("id").loc[worst["event_id"]]
    contributions = frames.contributions(session, worst).set_index("feature")["value"]
    for feature, value in contributions.items():
        assert vectors[feature] == pytest.approx(value, abs=1e-6)


def test_events_come_once_whichever_way(session: LabSession, day: dict[str, Any], tmp_path: Path) -> None:
    """Log, archive, both in turn, and a file with every event twice."""
    columns = ["id", "time", "agent_id", "action"]
    log, archive, both = (
        frames.events(session, **day, source=source)[columns].reset_index(drop=True)
        for source in ("log", "archive", "auto")
    )
    pd.testing.assert_frame_equal(log, both)
    pd.testing.assert_frame_equal(log.astype("str"), archive.astype("str"))
    twice = tmp_path / "twice.jsonl"
    raw = frames.events(session, **day)["raw"].tolist()
    twice.write_bytes(b"\n".join([*raw, *raw, b"no event", b""]))
    assert len(frames.events(session, source=twice)) == len(log)


def test_a_window_and_an_agent_are_what_was_asked_for(session: LabSession) -> None:
    """since is included, until is not; text is UTC; an id that is nobody's gives no row."""
    assert len(frames.events(session, since="2026-01-13T10:00", until=pd.Timestamp("2026-01-13T11:00+01:00"))) == 0
    found = frames.events(session, since="2026-01-13T10:00", until="2026-01-13T11:00Z")
    assert len(found) > 0
    assert found["time"].min() >= pd.Timestamp("2026-01-13T10:00Z")
    assert found["time"].max() < pd.Timestamp("2026-01-13T11:00Z")
    one = frames.events(session, frames.worst_decision(frames.decisions(session)))
    assert one[["tenant", "agent_id"]].drop_duplicates().shape == (1, 2)
    assert len(frames.events(session, "nobody")) == 0


def test_frames_are_bounded_and_say_so(session: LabSession, day: dict[str, Any]) -> None:
    """Of more rows than the limit the newest are kept, with a warning; at the limit there is none."""
    everything = frames.events(session, **day)
    with pytest.warns(LabWarning, match="raise limit"):
        last = frames.events(session, **day, limit=100)
    assert last["id"].tolist() == everything["id"].tolist()[-100:]
    assert len(frames.events(session, **day, limit=len(everything))) == len(everything)
    with pytest.warns(LabWarning, match="scored"):
        scored = frames.scores(session, **day, limit=150)
    assert scored["id"].tolist() == frames.scores(session, **day)["id"].tolist()[-150:]
    with pytest.warns(LabWarning, match="agents"):
        assert len(frames.agents(session, limit=3)) == 3
    with pytest.warns(LabWarning, match="decisions"):
        newest = frames.decisions(session, limit=2)
    assert newest["decision_id"].tolist() == frames.decisions(session)["decision_id"].tolist()[-2:]


def test_other_tenants_are_not_there(example: Path, session: LabSession, day: dict[str, Any]) -> None:
    """A session of one tenant shows nothing of the other, by any call."""
    theirs = frames.decisions(session)
    theirs = theirs[theirs["tenant"] != "globex"].iloc[0]
    with open_session(example, tenants=["globex"]) as ours:
        for found in (frames.agents(ours), frames.events(ours, **day), frames.scores(ours, **day), frames.edges(ours)):
            assert set(found["tenant"]) == {"globex"}
        for found in (frames.decisions(ours), frames.alerts(ours)):  # it may have had a calm day
            assert set(found["tenant"]) <= {"globex"}
        assert len(frames.events(ours, **day, tenant="acme-corp")) == 0
        with pytest.raises(LabError, match="no decision"):
            frames.reasons(ours, theirs["decision_id"])
        with pytest.raises(LabError, match="no agent"):
            frames.profile(ours, theirs)
        assert "globex" in repr(ours)


def test_an_ambiguous_agent_is_asked_back(session: LabSession) -> None:
    """Ids are unique within a tenant and issuer alone."""
    agents = frames.agents(session)
    twice = agents[agents["agent_id"].duplicated(keep=False)]["agent_id"].iloc[0]
    with pytest.raises(LabError, match="name tenant="):
        frames.profile(session, twice)
    assert len(frames.profile(session, twice, tenant="globex")) > 0
    assert len(frames.profile(session, agents[agents["agent_id"] == twice].iloc[0])) > 0


def test_comparing_with_itself_shows_no_difference(session: LabSession, day: dict[str, Any]) -> None:
    """And shares of each kind add up to one."""
    events = frames.events(session, **day)
    same = frames.comparison(events, events)
    assert (same["difference"] == 0).all()
    assert frames.distances(same)["distance"].max() == 0
    shares = same.groupby("kind", observed=True)["share_a"].sum()
    np.testing.assert_allclose(shares, 1.0)
    other = frames.comparison(events[events["tenant"] == "globex"], events[events["tenant"] == "acme-corp"])
    assert 0.1 < frames.distances(other).set_index("kind")["distance"]["principal"] <= 1.0


def test_a_back_test_is_that_of_the_command(
    session: LabSession, day: dict[str, Any], example: Path, tmp_path: Path
) -> None:
    """Same figures as `trustwatch backtest` on the same events."""
    found = frames.run_backtest(session, **day)
    file = tmp_path / "day.jsonl"
    file.write_bytes(b"\n".join(frames.events(session, **day)["raw"].tolist()) + b"\n")
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
    assert frames.backtest_alerts(found)["alerts"].tolist() == [one["alerts"] for one in side["alerts"]]
    assert frames.backtest_revoked(found)["agent_id"].tolist() == [one["agent_id"] for one in side["policy"]["revoked"]]
    assert frames.backtest_requests(found)["requests"].sum() == sum(side["policy"]["totals"].values())
    assert frames.backtest_separation(found)["roc_auc"].tolist() == [
        side["evaluation"][unit]["roc_auc"] for unit in ("by_event", "by_session")
    ]
    assert frames.write_backtest_report(found, tmp_path / "report.html").read_text().startswith("<!doctype html>")


def test_budgets_and_policies_change_what_they_should(session: LabSession, day: dict[str, Any]) -> None:
    """A larger budget alerts no less; a policy that revokes sooner revokes no fewer; the settings' own is the run's."""
    budgets = frames.budgets(session, **day, factors=(0.2, 1.0, 20.0))
    medium = budgets[budgets["level"] == "medium"].set_index("factor")["alerts"]
    assert medium[0.2] <= medium[1.0] < medium[20.0]
    own = frames.run_backtest(session, **day)
    assert medium[1.0] == frames.backtest_alerts(own)["alerts"].iloc[0]
    told, revoked = frames.what_if(session, {"as set": None, "at high": {"levels": {"high": {"revoke": True}}}}, **day)
    told = told.set_index("policy")
    assert told.loc["as set", "agents_revoked"] == frames.backtest_revoked(own)["agent_id"].nunique()
    assert told.loc["at high", "agents_revoked"] >= told.loc["as set", "agents_revoked"]
    assert set(revoked["policy"]) == {"as set", "at high"}
    judged = (
        frames.labelled_revocations(session, revoked).groupby(["tenant", "agent_id"], observed=True)["attacked"].any()
    )
    assert judged.sum() == 2
    totals = told[["denied", "held", "narrowed", "shortened", "allowed"]].sum(axis=1)
    assert totals.nunique() == 1


@nightly
def test_training_gives_a_model_that_scores(session: LabSession, day: dict[str, Any], tmp_path: Path) -> None:
    """On the days before; it is kept where it was told to, and has a promise."""
    week = frames.events(session, until=day["since"])
    small = frames.train_model(
        session, week[week["tenant"] == "globex"], version="globex-only", trees=20, directory=tmp_path / "model"
    )
    promise = frames.budget_report(small)
    assert promise["level"].astype(str).tolist() == ["medium", "high", "critical"]
    assert (promise["agent_days"] > 0).all()
    assert small.version == "globex-only"
    assert set(frames.groups(small)["group"].str.split().str[0]) == {"fleet", "globex"}
    assert session.model(tmp_path / "model").version == "globex-only"
    found = frames.run_backtest(session, models=[session.model(), small], **day)
    assert set(frames.backtest_alerts(found)["side"]) == {"A", "B"}
    assert len(frames.backtest_comparison(found)) > 0
    with pytest.raises(LabError, match="not trained here"):
        frames.budget_report(open_session(session.settings).model(tmp_path / "model"))
