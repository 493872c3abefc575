"""Stories in YAML: events of an agent, and the level, concern and first reason that they lead to."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.record_keys import raw_id_hash
from trustwatch.ingest.source import Record, RecordBatch, RecordKind
from trustwatch.models.detector import DetectorSettings
from trustwatch.models.model_training import train_model
from trustwatch.models.trained_model import TrainedModel
from trustwatch.scoring.engine.engine import EngineSettings
from trustwatch.scoring.pipeline.replay import HistoryReplay, ReplayedEvent
from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.scoring.records.decisions import Decision

HERE = Path(__file__).parent
TABLES = sorted((HERE / "tables").glob("*.yaml"))
FLEET = yaml.safe_load((HERE / "fleet.yaml").read_text())
START = datetime.combine(FLEET["until"], datetime.min.time(), UTC)
SALT = b"salt of stories!"
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
EXPECTED = ("level", "concern", "reason", "times", "every_s", "at")


def _filled(value: Any, number: int) -> Any:
    """*value* with `{n}` replaced in every text."""
    return json.loads(json.dumps(value).replace("{n}", str(number)))


def _event(agent_id: str, agent_type: str, at: datetime, common: dict[str, Any], call: dict[str, Any]) -> bytes:
    members = {"type": "tool.call", "outcome": "success", **common, **call}
    if "target" in members:
        members["resource"] = {"target": members.pop("target")}
    who = {"id": agent_id, "type": agent_type} | members.pop("agent", {})
    stamp = {"id": f"{agent_id}-{at.timestamp():.3f}", "time": at.isoformat(), "tenant": "acme"}
    return json.dumps({"session": f"{agent_id}-{at:%m%d}"} | members | stamp | {"agent": who}).encode()


def _usual_day(dice: random.Random, day: datetime) -> Iterator[tuple[datetime, bytes]]:
    for name, kind in FLEET["types"].items():
        for number in range(1, kind["agents"] + 1):
            common = _filled(kind["common"], number)
            for usual in kind["calls"]:
                for _ in range(dice.randint(usual["per_day"] // 2, usual["per_day"] * 3 // 2)):
                    at = day + timedelta(hours=8, seconds=dice.uniform(0, 36_000))
                    call = {one: value for one, value in _filled(usual, number).items() if one != "per_day"}
                    call["target"] = dice.choice(call["target"])
                    sizes = {one: dice.randint(*call[one]) for one in ("bytes_in", "bytes_out") if one in call}
                    yield at, _event(_filled(kind["id"], number), name, at, common, call | sizes)


@cache
def _model() -> TrainedModel:
    dice = random.Random(7)
    made: list[tuple[datetime, bytes]] = []
    for back in range(7 * FLEET["weeks"], 0, -1):
        day = START - timedelta(days=back)
        if day.weekday() < 5:
            made += _usual_day(dice, day)
    history = [decode_event(raw) for _, raw in sorted(made)]
    return train_model(ColumnEncoder(SALT).encode(history), SALT, "stories", DetectorSettings(seed=7))


def _common(agent_id: str) -> tuple[str, dict[str, Any]]:
    """Type of an agent of the fleet, and what all its events have."""
    for name, kind in FLEET["types"].items():
        for number in range(1, kind["agents"] + 1):
            if _filled(kind["id"], number) == agent_id:
                return name, _filled(kind["common"], number)
    raise KeyError(f"{agent_id} is not in fleet.yaml")


def _moment(text: str) -> datetime:
    day, clock = text.split()
    hour, minute = map(int, clock.split(":"))
    return START + timedelta(days=DAYS.index(day), hours=hour, minutes=minute)


class _Story:
    """A replay that is fed event by event, so that time passes between them."""

    def __init__(self) -> None:
        self.replay = HistoryReplay(_model(), EngineSettings())
        self.offset = 0
        self.waiting: list[Record] = []

    def poll(self, _most: int, _timeout_s: float) -> RecordBatch | None:
        if not self.waiting:
            return None
        self.offset += 1
        return RecordBatch(0, self.offset - 1, [self.waiting.pop()])

    def play(self, agent_id: str, row: dict[str, Any]) -> tuple[ReplayedEvent, list[Decision]]:
        """Apply one row of a table. Returns the last event that it stands for, and the rises."""
        agent_type, common = _common(agent_id)
        call = {name: value for name, value in row.items() if name not in EXPECTED}
        before = len(self.replay.summary().decisions)
        shown: list[ReplayedEvent] = []
        for number in range(row.get("times", 1)):
            at = _moment(row["at"]) + timedelta(seconds=number * row.get("every_s", 60))
            raw = _event(agent_id, agent_type, at, common, call)
            self.waiting.append(Record(RecordKind.EVENT, raw_id_hash(raw), int(at.timestamp() * 1000), raw))
            shown += self.replay.replayed_events(self, lambda *bad: pytest.fail(f"malformed: {bad}"))  # type: ignore[arg-type]
        rises = [one for one in self.replay.summary().decisions[before:] if one.level > one.previous_level]
        return shown[-1], rises


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_table(path: Path) -> None:
    """Each row of the story leads to its level; each rise names its concern and first reason."""
    story = yaml.safe_load(path.read_text())
    played = _Story()
    for number, row in enumerate(story["events"], 1):
        shown, rises = played.play(story["agent"], row)
        expected = {name: row[name] for name in ("level", "concern", "reason") if name in row}
        found: dict[str, str] = {"level": shown.risk_level}
        if alerts := [one for one in rises if one.level >= RiskLevel.MEDIUM]:
            found |= {"concern": alerts[-1].concern, "reason": alerts[-1].reasons[0].code}
        assert found == expected, f"{path.name}, event {number} ({row['at']}): {shown}"
