"""The lab's answers about the example agree with its events and with the service."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from trustwatch.lab import LabError, LabSession, frames, open_session, replays
from trustwatch.lab.replays import Run

from ..support.nightly import nightly

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def attacked(session: LabSession) -> list[tuple[str, str]]:
    """Tenant and id of the agents that the labels call bad."""
    labels = replays.labels(session)
    bad = labels[labels["event_label"] != 0]
    return sorted(set(zip(bad["tenant"], bad["agent_id"], strict=True)))


def test_attacked_agents_are_the_worst(session: LabSession, attacked: list[tuple[str, str]]) -> None:
    agents = frames.agents(session).set_index(["tenant", "agent_id"])
    assert len(attacked) == 2
    assert (agents.loc[attacked, "level"] == "critical").all()
    worst = frames.worst_decision(frames.decisions(session))
    assert (worst["tenant"], worst["agent_id"]) in attacked
    reasons = frames.reasons(session, worst)
    assert reasons["contribution"].iloc[0] > 0
    assert worst["reason"] == reasons["text"].iloc[0]
    assert frames.reasons(session, worst["decision_id"]).equals(reasons)
    assert "outside_capabilities" in worst["signals"].split()
    edges = frames.read(session, "edges").nlargest(1, "risk").iloc[0]
    assert (edges["tenant"], edges["source"]) in attacked


def test_replayed_risk_is_what_the_service_decided(session: LabSession) -> None:
    """Every recorded change of level of a day is met by the replay: same event, level and score."""
    scores = replays.scores(session, session.model()).set_index("id")
    decided = frames.decisions(session)
    decided = decided[decided["cause"] == "event"]
    assert len(decided) > 5
    met = scores.loc[decided["event_id"]]
    assert met["level"].astype(str).tolist() == decided["level"].astype(str).tolist()
    assert met["level_before"].astype(str).tolist() == decided["previous_level"].astype(str).tolist()
    np.testing.assert_allclose(met["risk_score"], decided["risk_score"], rtol=1e-9)
    np.testing.assert_allclose(met["p_value"], decided["p_value"], rtol=1e-9)
    np.testing.assert_allclose(met["confidence"], decided["confidence"], rtol=1e-9)


def test_contributions_are_of_the_recorded_vector(session: LabSession) -> None:
    worst = frames.worst_decision(frames.decisions(session))
    found = replays.contributions(session, worst, session.model())
    kept = session.store.decisions.get(worst["decision_id"])
    assert kept is not None
    values = {name: kept.feature_vector.get(name, 0.0) for name in found["feature"]}
    assert set(kept.feature_vector) <= set(values)
    assert found.set_index("feature")["value"].to_dict() == pytest.approx(values)
    assert found["share"].sum() == pytest.approx(1.0)
    assert "outside_capabilities" in found["feature"].head(5).tolist()
    ticked = frames.decisions(session).query("cause == 'tick'")
    if len(ticked):
        with pytest.raises(LabError, match="no event made it"):
            replays.contributions(session, ticked.iloc[0], session.model())


def test_events_come_once_whichever_way(session: LabSession, day: dict[str, Any], tmp_path: Path) -> None:
    columns = ["id", "time", "agent_id", "action"]
    settings = session.settings
    assert settings.archive.directory is not None
    default, log, archive = (
        frames.events(session, **day, source=source)[columns]
        for source in (None, settings.data_dir / "log", settings.archive.directory)
    )
    pd.testing.assert_frame_equal(default, log)
    pd.testing.assert_frame_equal(log, archive)
    twice = tmp_path / "twice.jsonl"
    raw = frames.events(session, **day)["raw"].tolist()
    twice.write_bytes(b"\n".join([*raw, *raw, b'{"no": "event"}', b""]))
    assert len(frames.events(session, source=twice)) == len(log)


def test_the_archive_is_read_where_the_log_has_lost_its_begin(
    session: LabSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert frames._own_source(session) == session.settings.data_dir / "log"
    monkeypatch.setattr(frames, "first_offset", lambda _: 4_096)
    assert frames._own_source(session) == session.settings.archive.directory


def test_other_tenants_are_not_there(example: Path, session: LabSession, day: dict[str, Any]) -> None:
    theirs = frames.decisions(session)
    theirs = theirs[theirs["tenant"] != "globex"].iloc[0]
    with open_session(example, tenants=["globex"]) as ours:
        for found in (frames.agents(ours), frames.events(ours, **day), replays.scores(ours, ours.model(), **day)):
            assert set(found["tenant"]) == {"globex"}
        assert set(frames.decisions(ours)["tenant"]) <= {"globex"}  # it may have had a calm day
        assert set(replays.labels(ours)["tenant"]) == {"globex"}
        assert len(frames.events(ours, **day, tenant="acme-corp")) == 0
        with pytest.raises(LabError, match="no decision"):
            frames.reasons(ours, theirs["decision_id"])
        with pytest.raises(LabError, match="no state of agent"):
            frames.profiles(ours, theirs)
        assert "globex" in repr(ours)
        assert not replays.calibration(ours, ours.model())["group"].str.startswith("acme-corp").any()


def test_agents_of_one_id_are_told_apart(session: LabSession) -> None:
    agents = frames.agents(session)
    twice = agents[agents["agent_id"].duplicated(keep=False)]["agent_id"].iloc[0]
    assert len(frames.of_agent(agents, twice)) == 2
    assert frames.of_agent(agents, twice, "globex")["tenant"].tolist() == ["globex"]
    row = agents[agents["agent_id"] == twice].iloc[0]
    assert frames.of_agent(agents, row).index.tolist() == [row.name]
    peer = frames.find_peer(agents, row)
    assert (peer["tenant"], peer["agent_type"]) == (row["tenant"], row["agent_type"])
    assert peer["agent_id"] != row["agent_id"]


def test_the_largest_upgrade_is_one_that_happened(session: LabSession) -> None:
    """The later version begins after the earlier one, and both have the events that it says."""
    events = frames.events(session)
    upgrade = frames.largest_upgrade(events)
    of_it = frames.of_agent(events, upgrade)
    sizes = of_it["agent_version"].value_counts()
    assert sizes[upgrade["agent_version"]] == upgrade["events"]
    assert sizes[upgrade["before"]] == upgrade["events_before"]
    begins = of_it.groupby("agent_version")["time"].min()
    assert begins[upgrade["before"]] < begins[upgrade["agent_version"]] == upgrade["since"]
    with pytest.raises(LabError, match="no agent changed its version"):
        frames.largest_upgrade(events.head(1))


def test_a_model_keeps_its_promise(session: LabSession) -> None:
    """Of events that it has not seen, about as many are anomalous as it said; curves fall, weights are shares."""
    model = session.model()
    kept = replays.reliability(replays.scores(session, model)).set_index("promised")
    assert kept["observed"].is_monotonic_increasing
    assert kept["observed"].iloc[-1] == 1.0
    assert ((kept["low"] <= kept["observed"]) & (kept["observed"] <= kept["high"])).all()
    assert 0.3 < kept["observed"].asof(0.57) < 0.8
    curves = replays.calibration(session, model)
    assert {"fleet"} < set(curves["group"])
    fleet = curves[(curves["group"] == "fleet") & (curves["agents"] == "known")]
    assert fleet["p_value"].is_monotonic_decreasing
    features = replays.features(model)
    assert features["importance"].between(0, 1).all()
    assert (features["usual"] <= features["upper"]).all()


def test_a_back_test_is_that_of_the_command(
    session: LabSession, day: dict[str, Any], example: Path, tmp_path: Path
) -> None:
    found = replays.run_backtests(session, **day)
    assert list(found) == [Run("active", 1.0, "as set")]
    file = tmp_path / "day.jsonl"
    file.write_bytes(b"\n".join(frames.events(session, **day)["raw"].tolist()) + b"\n")
    labels = str(example / "data" / "labels.jsonl")
    command = [sys.executable, "-m", "trustwatch", "backtest", str(file), "--settings", str(example / "settings.yaml")]
    done = subprocess.run(
        [*command, "--labels", labels, "--jobs", "1", "--json"], capture_output=True, text=True, check=True
    )
    side = json.loads(done.stdout)["sides"][0]
    assert replays.rows(found, "alerts")["alerts"].tolist() == [one["alerts"] for one in side["alerts"]]
    revoked = replays.rows(found, "policy.revoked")
    assert revoked["agent_id"].tolist() == [one["agent_id"] for one in side["policy"]["revoked"]]
    asked = replays.rows(found, "policy.asked").filter(regex="outcomes_")
    assert asked.sum().sum() == sum(side["policy"]["totals"].values())
    assert replays.rows(found, "evaluation.by_session")["roc_auc"].tolist() == [
        side["evaluation"]["by_session"]["roc_auc"]
    ]


def test_budgets_and_policies_change_what_they_should(
    session: LabSession, day: dict[str, Any], attacked: list[tuple[str, str]]
) -> None:
    """A larger budget alerts no less; a policy that revokes sooner revokes no fewer; both attacked agents are met."""
    policies = {"as set": None, "at high": {"levels": {"high": {"revoke": True}}}}
    tried = replays.run_backtests(session, factors=(0.2, 1.0, 20.0), policies=policies, **day)
    assert len(tried) == 6
    alerts = (
        replays.rows(tried, "alerts").query("level == 'medium' and policy == 'as set'").set_index("factor")["alerts"]
    )
    assert alerts[0.2] <= alerts[1.0] < alerts[20.0]
    figures = replays.rows(tried, "policy").query("factor == 1").set_index("policy")
    assert figures.loc["at high", "agents_revoked"] >= figures.loc["as set", "agents_revoked"] >= 2
    assert figures.filter(regex="totals_").sum(axis="columns").nunique() == 1
    revoked = replays.rows(tried, "policy.revoked").query("factor == 1")
    bad = replays.first_bad_events(frames.events(session, **day), replays.labels(session))
    assert sorted(zip(bad["tenant"], bad["agent_id"], strict=True)) == attacked
    judged = revoked.merge(bad)
    assert set(zip(judged["tenant"], judged["agent_id"], strict=True)) == set(attacked)
    assert (judged["at"] >= judged["first_bad"].dt.floor("s")).all()


@nightly
def test_training_gives_a_model_that_scores(session: LabSession, day: dict[str, Any], tmp_path: Path) -> None:
    week = frames.events(session, until=day["since"])
    small = replays.train_model(
        session, week[week["tenant"] == "globex"], version="globex-only", trees=20, directory=tmp_path / "model"
    )
    promise = replays.budget_report(small)
    assert promise["level"].astype(str).tolist() == ["medium", "high", "critical"]
    assert (promise["agent_days"] > 0).all()
    assert small.trained.version == "globex-only"
    assert set(replays.calibration(session, small)["group"].str.split().str[0]) == {"fleet", "globex"}
    assert session.model(tmp_path / "model").trained.version == "globex-only"
    found = replays.run_backtests(session, models={"active": session.model(), "small": small}, **day)
    assert set(replays.rows(found, "alerts")["model"]) == {"active", "small"}
    with pytest.raises(LabError, match="while a model is trained"):
        replays.budget_report(session.model(tmp_path / "model"))
