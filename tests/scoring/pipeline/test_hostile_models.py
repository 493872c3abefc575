"""Whoever can write a model's directory can sign it: what is in it may stop the start, and nothing worse.

Every case changes a small real model, makes all digests anew, loads it and replays events with it, in a process that a
case could end. `TRUSTWATCH_HOSTILE_MODELS` asks for more cases than the usual.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from trustwatch.models.model_persistence import save_trained_model
from trustwatch.models.model_training import train_model

from ...support.checkout import ROOT, process_command
from ...support.model_history import SALT, SETTINGS, history

CASES = int(os.environ.get("TRUSTWATCH_HOSTILE_MODELS", "400"))
FINE = re.compile(r": (refused|scored)$")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "model"
    save_trained_model(path, train_model(history(500), SALT, "p-1", SETTINGS), SETTINGS, 50, 1_764_000_000_000)
    return path


@pytest.mark.timeout(320 + CASES)
def test_a_model_that_was_tampered_with_is_refused_or_scores(sound: Path, tmp_path: Path) -> None:
    """No crash, no endless loop, no error but ModelError, and no score that is none."""
    done = subprocess.run(
        process_command("hostile_models", sound, tmp_path, 0, CASES),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300 + CASES,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"ended with {done.returncode} in {lines[-1:]}: {done.stderr[-2000:]}"
    assert lines[0] == "sound: scored"
    assert [line for line in lines[1:] if not FINE.search(line)] == []
    told = {outcome: sum(line.endswith(outcome) for line in lines) for outcome in ("refused", "scored")}
    assert len(lines) == CASES + 1
    assert told["refused"] > CASES / 2  # most changes are not harmless
