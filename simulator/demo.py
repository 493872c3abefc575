"""The demo: a simulated enterprise, a trained model, the real service, and a day with two attacks, in about a minute.

Like a user, it writes a settings file, trains, starts `trustwatch serve` as a separate process, and sends events over
HTTP. The simulated day ends now: events keep their times and are only sent faster than they happened, so that working
hours, pauses and half-lives keep their meaning.
"""

from __future__ import annotations

import secrets
import shutil
import signal
import socket
import subprocess  # nosec B404 # runs our own interpreter alone
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from urllib.parse import quote, urlencode

import httpx2

from trustwatch.api import clock
from trustwatch.api.composition import engine_settings
from trustwatch.api.console.console_sessions import issue_login_code
from trustwatch.api.http.auth.callers import ALL_SCOPES
from trustwatch.api.http.auth.signing import issue_local_token
from trustwatch.api.settings.loading import load_settings
from trustwatch.api.settings.root import Settings
from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.durable_files import create_secret_file
from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.models.detector import DetectorSettings
from trustwatch.scoring.delivery.notifiers.webhook_notifier import verify_signature
from trustwatch.scoring.learning.training import train_and_save
from trustwatch.scoring.records.agents import AgentIdentity

from .event_stream import simulate
from .labelled_events import SimulatedEvent
from .population import Attack, SimulationSettings

AGENTS = 40
EVENTS_PER_AGENT_DAY = 120.0
DAY = timedelta(days=1)

_SETTINGS = """\
# Written by `{command}`: a local issuer, one caller that may do everything, two tenants.
settings_version: 2
data_dir: data
model_dir: model
issuers:
  - {{issuer: "urn:trustwatch:local", jwks_file: data/local-jwks.json, audiences: [trustwatch]}}
callers:
  - {{name: demo, client_id: demo, tenants: ["*"], issuers: ["*"], agents: ["*"], sources: ["*"], trusted: true}}
tenants:
  acme-corp: {{domains: [acme-corp.example], mode: enforce}}
  globex: {{domains: [globex.example], mode: enforce}}
"""


def local_settings(command: str, *sections: str) -> str:
    """Return a settings file for local use, with additional *sections*. Its first line names the *command*."""
    return _SETTINGS.format(command=command) + "".join(section + "\n" for section in sections)


def simulate_history_and_day(
    start: datetime, history: timedelta, seed: int
) -> tuple[list[SimulatedEvent], list[SimulatedEvent]]:
    """Simulate a *history* without attacks, and the following day, on which two agents are attacked."""
    plan = SimulationSettings(
        start=start,
        duration=history + DAY,
        seed=seed,
        agents=AGENTS,
        attacks=(
            Attack("scope_creep", at=history + timedelta(hours=10)),
            Attack("stolen_credential", at=history + timedelta(hours=16)),
        ),
        events_per_agent_day=EVENTS_PER_AGENT_DAY,
    )
    day_start_ms = (start + history).timestamp() * 1000
    before: list[SimulatedEvent] = []
    day: list[SimulatedEvent] = []
    for event in simulate(plan):
        (before if event.at_ms < day_start_ms else day).append(event)
    return before, day


def train_on_simulation(
    settings: Settings, history: Sequence[SimulatedEvent], version: str, seed: int, made_ms: int
) -> None:
    """Train the model of *settings* on a history."""
    salt, detector = seed.to_bytes(16, "little"), DetectorSettings(seed=seed)
    columns = ColumnEncoder(salt, settings.domains()).encode([decode_event(event.event) for event in history])
    train_and_save(settings.model_dir, columns, salt, version, detector, engine_settings(settings), made_ms)


def clear_made_directory(directory: Path, is_ours: Callable[[Path], bool]) -> bool:
    """Remove only what an earlier run created, and only if no service uses it.

    Raises:
        LogInUse: a service works there.
    """
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return True
    if not is_ours(directory):
        return False
    log = directory / "data" / "log"
    if log.exists():
        EventLog(log).close()
    shutil.rmtree(directory)
    return True


MAX_ALERT_BYTES = 1024 * 1024


class AlertInbox:
    """Receives alerts on loopback until `close`, verifies signatures (Standard Webhooks) and keeps only counts.

    Attributes:
        url: to post alerts to.
        secret: the signing secret, `whsec_…`.
        received: number of alerts with a valid signature.
        refused: number of bodies without one.
    """

    def __init__(self) -> None:
        self.secret = "whsec_" + b64encode(secrets.token_bytes(24)).decode()
        self.received = self.refused = 0
        self._lock = Lock()
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                if not 0 < length <= MAX_ALERT_BYTES:
                    status = 413
                else:
                    headers = {name.lower(): value for name, value in self.headers.items()}
                    status = inbox._receive(self.rfile.read(length), headers)
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Log nothing, because the demo prints its own lines."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, name="demo-inbox", daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/alerts"

    def _receive(self, body: bytes, headers: dict[str, str]) -> int:
        """Count a body, and return the status of the answer."""
        is_signed = verify_signature(self.secret, body, headers)
        with self._lock:
            self.received += is_signed
            self.refused += not is_signed
        return 204 if is_signed else 401

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


