"""Server CPU per `GET risk` with an ES256 token at 16 connections: ours against the same endpoint written plainly.

Needs `wrk` for load (it costs little CPU itself); without it a small asyncio client in a process of its own does it.
Servers and load have a core each where there are two.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

from trustwatch.api.http.auth.signing import LocalSigningKey

from .answer_servers import AGENTS, AUDIENCE, CLIENT
from .harness import arguments, finish, machine, table

CONNECTIONS = 16
TICK = os.sysconf("SC_CLK_TCK")
LUA = """
local number = 0
request = function()
  number = (number * 7919 + 1) % {agents}
  return wrk.format("GET", "/v1/agents/agent-" .. number .. "/risk")
end
"""


class AnswerTurn(NamedTuple):
    """One turn of load. Times in microseconds and milliseconds."""

    cpu_us: float
    per_s: float
    p99_ms: float


class AnswerServer:
    """One of the two servers in a process of its own, on the first core."""

    def __init__(self, name: str, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "benchmarks.answer_servers", name, str(self.port), str(folder)]
        self.process = subprocess.Popen(command)
        pin(self.process.pid, 0)

    def wait(self, token: str) -> None:
        """Wait until it answers, and check that the answer is one."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/agents/agent-1/risk", headers={"Authorization": f"Bearer {token}"}
        )
        for _ in range(300):
            try:
                with urllib.request.urlopen(request) as answer:  # nosec B310 # http, to this machine
                    assert b'"risk_level":"high"' in answer.read()
                    return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        raise SystemExit("the server does not answer")

    def cpu_s(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK


def pin(pid: int, core: int) -> None:
    """Keep a process on one core, where there are several."""
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(pid, {core})


def turn(server: AnswerServer, token: str, seconds: float, script: Path) -> AnswerTurn:
    """Load for *seconds*; the server's CPU time over the requests it answered."""
    before = server.cpu_s()
    count, p99_ms = (run_wrk if shutil.which("wrk") else own_client)(server.port, token, seconds, script)
    return AnswerTurn((server.cpu_s() - before) / count * 1e6, count / seconds, p99_ms)


def run_wrk(port: int, token: str, seconds: float, script: Path) -> tuple[int, float]:
    """Requests answered and p99, by wrk."""
    process = subprocess.Popen(
        [
            "wrk",
            "-t1",
            f"-c{CONNECTIONS}",
            f"-d{seconds:.0f}s",
            "--latency",
            "-s",
            str(script),
            "-H",
            f"Authorization: Bearer {token}",
            f"http://127.0.0.1:{port}",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    pin(process.pid, 1)
    out = process.communicate()[0]
    if "Non-2xx" in out:
        raise SystemExit(out)
    value, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", out).groups()  # type: ignore[union-attr]
    requests = re.search(r"(\d+) requests in", out)[1]  # type: ignore[index]
    return int(requests), float(value) * {"us": 1e-3, "ms": 1, "s": 1e3}[unit]


def own_client(port: int, token: str, seconds: float, _: Path) -> tuple[int, float]:
    """The same by a client in a process of its own, so that its CPU time is not the server's."""
    command = [sys.executable, "-m", "benchmarks.bench_answer", "--client", str(port), token, str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    pin(process.pid, 1)
    count, p99_ms = process.communicate()[0].split()
    return int(count), float(p99_ms)


async def client(port: int, token: str, seconds: float) -> None:
    """Keep CONNECTIONS connections busy; prints answers and p99 in ms."""
    took: list[float] = []
    until = time.perf_counter() + seconds

    async def connection(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (start := time.perf_counter()) < until:
            number = (number * 7919 + 1) % AGENTS
            path = f"/v1/agents/agent-{number}/risk"
            writer.write(f"GET {path} HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            await reader.readexactly(int(re.search(rb"content-length: (\d+)", head)[1]))  # type: ignore[index]
            took.append(time.perf_counter() - start)
        writer.close()

    await asyncio.gather(*(connection(number) for number in range(CONNECTIONS)))
    print(len(took), statistics.quantiles(took, n=100)[98] * 1000)


def main() -> None:
    """Interleaved turns of both servers; medians."""
    given = arguments(__doc__ or "")
    rounds, seconds = (2, 1.0) if given.quick else (7, 3.0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        key = LocalSigningKey.open(folder)
        token = key.issue_token(CLIENT, CLIENT, ["trust.score:read"], AUDIENCE, 3600, time.time(), "bench")
        script = folder / "agents.lua"
        script.write_text(LUA.format(agents=AGENTS))
        servers = {name: AnswerServer(name, folder) for name in ("ours", "plain")}
        try:
            turns = measure(servers, token, rounds, seconds, script)
        finally:
            for server in servers.values():
                server.process.terminate()
                server.process.wait()
    report(turns, given.json)


def measure(
    servers: dict[str, AnswerServer], token: str, rounds: int, seconds: float, script: Path
) -> dict[str, list[AnswerTurn]]:
    """Turns by server; the first of each only warms up."""
    turns: dict[str, list[AnswerTurn]] = {name: [] for name in servers}
    for server in servers.values():
        server.wait(token)
        turn(server, token, 1.0, script)
    for _ in range(rounds):
        for name, server in servers.items():
            turns[name].append(turn(server, token, seconds, script))
    return turns


def report(turns: dict[str, list[AnswerTurn]], to: Path | None) -> None:
    """The table for docs/performance.md."""
    median = {name: AnswerTurn(*map(statistics.median, zip(*found, strict=True))) for name, found in turns.items()}
    ratio = statistics.median(
        mine.cpu_us / theirs.cpu_us for mine, theirs in zip(turns["ours"], turns["plain"], strict=True)
    )
    rows = [(name, median[name].cpu_us, median[name].per_s, median[name].p99_ms) for name in ("ours", "plain")]
    title = f"GET risk with an ES256 token, {CONNECTIONS} connections"
    table(title, ("server", "server CPU, us per request", "requests per s", "p99, ms"), rows)
    print(f"\nours needs {ratio:.3f} of the CPU of plain (target: at most 0.25)")
    facts = machine("fastapi", "uvicorn", "pydantic", "PyJWT", "msgspec")
    finish(facts, {"ratio": ratio, **{name: turn._asdict() for name, turn in median.items()}}, to)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--client"]:
        asyncio.run(client(int(sys.argv[2]), sys.argv[3], float(sys.argv[4])))
    else:
        main()
