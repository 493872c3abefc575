"""A simulated week with attacks, with one stored model: what `replay` and `backtest` say of it is what was recorded.

Two runs on one machine agree to the last bit; so do floats with those recorded, where the kind of machine is the same.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from .collecting import BACKTEST, LEARN, MODEL, backtest, replayed
from .support import RECORDED, assert_same, read_rows, unpack

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(MODEL, tmp_path_factory.mktemp("golden") / "model")


@pytest.mark.parametrize("name", LEARN)
def test_every_event_gets_the_recorded_score_level_and_reasons(model: Path, tmp_path: Path, name: str) -> None:
    """Line by line, with learning and without; the summary counts the recorded decisions."""
    golden = read_rows(RECORDED / name)

    assert_same(replayed(tmp_path, model, LEARN[name]), golden)
    assert {row["risk_level"] for row in golden[:-1]} == {"unknown", "low", "medium", "high", "critical"}


def test_a_back_test_tells_of_the_recorded_changes(model: Path) -> None:
    """Changes of level, alerts by budget, requests refused and revocations with their reasons."""
    assert_same([backtest(model)], read_rows(RECORDED / BACKTEST))
