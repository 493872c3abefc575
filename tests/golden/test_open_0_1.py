"""What 0.1 wrote is read by the present program: event log, archive, store; its model is refused. The services that go
on from it are in tests/integration/test_golden.py and tests/integration/distributed/test_golden.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from trustwatch.ingest.errors import ModelError
from trustwatch.models.model_persistence import load_trained_model

from .collecting import MODEL
from .opening import DATA
from .support import assert_same, read_rows, run, score_vectors, stored, unpack

NOT_KNOWN = [0.0] * 4
"""Values of the features that 0.1 did not have, of an event that tells no origins and an agent without a history; they
have no evidence."""

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of 0.1, converted to the present format (`convert_model.py`)."""
    return unpack(MODEL, tmp_path_factory.mktemp("model-0-1") / "model")


def test_its_model_is_refused_with_what_to_do(tmp_path: Path) -> None:
    """It knows agents by a hash that two of them can share: nobody is judged by it; the advice is to train again."""
    with pytest.raises(ModelError, match="expected format version 6, found 3; retrain, or run the version"):
        load_trained_model(unpack(DATA / "model.zip", tmp_path / "model"))


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Folder of a service of 0.1: `data` and `archive`."""
    return unpack(DATA / "embedded.zip", tmp_path / "written")


def test_the_model_scores_stored_vectors_as_ever(model: Path) -> None:
    """Every column of the scores, for vectors of each peer group, of agents that are known and that are not."""
    golden = read_rows(DATA / "vectors.jsonl.gz")
    rows = np.array([[*row["vector"], *NOT_KNOWN] for row in golden])
    groups = np.array([row["group"] for row in golden], np.uint64)
    familiar = np.array([row["familiar"] for row in golden])
    scores = score_vectors(model, rows, groups, familiar)
    ours = [{name: column[at] for name, column in scores.items()} for at in range(len(rows))]

    assert_same(ours, [{**row["scores"], "u": [*row["scores"]["u"], *NOT_KNOWN]} for row in golden])


@pytest.mark.parametrize("place", ["data/log", "archive"])
def test_its_event_log_and_its_archive_are_read_as_histories(written: Path, model: Path, place: str) -> None:
    """Each event once and in the order in which it was sent; what three people said is an event, too."""
    sent = [row["id"] for row in read_rows(DATA / "sent.jsonl.gz")]
    out = written / "scores.jsonl"
    summary = json.loads(run("replay", written / place, "--model", model, "--out", out, "--json"))
    found = [row["id"] for row in read_rows(out)]

    assert (summary["events"], summary["malformed"], summary["duplicates"]) == (len(sent) + 3, 0, 0)
    assert [one for one in found if one in set(sent)] == sent


def test_the_archive_is_described(written: Path) -> None:
    """`trustwatch archive` counts its events by day and says how far it goes."""
    told = json.loads(run("archive", written / "archive", "--json"))

    assert told["positions"] == {"0": 962}
    assert {day["date"]: day["events"] for day in told["days"]} == {
        "2026-01-19": 129,
        "2026-01-20": 172,
        "2026-01-21": 165,
        "2026-01-22": 274,
        "2026-01-23": 216,
        "2026-11-27": 3,
    }


def test_the_store_lists_what_0_1_told(written: Path) -> None:
    """The present program opens the store, migrates it where it must, and finds the decisions and agents in it."""
    golden = read_rows(DATA / "embedded-1.jsonl.gz")
    decisions, agents = stored(written / "data" / "trustwatch.db")

    assert decisions == {
        row["decision"]["decision_id"]: (row["decision"]["agent_id"], row["decision"]["level"])
        for row in golden
        if "decision" in row
    }
    assert agents == {
        (row["agent"]["tenant"], row["agent"]["agent_id"]): (row["agent"]["risk_level"], row["agent"]["events"])
        for row in golden
        if "agent" in row
    }
