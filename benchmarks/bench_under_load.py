"""`GET risk` at 16 connections, idle and while 30,000 events per second are ingested and stored, on the real service.

Everything runs on this machine: `trustwatch serve` (two processes), the sender of events and the load of questions
share its cores. Targets: p99 under load at most 3 times the idle p99, and the events really accepted and applied at the
rate. Questions come as fast as they are answered, which takes what is left of both cores, and then at a steady rate as
authorization servers ask, timed from when each was due. A last turn sends as fast as the door takes, without questions.
Exit status 1 if a target is missed; `--quick` only reports.
"""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import msgspec

from trustwatch.api.http.auth.callers import ALL_SCOPES
from trustwatch.api.http.auth.signing import LocalSigningKey
from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.events import decode_event
from trustwatch.models.detector import DetectorSettings
from trustwatch.models.model_persistence import save_trained_model
from trustwatch.scoring.learning.walkforward import train_walk_forward

from .bench_answer import CONNECTIONS, own_client, run_wrk
from .events import raw_events
from .harness import arguments, finish, machine, table
from .load_clients import CYCLE, NUMBER, PER_BODY, STEADY, TIME, SenderResult

RATE, RATIO = 30_000.0, 3.0
AGENTS = 10_000
PER_AGENT_DAY = 2000.0
SETTINGS = """\
data_dir: data
model_dir: model
listen: {{port: {port}}}
issuers: [{{issuer: "urn:trustwatch:local", jwks_file: data/local-jwks.json, audiences: [trustwatch]}}]
callers: [{{name: bench, client_id: bench, tenants: ["*"], issuers: ["*"], sources: ["*"], trusted: true}}]
"""
LUA = """
local paths = {{ {paths} }}
local number = 0
request = function()
  number = number % #paths + 1
  return wrk.format("GET", paths[number])
end
"""


AskQuestions = Callable[["ServiceProcess", float, Path], "LoadedTurn"]
"""Questions for some seconds."""


class LoadedTurn(NamedTuple):
    """Questions per second and their p99 (ms); the load beside them."""

    per_s: float
    p99_ms: float
    accepted_per_s: float = 0.0
    applied_per_s: float = 0.0
    lag_s: float = 0.0


def prepare(folder: Path, history: int, live: int) -> list[str]:
    """A model, bodies and the paths of risk questions about the agents in them.

    The history has the pace of the load: agents that suddenly did a hundred times more would all be under suspicion.
    """
    raws = raw_events(history + live, AGENTS, PER_AGENT_DAY)
    salt, settings = b"benchmark", DetectorSettings()
    columns = ColumnEncoder(salt).encode([decode_event(raw) for raw in compress_times(raws[:history])])
    save_trained_model(folder / "model", train_walk_forward(columns, salt, "bench", settings).model, settings, 0, 0)
    (folder / "bodies").mkdir()
    rest, paths = raws[history:], set()
    for number, start in enumerate(range(0, len(rest), PER_BODY)):
        lines = []
        for position, raw in enumerate(rest[start : start + PER_BODY]):
            event = json.loads(raw)
            paths.add(f"/v1/agents/{quote(event['agent']['id'], safe='')}/risk?tenant={event['tenant']}")
            event |= {"id": f"{NUMBER.decode()}-{position}", "time": TIME.decode()}
            event["session"] = f"{event.get('session', 's')}-{CYCLE.decode()}"
            lines.append(json.dumps(event, separators=(",", ":")).encode())
        (folder / "bodies" / f"{number:06d}").write_bytes(b"\n".join(lines))
    return sorted(paths)[:2000]


def compress_times(raws: list[bytes]) -> Iterator[bytes]:
    """Events of PER_AGENT_DAY as if they came at RATE, the last of them now."""
    times = [datetime.fromisoformat(json.loads(raw)["time"]) for raw in raws]
    factor, now = RATE * 86_400.0 / AGENTS / PER_AGENT_DAY, datetime.now(UTC)
    for raw, at in zip(raws, times, strict=True):
        yield msgspec.json.encode(json.loads(raw) | {"time": now - (times[-1] - at) / factor})


class ServiceProcess:
    """`trustwatch serve` on a free port, which *settings* have as `{port}`."""

    def __init__(self, folder: Path, settings: str = SETTINGS) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        (folder / "settings.yaml").write_text(settings.format(port=self.port))
        key = LocalSigningKey.open(folder / "data")
        self.token = key.issue_token(
            "bench", "bench", ALL_SCOPES, "trustwatch", 86_400, time.time(), secrets.token_hex(8)
        )
        command = [sys.executable, "-m", "trustwatch", "serve", "--settings", str(folder / "settings.yaml")]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def wait_ready(self) -> None:
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz"):  # nosec B310 # http, to this machine
                    return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        raise SystemExit("the service is not ready")

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as answer:  # nosec B310 # http, to this machine
            lines = answer.read().decode().splitlines()
        return float(next((line.rpartition(" ")[2] for line in lines if line.startswith(f"{name} ")), 0.0))

    def settle(self) -> float:
        """Wait until everything logged is committed; returns the seconds it took."""
        start = time.perf_counter()
        while self.metric("trustwatch_pipeline_offset") < self.metric("trustwatch_log_next_offset"):
            time.sleep(0.05)
        return time.perf_counter() - start

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


