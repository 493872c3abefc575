"""Who reads the reasons and indicators of a rise alone can name the attack: what each scenario must show.

The week and its model are those of the golden tests; its attacks were planned by the simulator.
"""

from __future__ import annotations

import gzip
import io
import zipfile
from typing import NamedTuple

import pytest

from trustwatch.ingest.file_source import FileSource
from trustwatch.models.model_persistence import load_trained_model
from trustwatch.scoring.engine.engine import EngineSettings
from trustwatch.scoring.pipeline.replay import HistoryReplay
from trustwatch.scoring.records.agents import NEW_STATUSES, Indicator, RiskLevel
from trustwatch.scoring.records.decisions import Decision

from ..support.checkout import ROOT

INPUTS = ROOT / "tests" / "golden" / "inputs"


class Story(NamedTuple):
    """What each rise of an attacked agent must show: one of the codes first, and one of others anywhere."""

    agent: str
    first: frozenset[str]
    anywhere: frozenset[str]


TOO_MUCH = frozenset({"pace_1m", "pace_15m", "session_length", "drift", "first_seen_repeat", "repeat_surprise"})
STORIES = {
    "stolen_credential": Story(
        "agent-payment-processor-0", frozenset({"first_seen_network", "network_surprise"}), frozenset({"denial_pace"})
    ),
    "scope_creep": Story(
        "agent-support-triage-0",
        frozenset({"outside_capabilities"}),
        frozenset({"scope_gap", "first_seen_scope", "first_seen_audience"}),
    ),
    "runaway_loop": Story("https://agents.acme-corp.example/orchestrator/0", frozenset(), TOO_MUCH),
    "burst": Story("agent-hr-assistant-0", frozenset(), TOO_MUCH),
}
THIEVES = frozenset({"stolen_credential"})
"""Scenarios with calls of an attacker; in all others the agent itself calls from its usual place."""


@pytest.fixture(scope="module")
def rises(tmp_path_factory: pytest.TempPathFactory) -> list[Decision]:
    """Every rise of the week to medium or above."""
    folder = tmp_path_factory.mktemp("model")
    with zipfile.ZipFile(INPUTS / "model.zip") as packed:
        packed.extractall(folder)
    replay = HistoryReplay(load_trained_model(folder), EngineSettings())
    week = FileSource(io.BytesIO(gzip.decompress((INPUTS / "week.jsonl.gz").read_bytes())))
    return [
        decision
        for applied in replay.applied_batches(week, lambda *_: pytest.fail("malformed"))
        for decision in applied.decisions
        if decision.level > max(decision.previous_level, RiskLevel.LOW)
    ]


def callers(decision: Decision) -> list[Indicator]:
    return [one for one in decision.indicators if one.kind in ("network", "credential", "key", "address", "software")]


@pytest.mark.parametrize("name", STORIES)
def test_each_rise_shows_what_the_attack_is(rises: list[Decision], name: str) -> None:
    story = STORIES[name]
    told = [decision for decision in rises if decision.agent.agent_id == story.agent]
    assert told
    for decision in told:
        codes = [reason.code for reason in decision.reasons]
        assert not story.first or codes[0] in story.first, codes
        assert story.anywhere & set(codes), codes


@pytest.mark.parametrize("name", STORIES)
def test_indicators_say_whether_somebody_else_called(rises: list[Decision], name: str) -> None:
    for decision in (one for one in rises if one.agent.agent_id == STORIES[name].agent):
        new = {one.kind: one.value for one in callers(decision) if one.status in NEW_STATUSES}
        if name not in THIEVES:
            assert not new, decision.indicators
            continue
        assert new["address"].startswith("203.0.113.") and int(new["network"].removeprefix("AS")) >= 65536
        assert new["software"].startswith(("python-requests/", "curl/", "Go-http-client/"))
        assert {one.status for one in callers(decision) if one.kind in ("credential", "key")} == {"known"}
        assert "session" in {one.kind for one in decision.indicators if one.status == "with_new"}


def test_every_rise_tells_where_it_came_from(rises: list[Decision]) -> None:
    for decision in rises:
        assert {"network", "address", "credential", "session"} <= {one.kind for one in decision.indicators}
