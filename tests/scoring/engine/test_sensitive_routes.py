"""Sensitive data that leaves by a new way, in fleets where others send such data every day."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trustwatch.ingest.features.feature_table import FEATURE_INDEX
from trustwatch.models.detector import DetectorSettings
from trustwatch.models.trained_model import TrainedModel
from trustwatch.scoring.engine.engine import Engine, EngineSettings
from trustwatch.scoring.engine.scored_batch import ScoredBatch
from trustwatch.scoring.learning.walkforward import train_walk_forward

from ...support.feature_histories import SALT, columns
from ...support.sensitive_fleets import DESK, KEEPERS, SENDERS, SENSITIVE_TYPE, SUPPORT, TASKS, day_of_fleets, theft

ROUTE, COMPROMISE = FEATURE_INDEX["sensitive_route"], 0
DAYS = 30
SETTINGS = DetectorSettings(trees=20)


def learned(*types: str) -> TrainedModel:
    history = columns([made for day in range(DAYS) for made in day_of_fleets(day)])
    return train_walk_forward(history, SALT, "fleets", SETTINGS, sensitive_types=types).model


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return learned(SENSITIVE_TYPE)


@pytest.fixture
def engine(model: TrainedModel) -> Engine:
    return Engine(model, EngineSettings(capacity=100))


def of_compromise(scored: ScoredBatch) -> Any:
    return scored.concerns.p_value[:, COMPROMISE]


def thefts(engine: Engine, body: tuple[int, str]) -> ScoredBatch:
    """The mails with which each agent of the desk sends on what *body* names, a day after the history."""
    calls = [
        theft(DESK, SENDERS + at, 86_400.0 * (DAYS + 1) + 900.0 * at, TASKS[at % 2], body) for at in range(KEEPERS)
    ]
    return engine.score(columns([call for made in calls for call in made]))


def test_honest_fleets_are_not_odd(engine: Engine) -> None:
    """Neither the one whose job it is to send such data, nor the one that keeps them, whatever the values are."""
    scored = engine.score(columns(day_of_fleets(DAYS)))

    assert (scored.vectors[:, ROUTE] == 1.0).all()
    assert (of_compromise(scored) <= 0.01).mean() <= 0.02
    assert not (scored.levels[:, 1] > scored.levels[:, 0]).any()


def test_only_the_way_of_the_data_tells_a_theft(engine: Engine, model: TrainedModel) -> None:
    """Same agents, actions, targets and sizes: the desk mails what a customer's record says instead of a ticket."""
    mails = slice(3, None, 4)
    honest = thefts(engine, (0, "read_ticket"))
    stolen = thefts(Engine(model, EngineSettings(capacity=100)), (1, "read_customer"))

    assert (stolen.vectors[mails, ROUTE] == 2.0).all() and (honest.vectors[:, ROUTE] == 1.0).all()
    assert (of_compromise(stolen)[mails] <= 0.01).all() and np.median(of_compromise(honest)[mails]) > 0.1
    assert stolen.concerns.p_value[mails, 1].min() > 0.01  # an agent that works well


def test_the_reason_says_what_was_sent_and_whence(engine: Engine) -> None:
    stolen = thefts(engine, (1, "read_customer"))

    (reasons,) = engine.explainer.reasons(stolen, [3])

    assert (reasons[0].code, reasons[0].observed) == ("sensitive_route", "body out of read_customer")
    assert reasons[0].text == (
        "what came out of a sensitive answer was sent out with send_mail, which this task never did: "
        "body out of read_customer"
    )


def test_a_fleet_that_sends_hides_no_thief_beside_it(model: TrainedModel) -> None:
    """Routes are those of the task within the peer group: what Support does is no excuse for the desk."""
    engine = Engine(model, EngineSettings(capacity=100))
    sent = theft(SUPPORT, 0, 86_400.0 * (DAYS + 1), TASKS[0], (1, "read_customer"))

    assert engine.score(columns(sent)).vectors[-1, ROUTE] == 1.0
