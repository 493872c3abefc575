"""A small history that models are trained on."""

from __future__ import annotations

import json
import random

from trustwatch.ingest.columns import ColumnEncoder, EventColumns
from trustwatch.ingest.events import decode_event
from trustwatch.models.detector import DetectorSettings

SALT = b"salt of persist"
SETTINGS = DetectorSettings(trees=10, folds=3)


def history(count: int, seed: int = 1, salt: bytes = SALT) -> EventColumns:
    return ColumnEncoder(salt).encode([decode_event(raw) for raw in raw_history(count, seed)])


def raw_history(count: int, seed: int = 1) -> list[bytes]:
    dice, events = random.Random(seed), []
    for number in range(count):
        agent, day = dice.randrange(6), 1 + number * 20 // max(count, 1)
        events.append(
            {
                "id": f"e{number}",
                "time": f"2025-12-{day:02d}T{dice.randrange(24):02d}:00:00Z",
                "type": "tool.call",
                "tenant": "acme",
                "action": dice.choice("abcde"),
                "outcome": "success",
                "agent": {"id": f"a{agent}", "type": f"T{agent % 2}"},
                "session": f"s{number // 10}",
                "resource": {"target": f"h{dice.randrange(5)}"},
                "bytes_out": dice.choice([40, 4_000]),
            }
        )
    return [json.dumps(event).encode() for event in events]
