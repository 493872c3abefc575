"""The demo: a simulated enterprise, a trained model, the real service, and a day with two attacks, in about a minute.

It does what a user would: writes a settings file, trains, starts `trustwatch serve` as a process of its own, and sends
events over HTTP. The simulated day is the one that ends now: events keep their own times and are only sent faster than
they happened, so that working hours, pauses and half-lives mean what they say.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from ..ingest.columns import ColumnEncoder
from ..ingest.events import decode_event
from ..models.detector import DetectorSettings
from ..models.learning import learn_history, session_ids
from ..models.persist import save
from . import clock
from .callers import SCOPES
from .local import local_token
from .simulator import Attack, SimulatedEvent, SimulationSettings, simulate

PORT = 8420
AGENTS = 40
EVENTS_PER_DAY = 120.0
WEEK = timedelta(days=7)
DAY = timedelta(days=1)
ATTACKS = (
    Attack("scope_creep", at=WEEK + timedelta(hours=10)),
    Attack("stolen_credential", at=WEEK + timedelta(hours=16)),
)
SETTINGS = """\
# Written by `trustwatch demo`: a local issuer, one caller that may do everything, two tenants.
data_dir: data
model_dir: model
listen: {{port: {port}}}
issuers:
  - {{issuer: "urn:trustwatch:local", jwks_file: data/local-jwks.json, audiences: [trustwatch]}}
callers:
  - {{name: demo, client_id: demo, tenants: ["*"], issuers: ["*"], sources: ["*"], trusted: true}}
tenants:
  acme-corp: {{domains: [acme-corp.example], mode: enforce}}
  globex: {{domains: [globex.example], mode: enforce}}
