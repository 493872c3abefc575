"""Back-tests on real traces: figures equal those of the traces' own evaluation, in one process and in two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from trustwatch.api.cli.main import make_app

from ..support.checkout import ROOT

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]

SHARED = Path(os.environ.get("TRUSTWATCH_SHARED") or ROOT.parent / "shared")
DATA = SHARED / "data"

if not (DATA / "evaluate.py").is_file():
    pytest.skip(f"no traces at {DATA}; set TRUSTWATCH_SHARED", allow_module_level=True)


def run(*arguments: object) -> str:
    result = CliRunner().invoke(make_app(), [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def theirs(scores: Path, labels: Path, level: str) -> dict[str, Any]:
    """What `evaluate.py` beside the traces says of a score file."""
    command = [sys.executable, str(DATA / "evaluate.py"), str(scores), str(labels), "--level", level]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", ["agentdojo", "ats", "cloudtrail"])
@pytest.mark.parametrize("learn", ["--learn", "--no-learn"])
def test_figures_are_those_of_the_traces_own_evaluation(name: str, learn: str, tmp_path: Path) -> None:
    """ROC-AUC, average precision and recall by event and by session, of the scores that `replay` writes."""
    folder, model = DATA / name, tmp_path / "model"
    test, labels = folder / "test.jsonl.gz", folder / "test.labels.jsonl.gz"
    run("train", folder / "train.jsonl.gz", "--model", model, "--salt", "73616c74")
    run("replay", test, "--model", model, "--out", tmp_path / "scores.jsonl", learn)
    told = json.loads(
        run(
            "backtest",
            test,
            "--model",
            model,
            "--labels",
            labels,
            "--leave-out",
            "resisted",
            learn,
            "--jobs",
            2,
            "--json",
            "--report",
            tmp_path / "report.html",
        )
    )
    found = told["sides"][0]["evaluation"]
    assert (tmp_path / "report.html").stat().st_size > 10_000
    for level, ours in (("event", found["by_event"]), ("session", found["by_session"])):
        wanted = theirs(tmp_path / "scores.jsonl", labels, level)
        assert (ours["units"], ours["bad"]) == (wanted["n"], wanted["positives"])
        names = ("roc_auc", "average_precision", "recall_at_1_percent", "recall_at_5_percent")
        for figure, short in zip(names, ("auc", "ap", "r1", "r5"), strict=True):
            if level == "session" or name == "cloudtrail":
                print(f"{name} {learn} {level} {figure} {ours[figure]:.3f}")  # noqa: T201
            assert ours[figure] == pytest.approx(wanted[short], abs=6e-5)
