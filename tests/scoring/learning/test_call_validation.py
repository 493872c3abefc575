"""Rehearsed questions: the budget of challenges holds where the world goes on changing behind a training."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from trustwatch.ingest.columns import ColumnEncoder, EventColumns
from trustwatch.ingest.events import decode_event
from trustwatch.models.call_challenges import HeldOutCalls
from trustwatch.models.model_training import train_model
from trustwatch.models.trained_model import TrainedModel
from trustwatch.scoring.backtest.challenge_counts import AskedCalls
from trustwatch.scoring.engine.call_scorer import CallScorer
from trustwatch.scoring.learning import walkforward
from trustwatch.scoring.learning.walkforward import (
    MIN_VALIDATED_CALLS,
    asked_scores,
    train_walk_forward,
    validate_calls,
)

from ...support.call_history import CALL_SETTINGS, SALT, call_history

START_MS = 1_767_000_000_000
PAIRS_OF_A_DAY = 288


@pytest.fixture(scope="module")
def days() -> list[dict[str, Any]]:
    """Seven days of agents that take a new key once in a while."""
    dice, keys = random.Random(3), [f"key-{agent}" for agent in range(16)]
    events = call_history(START_MS, pairs=7 * PAIRS_OF_A_DAY, agents=16)
    for at, event in enumerate(events):
        if at % (PAIRS_OF_A_DAY // 2) == 0:
            keys[dice.randrange(16)] = f"key-of-{at}"
        key = keys[int(event["agent"]["id"].rpartition("-")[2])]
        event["credential"] = {"method": "private_key_jwt", "thumbprint": key}
    return events


def columns_of(events: Sequence[dict[str, Any]]) -> EventColumns:
    return ColumnEncoder(SALT).encode([decode_event(json.dumps(event).encode()) for event in events])


@pytest.fixture(scope="module")
def learned(days: list[dict[str, Any]]) -> TrainedModel:
    """The model of all days but the last."""
    return train_walk_forward(columns_of(days[: -2 * PAIRS_OF_A_DAY]), SALT, "rehearsed", CALL_SETTINGS).model


def challenged(model: TrainedModel, events: Sequence[dict[str, Any]]) -> float:
    """Calls challenged of 1,000 at the default budget."""
    asked, questions = AskedCalls(), []
    for event in map(decode_event, (json.dumps(event).encode() for event in events)):
        questions.append(asked.question(event))
        asked.remember(event)
    scores = CallScorer(model, {}, slots=1_000).score_many(questions)
    return 1000.0 * float(np.mean([score.exceeds for score in scores]))


def test_the_budget_holds_on_the_day_after(learned: TrainedModel, days: list[dict[str, Any]]) -> None:
    """By the held-out calls alone, all calls of an agent with a new key would be challenged."""
    assert learned.challenges is not None and learned.challenges.rehearsed["all"].calls >= MIN_VALIDATED_CALLS
    unvalidated = dataclasses.replace(learned, challenges=msgspec.structs.replace(learned.challenges, rehearsed={}))
    later = days[-2 * PAIRS_OF_A_DAY :]

    assert challenged(learned, later) <= 10.0
    assert challenged(unvalidated, later) > 50.0


def test_a_rehearsal_answers_as_the_service_would(days: list[dict[str, Any]]) -> None:
    """Call by call, of a model of what came before: nothing is learned of the calls that are asked about."""
    split = 6 * PAIRS_OF_A_DAY
    model = train_model(columns_of(days[:split]), SALT, "before", CALL_SETTINGS)
    after = [*days[split : split + 1_000], *newcomers(days[:100])]

    scores = asked_scores(model, columns_of(after))

    asked, scorer, expected = AskedCalls(), CallScorer(model, {}), []
    for event in map(decode_event, (json.dumps(event).encode() for event in after)):
        expected.append(scorer.score(asked.question(event)).anomaly_score)
        asked.remember(event)
    assert scores.tolist() == pytest.approx(expected, abs=1e-12)


def newcomers(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same of agents that nobody has seen."""
    return [{**event, "agent": {**event["agent"], "id": f"new-{at % 9}"}} for at, event in enumerate(events)]


def rehearsed(model: TrainedModel, events: Sequence[dict[str, Any]]) -> dict[str, HeldOutCalls]:
    return validate_calls(lambda _: model, columns_of(events)).by_effect


def test_a_few_calls_are_no_rehearsal(learned: TrainedModel, days: list[dict[str, Any]]) -> None:
    """A quarter of them is asked about."""
    assert rehearsed(learned, days[: 4 * MIN_VALIDATED_CALLS - 4]) == {} == rehearsed(learned, days[:1])
    assert rehearsed(learned, days[: 4 * MIN_VALIDATED_CALLS])["all"].calls == MIN_VALIDATED_CALLS


def test_events_that_are_no_calls_are_not_rehearsed(learned: TrainedModel, days: list[dict[str, Any]]) -> None:
    """Nobody asks about a token request."""
    requests = [{**event, "type": "token.request"} for event in days[: 4 * MIN_VALIDATED_CALLS]]

    assert rehearsed(learned, requests) == {}


def test_what_grows_odder_with_the_history_is_taken_further(
    learned: TrainedModel, days: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the logarithm of its length; what grew more ordinary stays where it is."""
    scores = iter((np.array([0.5, 0.5, 0.9] * 100), np.array([0.6, 0.4, 0.99] * 100)))
    monkeypatch.setattr(walkforward, "asked_scores", lambda *_: next(scores))

    found = rehearsed(learned, days[: 4 * 300])["all"]

    growth = np.log(4 / 3) / np.log(3 / 2)
    assert sorted(set(found.scores)) == pytest.approx([0.4, 0.6 + 0.1 * growth, 1.0])


def test_a_neighbour_lifts_no_threshold_by_its_end(
    learned: TrainedModel, days: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty odd calls among the last three hundred count for no more than twice their share."""
    events = [event | {"tenant": "globex" if at % 5 == 0 else "acme"} for at, event in enumerate(days[: 4 * 300])]
    scores = np.where(np.arange(300) % 5 == 0, 0.99, np.linspace(0.3, 0.6, 300))
    monkeypatch.setattr(walkforward, "asked_scores", lambda *_: scores)

    found = validate_calls(lambda _: learned, columns_of(events))

    assert found.by_effect["all"].threshold(10.0) == 0.99
    assert found.bounded[""]["all"].threshold(10.0) == pytest.approx(0.6, abs=0.01)
    assert validate_calls(lambda _: learned, columns_of(days[: 4 * 300])).bounded == {}
