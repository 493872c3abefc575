"""Parts of tests on a running service: agents that act, its child processes, its models, and names in its files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow.parquet as pq

FEATURES = [
    "target_surprise",
    "resource_surprise",
    "action_target_surprise",
    "external_target",
    "novelty_1h",
    "session_strangeness",
    "transition_surprise",
    "repeat_surprise",
    "provenance_surprise",
    "write_surprise",
]
ORDER = ("unknown", "low", "medium", "high", "critical")


class Agent:
    """An agent of the simulated enterprise that goes on with its day."""

    def __init__(self, service: Any, day: list[bytes], attacked: Any, settle: Callable[[], None] | None = None) -> None:
        self.service = service
        self.settle = settle or service.settle
        events = [json.loads(raw) for raw in day]
        calm = [one for one in events if (one["tenant"], one["agent"]["id"]) not in attacked and one.get("resource")]
        busy = max({one["agent"]["id"] for one in calm}, key=lambda who: sum(one["agent"]["id"] == who for one in calm))
        self.past = [one for one in calm if one["agent"]["id"] == busy]
        self.name: dict[str, str] = {"tenant": self.past[0]["tenant"], "issuer": self.past[0]["agent"]["issuer"]}
        self.id: str = self.past[0]["agent"]["id"]
        self.at = max(datetime.fromisoformat(one["time"]) for one in self.past)
        self.number = 0

    def act(self, supplier: str = "", **more: Any) -> dict[str, Any]:
        """One more event like those of the past, but with a new supplier where one is named; returns the risk after."""
        self.number += 1
        self.at += timedelta(minutes=7)
        made = json.loads(json.dumps(self.past[self.number % len(self.past)]))
        made |= {"id": f"more-{self.number}", "time": self.at.isoformat(), "session": f"day-{self.number // 4}", **more}
        if supplier:
            resource = {"id": supplier, "target": supplier, "external": True, "provenance": "new"}
            made["resource"] = made["resource"] | resource
        assert self.service.send([made]).json()["accepted"] == 1
        self.settle()
        return self.risk()

    def risk(self) -> dict[str, Any]:
        found: dict[str, Any] = self.service.get(f"/v1/agents/{quote(self.id, safe='')}/risk", **self.name).json()
        return found

    def flag(self) -> dict[str, Any]:
        """Let it use new suppliers until it is high; returns the decision."""
        while ORDER.index(self.act(f"supplier-{self.number}.example")["risk_level"]) < 3:
            assert self.number < 120, "nobody was flagged"
        found = self.service.pages("/v1/decisions", agent_id=self.id, **self.name)
        return next(dict(one) for one in found if ORDER.index(one["level"]) >= 3)


def ended(service: Any, preview_id: str) -> dict[str, Any] | None:
    found: dict[str, Any] = service.get(f"/v1/feedback/previews/{preview_id}").json()
    return found if found["status"] in ("done", "failed") else None


class Models:
    """The routes of models."""

    def __init__(self, service: Any) -> None:
        self.service = service

    def get(self, path: str = "") -> Any:
        answer = self.service.client.get(f"/v1/models{path}", headers=self.service.auth())
        assert answer.status_code == 200, answer.text
        return answer.json()

    def order(self, path: str, **body: Any) -> Any:
        return self.service.client.post(f"/v1/models/{path}", json=body, headers=self.service.auth())

    def challenger(self) -> Any:
        return next((one for one in self.get()["items"] if one["status"] == "challenger"), None)

    def in_force(self, version: str) -> bool:
        """Whether that version is, and answers name it."""
        if self.get()["in_force"] != version:
            return False
        answer = self.service.client.get("/v1/agents/nobody/risk?tenant=acme-corp", headers=self.service.auth())
        return bool(answer.json()["model_version"] == version)


def post_lines(service: Any, events: list[bytes]) -> None:
    """Post events in bodies of a hundred lines."""
    for at in range(0, len(events), 100):
        body = b"\n".join(events[at : at + 100])
        headers = {**service.auth(), "content-type": "application/x-ndjson"}
        answer = service.client.post("/v1/events", content=body, headers=headers)
        assert answer.status_code == 202, answer.text


def child_pid(service_pid: int, module: str) -> int | None:
    """The process of a service that runs `trustwatch.MODULE`."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            command = (path.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == service_pid and f"trustwatch.{module}\0".encode() in command:
            return int(path.parent.name)
    return None


def files_holding(folder: Path, name: str) -> list[str]:
    """Files below *folder* that hold a name."""
    found: list[str] = []
    for place, _, names in os.walk(folder):
        for path in (Path(place, one) for one in names if one != "service.log"):
            try:
                found += [str(path.relative_to(folder))] if name.encode() in file_content(path) else []
            except FileNotFoundError:  # of the spool, or put in place of another just now
                continue
    return found


def file_content(path: Path) -> bytes:
    """Bytes of a file, and what compression hides in it."""
    raw = path.read_bytes()
    if path.suffix == ".parquet":
        raw += json.dumps(pq.ParquetFile(path).read().to_pylist(), default=str).encode()
    return raw
