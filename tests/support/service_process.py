"""The real service as a process of its own on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import httpx2

from trustwatch.api.http.auth.callers import ALL_SCOPES
from trustwatch.api.http.auth.signing import LocalSigningKey

AUDIENCE = "trustwatch"
SETTINGS = """\
data_dir: data
model_dir: {model}
listen: {{port: {port}}}
issuers:
  - {{issuer: "urn:trustwatch:local", jwks_file: data/local-jwks.json, audiences: [trustwatch]}}
callers:
  - {{name: all, client_id: all, tenants: ["*"], issuers: ["*"], sources: ["*"], trusted: true, enforces: true}}
  - {{name: acme, client_id: acme, tenants: [acme-corp], issuers: ["*"], sources: ["urn:*"]}}
tenants:
  acme-corp: {{domains: [acme-corp.example], mode: enforce}}
  globex: {{domains: [globex.example], mode: enforce}}
pipeline: {{commit_interval_s: 0.2, tick_interval_s: 3600}}
{more}"""


class ModelAndDay(NamedTuple):
    """A trained model, and the day after its history with attacks in it."""

    model: Path
    day: list[bytes]
    attacked: dict[tuple[str, str], str]  # (tenant, agent id) -> scenario


class Service:
    """`trustwatch serve` in *folder*. `start` may be called again after `stop` or `kill`: same port, same data."""

    def __init__(self, folder: Path, model: Path, more: str = "") -> None:
        self.folder = folder
        self.settings = folder / "settings.yaml"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        folder.mkdir(parents=True, exist_ok=True)
        self.settings.write_text(SETTINGS.format(model=json.dumps(str(model)), port=self.port, more=more))
        self.key = LocalSigningKey.open(folder / "data")
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = httpx2.Client(base_url=self.url, timeout=30.0)
        self.process: subprocess.Popen[bytes] | None = None

    def token(self, client: str = "all", *scopes: str, audience: str = AUDIENCE, lifetime_s: int = 3600) -> str:
        return self.key.issue_token(
            client, client, scopes or ALL_SCOPES, audience, lifetime_s, time.time(), secrets.token_hex(8)
        )

    def auth(self, client: str = "all", *scopes: str, **claims: Any) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token(client, *scopes, **claims)}"}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "trustwatch", *arguments]

    def start(self, *, ready: bool = True) -> None:
        with (self.folder / "service.log").open("ab") as log:
            command = self.command("serve", "--settings", str(self.settings))
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        if ready:
            self.wait(self.is_ready, 180.0)

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        with contextlib.suppress(httpx2.TransportError):
            return self.client.get("/readyz").status_code == 200
        return False

    def status(self, path: str) -> int | None:
        """Status of an open path; None where nobody answers."""
        with contextlib.suppress(httpx2.TransportError):
            return self.client.get(path).status_code
        return None

    def wait(self, until: Callable[[], Any], within_s: float = 120.0) -> Any:
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if found := until():
                return found
            time.sleep(0.05)
        raise AssertionError(f"not within {within_s} s: {until}; {self.log()[-3000:]}")

    def log(self) -> str:
        return (self.folder / "service.log").read_text()

    def run(self, *arguments: str, timeout: float = 200.0, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*arguments), capture_output=True, text=True, timeout=timeout, **options)

    def stop(self, number: int = signal.SIGTERM, within_s: float = 30.0) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(within_s)

    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """kill -9 of the service alone: its pipeline process has to notice by itself."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def kill_all(self) -> None:
        """kill -9 of the service and all its processes at once."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def pipeline_pid(self) -> int | None:
        """The child process of the service that works on events."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0]) if children else None

    def post(
        self, body: bytes, kind: str = "application/x-ndjson", client: str = "all", **headers: str
    ) -> httpx2.Response:
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post("/v1/events", content=body, headers={"content-type": kind, **self.auth(client), **more})

    def send(self, events: list[dict[str, Any]], client: str = "all") -> httpx2.Response:
        return self.post(json.dumps(events).encode(), "application/json", client)

    def get(self, path: str, client: str = "all", **params: Any) -> httpx2.Response:
        return self.client.get(path, params=params or None, headers=self.auth(client))

    def pages(self, path: str, **params: Any) -> list[dict[str, Any]]:
        found, cursor = [], None
        while True:
            given = params | ({} if cursor is None else {"cursor": cursor})
            answer = self.get(path, limit=500, **given)
            assert answer.status_code == 200, answer.text
            found += answer.json()["items"]
            cursor = answer.json()["next_cursor"]
            if cursor is None:
                return found

    def counts(self, **params: Any) -> dict[str, int]:
        """Events applied by agent id, as the store has them."""
        return {row["agent_id"]: row["events"] for row in self.pages("/v1/agents", **params)}

    def metric(self, name: str) -> float:
        lines = self.client.get("/metrics").text.splitlines()
        return float(next(line.rpartition(" ")[2] for line in lines if line.startswith(f"{name} ")))

    def applied(self) -> bool:
        """Whether everything that was logged is committed and in the answers."""
        return self.metric("trustwatch_pipeline_offset") == self.metric("trustwatch_log_next_offset")

    def settle(self, within_s: float = 60.0) -> None:
        self.wait(self.applied, within_s)

    def close(self) -> None:
        self.client.close()
        if self.process is not None and self.runs():
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
