"""Small sets of traces, as the benchmark reads them: some assistants, their history, and a test part with labels."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.detection.traces import Trace


def line(session: str, assistant: str, task: str = "t", part: str = "test") -> bytes:
    event: dict[str, Any] = {
        "id": f"{part}-{session}",
        "agent": {"id": f"model/{assistant}", "type": assistant},
        "session": session,
        "task": task,
    }
    return json.dumps(event).encode()


def trace(name: str, assistants: tuple[str, ...], sessions: int = 60, tasks: int = 20) -> Trace:
    """A set with a history and a test part of each assistant; every second session is bad."""
    train = [line(f"{who}-{n}", who, part="train") for who in assistants for n in range(5)]
    test = [line(f"{who}-{n}", who, f"task_{n % tasks}") for who in assistants for n in range(sessions)]
    labels = [
        {"session": f"{who}-{n}", "session_label": n % 2, "event_label": n % 2, "class": "x"}
        for who in assistants
        for n in range(sessions)
    ]
    return Trace(name, train, test, labels)


def assistants_of(lines: list[bytes]) -> set[str]:
    return {json.loads(raw)["agent"]["type"] for raw in lines}