COMMAND = "trustwatch demo"
SETTINGS_FILE_NAME = "settings.yaml"
DEFAULT_PORT = 8420
HISTORY = timedelta(days=28)
"""A week shows each weekday once, so an ordinary Monday would look anomalous; four are enough."""
START_TIMEOUT_S, LONGEST_START_S = 240.0, 1_800.0
"""Longest start without and with a reported reason: a first start compiles for half a minute, and much longer on a
busy machine."""
FLAGGED_LEVELS = ("medium", "high", "critical")
SETTINGS_SECTIONS = """\
listen: {{port: {port}}}
console: {{enabled: true, development_login: true}}
webhooks:
  - {{name: demo-inbox, url: "{inbox}", secret: {{file: inbox.secret}}}}
lifecycle: {{enabled: true}}
# A whole day arrives in a minute, so only events move time: the clock on the wall would let all risk decay at once.
pipeline: {{commit_interval_s: 0.5, tick_interval_s: 3600}}"""


def wait_until_ready(service: subprocess.Popen[bytes], client: httpx2.Client, say: Callable[[str], None]) -> bool:
    """Wait for a starting service. Return False if it ended or took too long.

    A service that reports a reason gets more time, and the reason is printed: a busy machine may compile kernels for
    many minutes.
    """
    started, shown = clock.monotonic(), None
    while service.poll() is None:
        if clock.monotonic() - started >= (LONGEST_START_S if shown else START_TIMEOUT_S):
            return False
        try:
            answer = client.get("/readyz")
        except httpx2.TransportError:
            clock.sleep(0.2)
            continue
        if answer.status_code == 200:
            return True
        reason = answer.json().get("reason") if answer.status_code == 503 else None  # others may come from any server
        if reason and reason != shown:
            say(f"   {reason}")
            shown = reason
        clock.sleep(0.2)
    return False


