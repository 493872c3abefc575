"""Calls that a back-test would have asked about: the same verdicts as the service's, counted against the budget."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from trustwatch.ingest.events import decode_event
from trustwatch.ingest.timestamps import format_rfc3339
from trustwatch.models.model_persistence import save_trained_model
from trustwatch.scoring.backtest.challenge_counts import AskedCalls, clustered_share_bounds
from trustwatch.scoring.backtest.counts import run_backtest
from trustwatch.scoring.backtest.plan import BacktestPlan, read_labels
from trustwatch.scoring.backtest.result import BacktestResult, build_result
from trustwatch.scoring.engine.call_scorer import CallScorer

from ...support.call_history import CALL_SETTINGS, NEW_VALUE, agent_key, call_history, call_model

START_MS = 1_767_600_000_000
DAY_MS = 86_400_000


def hijacked(session: int) -> bool:
    return session % 10 == 0


@pytest.fixture(scope="module")
def day() -> list[dict[str, Any]]:
    """Calls of a day behind the history; in every tenth session a mail says where to send something to."""
    events = call_history(START_MS, pairs=200)
    for at, event in enumerate(events):
        event["id"] = f"e-{at}"
        if event["action"] == "send" and hijacked(at // 2):
            event["arguments"] = [{**event["arguments"][0], "hash": f"{NEW_VALUE[:-2]}{at // 20:02x}"}]
    events.append({**events[0], "id": "token", "type": "token.request"})
    return events


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory, day: Sequence[dict[str, Any]]) -> Path:
    """The day, its labels, the model of the days before, and one of before there were verdicts on calls."""
    folder = tmp_path_factory.mktemp("asked")
    (folder / "day.jsonl").write_text("\n".join(json.dumps(event) for event in day) + "\n")
    rows = []
    for at in range(len(day) - 1):
        bad, session = hijacked(at // 2), f"s-{at // 2}"
        label = {"id": f"e-{at}", "session": session, "event_label": int(bad and at % 2), "session_label": int(bad)}
        rows.append(json.dumps(label))
    (folder / "labels.jsonl").write_text("\n".join(rows) + "\n")
    model = call_model(START_MS)
    save_trained_model(folder / "model", model, CALL_SETTINGS, 1, 0)
    assert model.challenges is not None
    of_each = dict.fromkeys(("", "0" * 16, "1" * 16), model.challenges.by_effect)
    bounded = msgspec.structs.replace(model.challenges, bounded=of_each)
    save_trained_model(folder / "bounded", dataclasses.replace(model, challenges=bounded), CALL_SETTINGS, 1, 0)
    save_trained_model(folder / "old", dataclasses.replace(model, challenges=None), CALL_SETTINGS, 1, 0)
    return folder


def told(history: Path, **more: Any) -> BacktestResult:
    plan = BacktestPlan([history / "day.jsonl"], [history / "model"])._replace(**more)
    labels = None if plan.labels is None else read_labels(plan.labels)
    return build_result(plan, *run_backtest(plan), labels)


def test_it_is_what_the_service_would_have_answered(history: Path, day: Sequence[dict[str, Any]]) -> None:
    """Call by call, with the thresholds of the budget; events that are no calls are not asked about."""
    scorer, asked = CallScorer(call_model(START_MS), {}), AskedCalls()
    by_effect, sessions = {"read": 0, "write": 0}, set()
    for made in day[:-1]:
        event = decode_event(json.dumps(made).encode())
        score = scorer.score(asked.question(event))
        by_effect[score.effect] += score.exceeds
        if score.exceeds:
            sessions.add(event.session)
        asked.remember(event)
    calls = told(history).sides[0].calls

    assert by_effect["write"] >= 10
    rows = {row.effect: row for row in calls.effects}
    assert {name: rows[name].challenged for name in by_effect} == by_effect
    assert [(row.effect, row.calls, row.budget) for row in calls.effects] == [
        ("read", 200, 10.0),
        ("write", 200, 10.0),
        ("all", 400, None),
    ]
    threshold = scorer.thresholds["write"]
    assert threshold is not None and rows["write"].threshold == threshold.anomaly_score
    assert rows["write"].within is not None and rows["write"].within[0] > 10.0 and rows["write"].budget_kept is False
    assert calls.sessions == 200 and calls.agents == 16
    assert calls.sessions_challenged == len(sessions)


def test_calls_of_an_agent_with_a_new_key_are_counted_with_its_path_trusted_too(tmp_path: Path) -> None:
    """Each of them waits where nobody answers, the first of each network where somebody trusts the path with it."""
    events = call_history(START_MS, pairs=200, keys=True)
    of_agent = [event for event in events if event["agent"]["id"] == "agent-3"]
    for at, event in enumerate(of_agent):
        event["credential"] = agent_key("nobody")
        event["client"] = {"asn": 64496 + at % 2}
    (tmp_path / "day.jsonl").write_text("\n".join(json.dumps(event) for event in events) + "\n")
    save_trained_model(tmp_path / "model", call_model(START_MS, keys=True), CALL_SETTINGS, 1, 0)

    calls, shared = (told(tmp_path, jobs=jobs).sides[0].calls for jobs in (1, 3))

    assert len(of_agent) >= 20 and calls.effects[-1].challenged >= len(of_agent)
    others = calls.effects[-1].challenged - len(of_agent)
    assert 2 <= calls.left_with_trust <= 2 + others
    assert shared.left_with_trust == calls.left_with_trust


def test_the_calls_most_often_challenged_have_their_reasons(history: Path) -> None:
    first = next(kind for kind in told(history).sides[0].calls.kinds if kind.action == "send")

    assert (first.action, first.effect, first.agent_type, first.tenant) == ("send", "write", "Clerk", "acme")
    assert first.calls >= 20 and 1 < first.agents <= 16
    assert first.reasons["argument_origin"] == first.calls
    assert first.first_event_id == "e-1" and first.first_at == format_rfc3339(START_MS + 5_000)[:19] + "Z"
    assert "read_mail" in first.first_reason


def test_with_labels_the_budget_is_held_against_good_sessions(history: Path) -> None:
    """Bad sessions are stopped, not counted; what is listed are the calls of both."""
    plain, side = told(history).sides[0], told(history, labels=history / "labels.jsonl").sides[0]

    assert side.calls.honest_only and side.calls.sessions == 180
    assert side.calls.kinds == plain.calls.kinds
    assert side.evaluation is not None and side.evaluation.calls is not None
    found = side.evaluation.calls
    assert (found.bad, found.stopped, found.good) == (20, 20, 180)
    assert found.challenged == side.calls.sessions_challenged < plain.calls.sessions_challenged


def test_shares_of_the_agents_agree(history: Path) -> None:
    """Bounds and lists to the last bit."""
    labels = history / "labels.jsonl"

    assert told(history, labels=labels).sides == told(history, labels=labels, jobs=3).sides


def test_a_model_of_before_asks_nothing_and_says_so(history: Path) -> None:
    models = [history / "old", history / "model"]
    outcome = told(history, models=models, labels=history / "labels.jsonl")
    old, new = outcome.sides

    assert old.calls.missing_because is not None and "retrain" in old.calls.missing_because
    assert old.calls.effects == [] == old.calls.kinds and old.evaluation is not None and old.evaluation.calls is None
    assert outcome.comparison is not None
    figures = {row.figure: (row.a, row.b) for row in outcome.comparison.figures}
    (write,) = (row for row in new.calls.effects if row.effect == "write")
    assert figures["challenged of 1,000 calls, write"] == (None, write.per_1000)
    assert figures["sessions challenged"] == (None, new.calls.sessions_challenged)


def test_tenants_with_thresholds_of_their_own_are_told(history: Path) -> None:
    """The threshold that is told is that of all others, and a call that waits by another one contradicts no words."""
    pooled = told(history).sides[0].calls
    assert (pooled.tenants_with_own_thresholds, pooled.threshold_words) == (0, "")
    calls = told(history, models=[history / "bounded"]).sides[0].calls
    assert calls.tenants_with_own_thresholds == 2
    assert calls.threshold_words.startswith("2 tenants of the model's history have thresholds of their own;")
    without = msgspec.structs.replace(calls.effects[-1], threshold=None, challenged=3)
    assert "nothing may wait" not in without.budget_words
    assert "nothing may wait" in msgspec.structs.replace(without, challenged=0).budget_words


def test_it_can_be_left_out(history: Path) -> None:
    calls = told(history, ask_calls=False).sides[0].calls

    assert calls.missing_because is not None and "--no-calls" in calls.missing_because


def test_bounds_of_independent_calls_are_those_of_wilson() -> None:
    """10 of 1,000: the textbook's 0.0054 to 0.0183."""
    challenged = np.zeros(1_000, np.int32)
    challenged[:10] = 1
    bounds = clustered_share_bounds(np.ones(1_000, np.int32), challenged)

    assert bounds == pytest.approx((0.00544, 0.01831), abs=2e-5)
    assert clustered_share_bounds(np.zeros(3, np.int32), np.zeros(3, np.int32)) is None


def test_bounds_hold_the_share_where_calls_come_in_sessions() -> None:
    """Of 400 histories whose sessions are challenged wholly or not at all, at most one in ten lies outside."""
    dice, outside = np.random.default_rng(3), 0
    for _ in range(400):
        asked = np.full(300, 8, np.int32)
        low, high = clustered_share_bounds(asked, asked * (dice.random(300) < 0.05)) or (1.0, 0.0)
        outside += not low <= 0.05 <= high

    assert outside <= 40