# A whole day arrives in a minute, so only events move time: the clock on the wall would let all risk decay at once.
pipeline: {{commit_interval_s: 0.5, tick_interval_s: 3600}}
"""
DOMAINS = {"acme-corp": ["acme-corp.example"], "globex": ["globex.example"]}


class Demo:
    """One run of the demo.

    Args:
        directory: where everything goes; emptied first.
        seconds: real time of the simulated day.
        seed: of the enterprise.
        stay: serve on until Ctrl-C when the day is over.
        say: where messages go.
    """

    def __init__(self, directory: Path, seconds: float, seed: int, stay: bool, say: Callable[[str], None]) -> None:
        self._directory = directory.absolute()
        self._factor = 86_400.0 / seconds
        self._seed = seed
        self._stay = stay
        self._say = say
        self._attacked: dict[str, str] = {}
        self._first_bad: dict[str, int] = {}
        self._told: set[str] = set()
        self._flagged: dict[str, str] = {}

    def run(self) -> int:
        """Run it; returns the exit status."""
        port = _free_port()
        data = self._directory / "data"
        shutil.rmtree(self._directory, ignore_errors=True)
        data.mkdir(parents=True)
        settings = self._directory / "settings.yaml"
        settings.write_text(SETTINGS.format(port=port))
        token = local_token(data, "demo", list(SCOPES), "trustwatch", 86_400)
        day = self._train(clock.utc_now() - DAY)
        url = f"http://127.0.0.1:{port}"
        with (self._directory / "service.log").open("wb") as log:
            command = [sys.executable, "-m", "trustwatch.api", "serve", "--settings", str(settings)]
            service = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603 - our own interpreter and settings
            try:
                return self._use(service, url, token, day)
            except KeyboardInterrupt:
                return 0
            finally:
                service.send_signal(signal.SIGTERM)
                service.wait(60)
                self._say("The service has stopped.")

    def _train(self, day_start: datetime) -> list[SimulatedEvent]:
        """Simulate eight days in one go, learn the first seven, return the eighth."""
        self._say(f"1. Simulating a week of {AGENTS} agents in two tenants ...")
        plan = SimulationSettings(
            start=day_start - WEEK, duration=WEEK + DAY, seed=self._seed, agents=AGENTS, attacks=ATTACKS,
            events_per_agent_day=EVENTS_PER_DAY,
        )  # fmt: skip
        week: list[SimulatedEvent] = []
        day: list[SimulatedEvent] = []
        for event in simulate(plan):
            (week if event.at_ms < day_start.timestamp() * 1000 else day).append(event)
        self._note_attacks(day)
        self._say(f"2. Learning what is normal from {len(week)} events ...")
        salt = self._seed.to_bytes(16, "little")
        columns = ColumnEncoder(salt, DOMAINS).encode([decode_event(event.event) for event in week])
        detector = DetectorSettings(seed=self._seed)
        model = learn_history(columns, salt, "demo", detector)
        sessions = len(set(session_ids(columns).tolist()))
        save(self._directory / "model", model, detector, sessions, clock.now_ms())
        return day

    def _note_attacks(self, day: list[SimulatedEvent]) -> None:
        """Who is attacked, and when: only to say at the end whether the service noticed."""
        for event in day:
            if event.label.event_label:
                self._attacked.setdefault(event.label.agent_id, event.label.scenario)
                self._first_bad.setdefault(event.label.agent_id, event.at_ms)

    def _use(self, service: subprocess.Popen[bytes], url: str, token: str, day: list[SimulatedEvent]) -> int:
        client = httpx.Client(base_url=url, headers={"authorization": f"Bearer {token}"}, timeout=30.0)
        self._say(f"3. Starting the service at {url} ...")
        if not self._ready(service, client):
            self._say(f"   it did not start; see {self._directory / 'service.log'}")
            return 1
        self._say(
            f"4. Playing a day in {86_400 / self._factor:.0f} s: {len(day)} events, "
            f"attacks on {len(self._attacked)} agents"
        )
        for batch in _paced(day, self._factor):
            body = b"\n".join(event.event for event in batch)
            answer = client.post("/v1/events", content=body, headers={"content-type": "application/x-ndjson"})
            if answer.status_code != 202:
                self._say(f"   the service refused events: {answer.status_code} {answer.text[:300]}")
                return 1
            self._tell(client)
        return self._conclude(service, client, url, token)

    def _ready(self, service: subprocess.Popen[bytes], client: httpx.Client) -> bool:
        deadline = clock.monotonic() + 60.0
        while clock.monotonic() < deadline and service.poll() is None:
            try:
                if client.get("/readyz").status_code == 200:
                    return True
            except httpx.TransportError:
                pass
            clock.sleep(0.2)
        return False

    def _tell(self, client: httpx.Client) -> None:
        """Print the changes of level since the last look, oldest first."""
        for decision in reversed(client.get("/v1/decisions", params={"limit": 200}).json()["items"]):
            if decision["decision_id"] in self._told:
                continue
            self._told.add(decision["decision_id"])
            if "medium" in (decision["level"], decision["previous_level"]) or decision["level"] in ("high", "critical"):
                self._print(decision)

    def _print(self, decision: dict[str, Any]) -> None:
        agent = decision["agent_id"]
        if decision["level"] != "low":
            self._flagged.setdefault(agent, decision["decided_at"])
        reason = decision["reasons"][0]["text"] if decision["reasons"] else decision["cause"]
        truth = f"   <- {self._attacked[agent]}" if agent in self._attacked else ""
        self._say(
            f"   {decision['event_time'][11:19]}  {decision['previous_level']:>8} -> {decision['level']:<8}  "
            f"{agent}: {reason}{truth}"
        )

    def _conclude(self, service: subprocess.Popen[bytes], client: httpx.Client, url: str, token: str) -> int:
        clock.sleep(2.0)
        self._tell(client)
        noticed = [agent for agent in self._attacked if agent in self._flagged]
        calm = AGENTS - len(self._attacked)
        wrong = sum(1 for agent in self._flagged if agent not in self._attacked)
        self._say(f"5. The day is over: {len(noticed)} of {len(self._attacked)} attacked agents noticed; "
                  f"{wrong} of {calm} others flagged at some time.")  # fmt: skip
        example = next(iter(noticed), next(iter(self._attacked), "nobody"))
        path = f"/v1/agents/{quote(example, safe='')}/risk"
        (self._directory / "token").write_text(token)
        self._say(f"\nURL    {url}\nTOKEN  {token}\n\n  curl -s -H 'Authorization: Bearer {token}' '{url}{path}'\n")
        answer = client.get(path)
        self._say(answer.text)
        if answer.status_code != 200:
            return 1
        if self._stay:
            self._say("\nServing until Ctrl-C.")
            return service.wait()
        return 0


def _free_port() -> int:
    """The usual port, or any other where that is taken."""
    for port in (PORT, 0):
        try:
            with socket.create_server(("127.0.0.1", port)) as taken:
                return int(taken.getsockname()[1])
        except OSError:
            continue
    raise OSError("no free port on 127.0.0.1")


def _paced(day: list[SimulatedEvent], factor: float) -> Iterator[list[SimulatedEvent]]:
    """Events in small batches, each when its time has come on a clock that runs *factor* times faster."""
    at, begin = 0, clock.monotonic()
    while at < len(day):
        now_ms = day[0].at_ms + (clock.monotonic() - begin) * 1000.0 * factor
        batch: list[SimulatedEvent] = []
        while at < len(day) and day[at].at_ms <= now_ms and len(batch) < 500:
            batch.append(day[at])
            at += 1
        if batch:
            yield batch
        else:
            clock.sleep(0.25)