class Demo:
    def __init__(self, directory: Path, seconds: float, seed: int, stay: bool, say: Callable[[str], None]) -> None:
        self._directory = directory.absolute()
        self._factor = 86_400.0 / seconds
        self._seed = seed
        self._keep_serving = stay
        self._say = say
        self._attacked: dict[AgentIdentity, str] = {}
        self._printed_decisions: set[str] = set()
        self._flagged: set[AgentIdentity] = set()

    def run(self) -> int:
        """Run the demo, and return the exit status. Raises ConfigError if the directory may not be emptied."""
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # else the service would outlive its demo
        made_by = f"# Written by `{COMMAND}`".encode()

        def is_demo(directory: Path) -> bool:
            file = directory / SETTINGS_FILE_NAME
            return file.is_file() and file.read_bytes().startswith(made_by)

        if not clear_made_directory(self._directory, is_demo):
            raise ConfigError(f"{self._directory} holds something other than a demo; give another --directory")
        port = _free_port()
        data = self._directory / "data"
        data.mkdir(parents=True)
        settings = self._directory / SETTINGS_FILE_NAME
        inbox = AlertInbox()
        settings.write_text(local_settings(COMMAND, SETTINGS_SECTIONS.format(port=port, inbox=inbox.url)))
        create_secret_file(self._directory / "inbox.secret", inbox.secret.encode())
        token = issue_local_token(data, "demo", list(ALL_SCOPES), "trustwatch", 86_400)
        self._say(f"1. Simulating four weeks of {AGENTS} agents in two tenants ...")
        history, day = simulate_history_and_day(clock.utc_now() - DAY - HISTORY, HISTORY, self._seed)
        for event in day:
            if event.label.event_label:
                decoded = decode_event(event.event)
                who = (decoded.tenant or "", decoded.agent.issuer or "", decoded.agent.id)
                self._attacked.setdefault(who, event.label.scenario)
        self._say(f"2. Learning what is normal from {len(history)} events ...")
        train_on_simulation(load_settings(settings, {}), history, "demo", self._seed, clock.now_ms())
        url = f"http://127.0.0.1:{port}"
        with closing(inbox), (self._directory / "service.log").open("wb") as log:
            command = [sys.executable, "-m", "trustwatch", "serve", "--settings", str(settings)]
            service = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603 - our own interpreter and settings
            try:
                return self._play_day(service, url, token, day, inbox)
            except KeyboardInterrupt:
                return 0
            finally:
                service.send_signal(signal.SIGTERM)
                service.wait(60)
                self._say("The service has stopped.")

    def _play_day(
        self, service: subprocess.Popen[bytes], url: str, token: str, day: list[SimulatedEvent], inbox: AlertInbox
    ) -> int:
        client = httpx2.Client(base_url=url, headers={"authorization": f"Bearer {token}"}, timeout=30.0)
        self._say(f"3. Starting the service at {url} ...")
        if not wait_until_ready(service, client, self._say):
            self._say(f"   it did not start; see {self._directory / 'service.log'}")
            return 1
        self._say(f"   Console: {self._console_link(url)}")
        self._say(
            f"4. Playing a day in {86_400 / self._factor:.0f} s: {len(day)} events, "
            f"attacks on {len(self._attacked)} agents"
        )
        # A record with a misspelled member is rejected alone, and kept for review.
        damaged = [day[0].event.replace(b'"action"', b'"acton"', 1)]
        for batch in _paced_batches(day, self._factor):
            body = b"\n".join([event.event for event in batch] + damaged)
            answer = client.post("/v1/events", content=body, headers={"content-type": "application/x-ndjson"})
            if answer.status_code != 202:
                self._say(f"   the service refused events: {answer.status_code} {answer.text[:300]}")
                return 1
            for refused in answer.json()["rejections"] if damaged else ():
                self._say(f"   One record of a gateway is refused, and kept as a dead letter: {refused['reason']}")
            damaged = []
            self._print_level_changes(client)
        return self._summarize(service, client, url, token, inbox)

    def _console_link(self, url: str) -> str:
        return f"{url}/console/dev-login?code={issue_login_code(self._directory / 'data', clock.now_s())}"

    def _print_level_changes(self, client: httpx2.Client) -> None:
        for decision in reversed(client.get("/v1/decisions", params={"limit": 200}).json()["items"]):
            if decision["decision_id"] in self._printed_decisions:
                continue
            self._printed_decisions.add(decision["decision_id"])
            is_flagged = decision["level"] in FLAGGED_LEVELS
            if not is_flagged and decision["previous_level"] not in FLAGGED_LEVELS:
                continue
            who = (decision["tenant"], decision["issuer"], decision["agent_id"])
            if is_flagged:
                self._flagged.add(who)
            reason = decision["reasons"][0]["text"] if decision["reasons"] else decision["cause"]
            truth = f"   <- {self._attacked[who]}" if who in self._attacked else ""
            self._say(
                f"   {decision['event_time'][11:19]}  {decision['previous_level']:>8} -> {decision['level']:<8}  "
                f"{who[2]} ({who[0]}): {reason}{truth}"
            )

    def _summarize(
        self, service: subprocess.Popen[bytes], client: httpx2.Client, url: str, token: str, inbox: AlertInbox
    ) -> int:
        clock.sleep(2.0)
        self._print_level_changes(client)
        noticed = [who for who in self._attacked if who in self._flagged]
        wrong = len(self._flagged - set(self._attacked))
        self._say(
            f"5. The day is over: {len(noticed)} of {len(self._attacked)} attacked agents noticed; "
            f"{wrong} of {AGENTS - len(self._attacked)} others flagged at some time."
        )
        self._say(
            f"   {inbox.received} alerts with a valid signature came to the demo's webhook, {inbox.refused} without."
        )
        tenant, issuer, agent_id = next(iter(noticed), next(iter(self._attacked)))
        query = urlencode({"tenant": tenant, "issuer": issuer})  # works if another agent has the same id, too
        path = f"/v1/agents/{quote(agent_id, safe='')}/risk?{query}"
        create_secret_file(self._directory / "token", token.encode())  # all scopes, for a day
        self._say(f"\nURL    {url}\nTOKEN  {token}\n\n  curl -s -H 'Authorization: Bearer {token}' '{url}{path}'\n")
        answer = client.get(path)
        self._say(answer.text)
        if answer.status_code != 200:
            return 1
        if self._keep_serving:
            self._say(
                f"\nThe console (the link signs in once):\n\n  {self._console_link(url)}\n\nServing until Ctrl-C."
            )
            return service.wait()
        return 0


def _free_port() -> int:
    for port in (DEFAULT_PORT, 0):
        try:
            with socket.create_server(("127.0.0.1", port)) as taken:
                return int(taken.getsockname()[1])
        except OSError:
            continue
    raise OSError("no free port on 127.0.0.1")


def _paced_batches(day: list[SimulatedEvent], factor: float) -> Iterator[list[SimulatedEvent]]:
    """Yield events in small batches, when they are due on a clock that runs *factor* times faster."""
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
