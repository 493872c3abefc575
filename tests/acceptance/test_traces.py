"""Real traces: train and replay run over all of them, in order, frozen, and with figures worth having."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.files import FileSource
from trustwatch.ingest.formats.lenient import decode_history
from trustwatch.models.bundle import TrainedModel
from trustwatch.models.learning import learn_history
from trustwatch.scoring.engine import EngineSettings
from trustwatch.scoring.replay import Replay, ReplayedEvent

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]

SHARED = Path(os.environ.get("TRUSTWATCH_SHARED") or Path(__file__).resolve().parents[2].parent / "shared")
DATA = SHARED / "data"
SETS = ("agentdojo", "ats", "cloudtrail")
SALT = b"salt of the traces"

if not DATA.is_dir():
    pytest.skip(f"no traces at {DATA}; set TRUSTWATCH_SHARED", allow_module_level=True)


def part(name: str, suffix: str) -> Path:
    (found,) = sorted((DATA / name).glob(f"*{suffix}*"))
    return found


def raw_lines(path: Path) -> list[bytes]:
    raw = path.read_bytes()
    text = gzip.decompress(raw) if path.suffix == ".gz" else raw
    return [line + b"\n" for line in text.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def models() -> dict[str, TrainedModel]:
    """One model per set, trained on its `train` part alone."""
    made = {}
    for name in SETS:
        events = [decode_history(line)[0] for line in raw_lines(part(name, "train"))]
        made[name] = learn_history(ColumnEncoder(SALT).encode(events), SALT, name)
    return made


def replay(model: TrainedModel, paths: list[Path], **settings: Any) -> list[ReplayedEvent]:
    run, source = Replay(model, EngineSettings(**settings)), FileSource(paths)
    lines = list(run.run(source, lambda *letter: pytest.fail(f"malformed: {letter}")))
    source.close()
    return lines


def roc_auc(scores: Iterable[float], labels: Iterable[bool]) -> float:
    """Probability that a bad one scores above a good one, ties half."""
    score, label = np.array(list(scores)), np.array(list(labels))
    bad, good = score[label][:, None], score[~label][None, :]
    return float(((bad > good) + 0.5 * (bad == good)).mean())


@pytest.mark.parametrize("name", SETS)
def test_every_event_is_scored_in_order(models: dict[str, TrainedModel], name: str) -> None:
    """Each record of `test` gives one line, in input order, with finite scores in their ranges."""
    test = part(name, "test.jsonl")
    lines = replay(models[name], [test], learn=False)
    assert [line.id for line in lines] == [json.loads(line)["id"] for line in raw_lines(test)]
    assert all(0.0 <= line.anomaly_score <= 1.0 and 0.0 < line.p_value <= 1.0 for line in lines)
    assert all(np.isfinite(line.risk_score) for line in lines)


@pytest.mark.parametrize("name", SETS)
def test_a_score_knows_nothing_of_the_future(models: dict[str, TrainedModel], tmp_path: Path, name: str) -> None:
    """The first half scores the same whether or not a second half follows: with learning on, too."""
    raw = raw_lines(part(name, "test.jsonl"))[:1_200]
    half = tmp_path / "half.jsonl"
    whole = tmp_path / "whole.jsonl"
    half.write_bytes(b"".join(raw[: len(raw) // 2]))
    whole.write_bytes(b"".join(raw))
    for learn in (False, True):
        short, long = (replay(models[name], [path], learn=learn) for path in (half, whole))
        assert [line.anomaly_score for line in short] == [line.anomaly_score for line in long[: len(short)]]


def test_agentdojo_hijacks_are_found(models: dict[str, TrainedModel]) -> None:
    """Sessions in which the agent acted for the attacker stand out, with the baseline frozen after `train`."""
    test = part("agentdojo", "test.jsonl")
    labels = {}
    for line in raw_lines(part("agentdojo", "test.labels")):
        made = json.loads(line)
        labels[made["id"]] = bool(made["session_label"])
    sessions: dict[str, tuple[float, bool]] = {}
    events = [json.loads(line) for line in raw_lines(test)]
    for learn in (True, False):
        sessions.clear()
        for made, line in zip(events, replay(models["agentdojo"], [test], learn=learn), strict=True):
            key = f"{made['agent']['id']}/{made['session']}"
            best, bad = sessions.get(key, (0.0, False))
            sessions[key] = (max(best, line.anomaly_score), bad or labels[line.id])
        auc = roc_auc((score for score, _ in sessions.values()), (bad for _, bad in sessions.values()))
        print(f"agentdojo sessions={len(sessions)} learn={learn} ROC-AUC={auc:.4f}")  # noqa: T201
    assert auc >= 0.85
