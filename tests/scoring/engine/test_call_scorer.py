"""Scores of calls before they are made: values of others, reads that carry them away, and no trace of any question."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.events import NativeEvent
from trustwatch.models.call_challenges import HeldOutCalls, tenant_key
from trustwatch.models.model_persistence import load_trained_model, save_trained_model
from trustwatch.models.model_training import train_model
from trustwatch.models.trained_model import TrainedModel
from trustwatch.scoring.engine.call_scorer import CallScore, CallScorer, NoCallVerdicts

DAY = 86_400_000
NEW, KNOWN = "f" * 12, f"{2:012x}"
Ask = Callable[..., CallScore]


def told(made: dict[str, Any], calls: dict[str, int], values: list[str]) -> dict[str, Any]:
    """The event with origins: even calls of a session read mail, odd ones take a value out of the one before; codes of
    mails are always new."""
    session = f"{made['agent']['id']}/{made['session']}"
    number = calls[session] = calls.get(session, -1) + 1
    made["task"] = "desk"
    if number % 2 == 0:
        return {**made, "action": "read_mail", "effect": "read", "arguments": [], "untrusted_result": True}
    looked_up = number % 4 == 3
    value = f"{len(calls):06x}{number:06x}" if looked_up else values[number % len(values)]
    argument = {"name": "to", "origin": "tool", "from": number - 1, "from_action": "read_mail", "hash": value}
    more = {"action": "enter_code", "effect": "read"} if looked_up else {"action": "send", "effect": "write"}
    return {**made, **more, "arguments": [argument], "untrusted_result": False}


@pytest.fixture(scope="module")
def learned(make: Any, kit: Any) -> TrainedModel:
    calls: dict[str, int] = {}
    values = [f"{number:012x}" for number in range(1, 40)]
    history = [told(made, calls, values) for made in make.stream(1, 3_000, agents=24)]
    return train_model(kit.columns(history), make.SALT, "calls", make.SETTINGS)


@pytest.fixture
def scorer(learned: TrainedModel) -> CallScorer:
    return CallScorer(learned, {})


def question(make: Any, kit: Any, action: str, effect: str, value: str | None, **more: Any) -> NativeEvent:
    """A call of a known agent; *untrusted* says what the client knows of the answer that the value came out of."""
    argument = {"name": "to", "origin": "tool", "from": 0, "from_action": "read_mail", "hash": value}
    argument["untrusted"] = more.pop("untrusted", True)
    members = {"task": "desk", "action": action, "effect": effect, "resource": {"target": "host-1-0"}, **more}
    made = make.event(1, 1, make.START_MS + 5 * DAY, **members)
    (event,) = kit.columns([made | ({} if value is None else {"arguments": [argument]})]).events
    return event


@pytest.fixture
def ask(scorer: CallScorer, make: Any, kit: Any) -> Ask:
    return lambda *call, **more: scorer.score(question(make, kit, *call, **more))


def test_a_new_value_of_others_is_challenged_and_told(ask: Ask) -> None:
    """One that the task knows, or that comes out of an answer of ours, is not."""
    foreign, known, trusted = (
        ask("send", "write", NEW),
        ask("send", "write", KNOWN),
        ask("send", "write", NEW, untrusted=False),
    )

    assert foreign.exceeds and not known.exceeds and not trusted.exceeds
    assert foreign.p_value <= 0.01 < known.p_value
    assert foreign.reasons[0].code == "argument_origin"
    assert foreign.reasons[0].text.endswith(": to out of read_mail")
    assert known.reasons == ()


def test_a_read_carries_a_value_away_unless_the_tool_is_meant_for_it(ask: Ask) -> None:
    """Codes out of mails are entered all the time; nobody ever opened a mail by a value of others."""
    assert ask("enter_code", "read", NEW).anomaly_score < ask("read_mail", "read", NEW).anomaly_score


def test_a_tenant_is_judged_by_calls_as_they_count_for_it(learned: TrainedModel, make: Any, kit: Any) -> None:
    """Whose own calls are odder than those of its neighbours has a threshold, and p-values, of its own."""
    assert learned.challenges is not None and learned.challenges.tenants == frozenset()
    asked = question(make, kit, "send", "write", KNOWN)
    key = tenant_key(int(ColumnEncoder(learned.salt).encode([asked]).names[0, event_columns.TENANT]))
    quiet, odd = ({"write": HeldOutCalls.of(scores)} for scores in (np.zeros(2_000), np.ones(2_000)))
    challenges = msgspec.structs.replace(learned.challenges, bounded={"": quiet, key: odd})
    scorer = CallScorer(dataclasses.replace(learned, challenges=challenges), {})

    own, other = scorer.score_many([asked, msgspec.structs.replace(asked, tenant="initech")])

    assert not own.exceeds and own.p_value == 1.0
    assert other.exceeds and other.p_value < 0.001


def test_an_agent_that_the_history_knows_is_recognised(ask: Ask) -> None:
    assert ask("send", "write", KNOWN).known_agent
    assert not ask("send", "write", KNOWN, agent_id="nobody").known_agent


def test_questions_leave_no_trace(learned: TrainedModel, scorer: CallScorer, make: Any, kit: Any) -> None:
    """A thousand of them change neither a later answer nor a byte of the model."""

    def model_bytes() -> list[bytes]:
        return [learned.seeds.rows.tobytes(), *(array.tobytes() for array in learned.baseline)]

    before = model_bytes()
    calls = [
        question(make, kit, action, effect, value, agent_id=f"agent-{agent}", session=f"s-{agent}")
        for agent in range(10)
        for action, effect in (("send", "write"), ("export", "delete"))
        for value in (NEW, KNOWN, None)
    ]
    first = [scorer.score(call) for call in calls]
    for _ in range(1_000 // len(calls) + 1):
        again = [scorer.score(call) for call in reversed(calls)]

    assert list(reversed(again)) == first
    assert model_bytes() == before


def test_questions_together_are_answered_as_one_by_one(
    learned: TrainedModel, scorer: CallScorer, make: Any, kit: Any
) -> None:
    """Agents that occur twice, strangers between them, and more questions than slots."""
    calls = [
        question(make, kit, action, effect, value, agent_id=agent)
        for agent in ("agent-1", "nobody", "agent-2", "agent-1")
        for action, effect in (("send", "write"), ("read_mail", "read"))
        for value in (NEW, KNOWN, None)
    ]
    together = CallScorer(learned, {}, slots=7).score_many(calls)

    assert together == [scorer.score(call) for call in calls]
    assert {score.exceeds for score in together} == {True, False} == {score.known_agent for score in together}


def test_questions_of_many_threads_do_not_mix(scorer: CallScorer, make: Any, kit: Any) -> None:
    calls = [question(make, kit, "send", "write", NEW if n % 2 else KNOWN, agent_id=f"agent-{n}") for n in range(8)]
    alone, together = [scorer.score(call) for call in calls], {}

    def run(at: int) -> None:
        together[at] = {scorer.score(calls[at]) for _ in range(50)}

    threads = [threading.Thread(target=run, args=(at,)) for at in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [together[at] for at in range(len(calls))] == [{one} for one in alone]


def test_what_a_session_did_before_does_not_matter(ask: Ask) -> None:
    """Nobody knows it where the question is answered."""
    assert ask("send", "write", NEW, session="s-1-1") == ask("send", "write", NEW, session="other")


def test_a_budget_of_nothing_challenges_nothing(learned: TrainedModel, make: Any, kit: Any) -> None:
    scored = CallScorer(learned, {"write": 0}).score(question(make, kit, "send", "write", NEW))

    assert scored.threshold is None and not scored.exceeds


def test_a_rare_effect_is_judged_by_all_calls(ask: Ask) -> None:
    """The history shows no deletion, so nothing can be promised of them alone."""
    scored = ask("send", "delete", NEW)

    assert scored.threshold is not None and scored.threshold.effect == "all"


def test_a_saved_model_scores_calls_alike(
    learned: TrainedModel, scorer: CallScorer, make: Any, kit: Any, tmp_path: Path
) -> None:
    save_trained_model(tmp_path / "model", learned, make.SETTINGS, 1, 0)
    loaded = CallScorer(load_trained_model(tmp_path / "model"), {})
    call = question(make, kit, "send", "write", NEW)

    assert loaded.score(call) == scorer.score(call)


def test_a_model_without_thresholds_is_refused(learned: TrainedModel) -> None:
    with pytest.raises(NoCallVerdicts, match="retrain"):
        CallScorer(dataclasses.replace(learned, challenges=None), {})


@pytest.mark.parametrize("action", ["send", "enter_code", "delete"])
@pytest.mark.parametrize("value", [NEW, KNOWN])
def test_an_unknown_task_excuses_nothing(scorer: CallScorer, make: Any, kit: Any, action: str, value: str) -> None:
    """A task that the history does not know could be made up: it is judged as if none had been named, or stricter."""
    asked = question(make, kit, action, "write", value)
    made_up = msgspec.structs.replace(asked, task="made-up")
    none = msgspec.structs.replace(asked, task=None)
    without, unknown = scorer.score(none), scorer.score(made_up)
    assert unknown.anomaly_score >= without.anomaly_score
    assert unknown.exceeds or not without.exceeds
    assert scorer.score_many([asked, made_up, none]) == [scorer.score(call) for call in (asked, made_up, none)]