class SenderProcess:
    """A process that posts the bodies over and over, at *rate* events per second."""

    def __init__(self, service: ServiceProcess, folder: Path, rate: float, seconds: float) -> None:
        command = [
            sys.executable,
            "-m",
            "benchmarks.load_clients",
            "--send",
            str(service.port),
            service.token,
            str(rate),
            str(seconds),
            str(folder / "bodies"),
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def result(self) -> SenderResult:
        """Wait for its end."""
        out = self._process.communicate()[0]
        return SenderResult(**json.loads(out))


def ask(service: ServiceProcess, seconds: float, script: Path) -> LoadedTurn:
    """Questions at CONNECTIONS connections."""
    count, p99_ms = (run_wrk if shutil.which("wrk") else own_client)(service.port, service.token, seconds, script)
    return LoadedTurn(count / seconds, p99_ms)


def ask_steadily(service: ServiceProcess, seconds: float, script: Path) -> LoadedTurn:
    """Questions at STEADY a second over CONNECTIONS connections, about the agents that *script* names."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.load_clients",
        "--ask",
        str(service.port),
        service.token,
        str(seconds),
        str(script),
    ]
    out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    return LoadedTurn(int(out[0]) / seconds, float(out[1]))


def loaded(
    service: ServiceProcess, folder: Path, seconds: float, script: Path, ask: AskQuestions
) -> tuple[LoadedTurn, SenderResult]:
    """Questions while events come in at RATE."""
    sender = SenderProcess(service, folder, RATE, seconds + 2.0)
    time.sleep(1.0)
    before, begun = service.metric("trustwatch_pipeline_offset"), time.perf_counter()
    turn = ask(service, seconds, script)
    applied = (service.metric("trustwatch_pipeline_offset") - before) / (time.perf_counter() - begun)
    lag = service.metric("trustwatch_pipeline_age_seconds")
    load = sender.result()
    service.settle()
    return turn._replace(accepted_per_s=load.accepted / load.seconds, applied_per_s=applied, lag_s=lag), load


def measure_unthrottled(service: ServiceProcess, folder: Path, seconds: float) -> tuple[float, float]:
    """Events per second accepted, and applied to the end, when nothing holds the sender back."""
    before, begun = service.metric("trustwatch_pipeline_offset"), time.perf_counter()
    load = SenderProcess(service, folder, 1e9, seconds).result()
    service.settle()
    applied = service.metric("trustwatch_pipeline_offset") - before
    return load.accepted / load.seconds, applied / (time.perf_counter() - begun)


def main() -> int:
    """Idle and loaded turns alternate; medians."""
    given = arguments(__doc__ or "")
    # Thirty events of history an agent, as in `bench_pipeline`, not ten thousand cold starts.
    rounds, seconds, history, live = (1, 2.0, 30_000, 10_000) if given.quick else (5, 6.0, 300_000, 150_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = prepare(folder, history, live)
        script = folder / "paths.lua"
        script.write_text(LUA.format(paths=", ".join(f'"{path}"' for path in paths)))
        service = ServiceProcess(folder)
        try:
            service.wait_ready()
            measure_unthrottled(service, folder, 3.0)
            ask(service, 1.0, script)
            turns, calm = (
                [(way(service, seconds, script), *loaded(service, folder, seconds, script, way)) for _ in range(rounds)]
                for way in (ask, ask_steadily)
            )
            most = measure_unthrottled(service, folder, seconds)
        finally:
            service.stop()
    return report(turns, calm, most, given.json, check=not given.quick)


def medians(turns: list[tuple[LoadedTurn, LoadedTurn, SenderResult]]) -> dict[str, LoadedTurn]:
    """Of idle and loaded turns."""
    idle, busy, _ = zip(*turns, strict=True)
    return {
        name: LoadedTurn(*map(statistics.median, zip(*found, strict=True)))
        for name, found in (("idle", idle), ("loaded", busy))
    }


def report(
    turns: list[tuple[LoadedTurn, LoadedTurn, SenderResult]],
    calm: list[tuple[LoadedTurn, LoadedTurn, SenderResult]],
    most: tuple[float, float],
    to: Path | None,
    *,
    check: bool,
) -> int:
    """The tables for docs/performance.md; the exit status."""
    idle, busy, loads = zip(*turns, strict=True)
    median, steadily = medians(turns), medians(calm)
    load = SenderResult(*map(statistics.median, zip(*loads, strict=True)))
    ratio = statistics.median(b.p99_ms / a.p99_ms for a, b in zip(idle, busy, strict=True))
    columns = ("service", "GET per s", "GET p99, ms", "events accepted per s", "applied per s", "lag, s")
    title = f"GET risk at {CONNECTIONS} connections beside {RATE:,.0f} events/s"
    table(f"{title}, as fast as answers come", columns, [(name, *turn) for name, turn in median.items()])
    table(f"{title}, {STEADY:,.0f} questions/s", columns, [(name, *turn) for name, turn in steadily.items()])
    print(
        f"\np99 under load / idle: {ratio:.2f} (target: at most {RATIO:g}); POST of {PER_BODY} events p50 "
        f"{load.post_p50_ms:.0f} ms, p99 {load.post_p99_ms:.0f} ms, told to wait {load.told_to_wait:g} times"
    )
    if not shutil.which("wrk"):
        print("no wrk here: our own client asks, which needs a core for itself and so is part of what is measured")
    print(f"events alone, as fast as the door takes them: {most[0]:,.0f} accepted per s, {most[1]:,.0f} applied per s")
    figures = {
        "ratio": ratio,
        "flat_out_accepted_per_s": most[0],
        "flat_out_applied_per_s": most[1],
        "load": load._asdict(),
        "steady": {name: turn._asdict() for name, turn in steadily.items()},
        **{name: turn._asdict() for name, turn in median.items()},
    }
    finish(machine("uvicorn", "msgspec", "numba"), figures, to)
    sustained = min(median["loaded"].accepted_per_s, median["loaded"].applied_per_s) >= 0.95 * RATE
    return int(check and not (ratio <= RATIO and sustained))


if __name__ == "__main__":
    sys.exit(main())
