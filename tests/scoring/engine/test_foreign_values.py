"""A value out of a mail in the engine: it moves the p-value, is told in words, counts once, and is learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from trustwatch.ingest.features.feature_table import FEATURE_INDEX
from trustwatch.models.model_training import train_model
from trustwatch.models.trained_model import TrainedModel
from trustwatch.scoring.engine.engine import Engine, EngineSettings
from trustwatch.scoring.engine.scored_batch import ScoredBatch

DAY, MINUTE = 86_400_000, 60_000
KNOWN = f"{2:012x}"
ORIGIN = FEATURE_INDEX["argument_origin"]
Score = Callable[..., ScoredBatch]


def told(made: dict[str, Any], calls: dict[str, int], values: list[str]) -> dict[str, Any]:
    """The event with origins: even calls of a session read mail, odd ones take a value out of the one before."""
    session = f"{made['agent']['id']}/{made['session']}"
    number = calls[session] = calls.get(session, -1) + 1
    made["task"] = "desk"
    if number % 2 == 0:
        return {**made, "effect": "read", "arguments": [], "untrusted_result": True}
    value = values[number % len(values)]
    argument = {"name": "to", "origin": "tool", "from": number - 1, "from_action": "read_mail", "hash": value}
    return {**made, "effect": "write", "arguments": [argument], "untrusted_result": False}


@pytest.fixture(scope="module")
def learned(make: Any, kit: Any) -> TrainedModel:
    """Of agents that tell origins, whose values recur."""
    calls: dict[str, int] = {}
    values = [f"{number:012x}" for number in range(1, 40)]
    history = [told(made, calls, values) for made in make.stream(1, 3_000, agents=24)]
    return train_model(kit.columns(history), make.SALT, "origins", make.SETTINGS)


@pytest.fixture
def engine(learned: TrainedModel) -> Engine:
    return Engine(learned, EngineSettings(capacity=100))


@pytest.fixture
def score(engine: Engine, make: Any, kit: Any) -> Score:
    """Scores a pair of calls of a known agent: a mail is read, and its value, named last, is used."""
    numbers = iter(range(10_000))

    def run(at_min: int, value: str | None, other: dict[str, Any] | None = None, agent: int = 1) -> ScoredBatch:
        members = {"resource": {"target": f"host-{agent}-0"}, "session": f"x-{agent}-{at_min}", "task": "desk"}
        start_ms = make.START_MS + 5 * DAY + at_min * MINUTE
        read = make.event(next(numbers), agent, start_ms, **members, effect="read", untrusted_result=True, arguments=[])
        source = {"name": "to", "origin": "tool", "from": 0, "from_action": "read_mail", "hash": value}
        use = make.event(next(numbers), agent, start_ms + 30_000, **members, effect="write")
        if value is not None:
            use |= {"arguments": [source, *([other] if other else [])], "untrusted_result": False}
        return engine.score(kit.columns([read, use]))

    return run


def test_a_value_of_others_moves_the_p_value_and_is_told(score: Score, engine: Engine) -> None:
    known, foreign = score(0, KNOWN), score(60, "f" * 12)

    assert foreign.p_values[1] < 0.2 * known.p_values[1]
    (reasons,) = engine.explainer.reasons(foreign, [1])
    assert (reasons[0].code, reasons[0].observed) == ("argument_origin", "to out of read_mail")
    assert reasons[0].text.startswith("a value that is not known of this task was taken out of an answer that others")
    assert reasons[0].text.endswith(": to out of read_mail")
    assert "argument_origin" not in {one.feature for one in engine.explainer.reasons(known, [1])[0]}


def test_a_value_that_has_counted_hides_no_other(score: Score) -> None:
    """A call that takes both counts for the new one."""
    assert score(0, "f" * 12).p_values[1] < 0.1
    more = {"name": "copy", "origin": "tool", "from": 0, "from_action": "read_mail", "hash": "e" * 12}

    both = score(60, "f" * 12, other=more)

    assert both.p_values[1] < 0.1


def test_whoever_tells_no_origins_is_judged_by_the_rest(score: Score) -> None:
    """Neither better nor worse than one whose values are known."""
    silent, known = score(0, None), score(60, KNOWN)

    assert silent.vectors[1, ORIGIN] == 0.0 and known.vectors[1, ORIGIN] == 1.0
    assert np.isclose(silent.p_values[1], known.p_values[1], rtol=1.0)
