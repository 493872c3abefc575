"""Server CPU per gateway check with ES256 tokens at 16 connections: ours against the same check written plainly.

A thousand tokens of a thousand agents take their turns, as they do at a gateway, so ours answers from what it remembers
of each. Loads as `bench_answer` does: `wrk` where it is there, else an asyncio client in a process of its own.
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

from .gateway_servers import AUDIENCE, DENIED
from .harness import arguments, finish, machine, table

CONNECTIONS = 16
TOKENS = 1_000
PATH = "/ext-authz/mcp?x=1"
TICK = os.sysconf("SC_CLK_TCK")
LUA = """
local tokens, number = {{}}, 0
for line in io.lines("{file}") do tokens[#tokens + 1] = "Bearer " .. line end
request = function()
  number = number % #tokens + 1
  return wrk.format("POST", "{path}", {{["Authorization"] = tokens[number], ["Content-Length"] = "0"}})
end
"""


class GatewayTurn(NamedTuple):
    """One turn of load. Times in microseconds and milliseconds."""

    cpu_us: float
    per_s: float
    p99_ms: float


class GatewayServerProcess:
    """One of the two servers in a process of its own, on the first core."""

    def __init__(self, name: str, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "benchmarks.gateway_servers", name, str(self.port), str(folder)]
        self.process = subprocess.Popen(command)
        pin(self.process.pid, 0)

    def status(self, token: str) -> int:
        """What a call with *token* is answered."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{PATH}", method="POST", headers={"Authorization": f"Bearer {token}"}
        )
        try:
            with urllib.request.urlopen(request) as answer:  # nosec B310 # http, to this machine
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def wait(self, allowed: str, denied: str) -> None:
        """Wait until it answers, and check that it tells the two apart."""
        for _ in range(300):
            try:
                found = (self.status(allowed), self.status(denied), self.status("x"))
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
            else:
                assert found == (200, 403, 401), found
                return
        raise SystemExit("the server does not answer")

    def cpu_s(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK


def pin(pid: int, core: int) -> None:
    """Keep a process on one core, where there are several."""
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(pid, {core})


def turn(server: GatewayServerProcess, tokens: Path, seconds: float, script: Path) -> GatewayTurn:
    """Load for *seconds*; the server's CPU time over the checks it answered."""
    before = server.cpu_s()
    load = run_wrk if shutil.which("wrk") else own_client
    count, p99_ms = load(server.port, tokens, seconds, script)
    return GatewayTurn((server.cpu_s() - before) / count * 1e6, count / seconds, p99_ms)


def run_wrk(port: int, _: Path, seconds: float, script: Path) -> tuple[int, float]:
    """Checks answered and p99, by wrk."""
    process = subprocess.Popen(
        [
            "wrk",
            "-t1",
            f"-c{CONNECTIONS}",
            f"-d{seconds:.0f}s",
            "--latency",
            "-s",
            str(script),
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


def own_client(port: int, tokens: Path, seconds: float, _: Path) -> tuple[int, float]:
    """The same by a client in a process of its own, so that its CPU time is not the server's."""
    command = [sys.executable, "-m", "benchmarks.bench_gateway", "--client", str(port), str(tokens), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    pin(process.pid, 1)
    count, p99_ms = process.communicate()[0].split()
    return int(count), float(p99_ms)


async def client(port: int, tokens: list[str], seconds: float) -> None:
    """Keep CONNECTIONS connections busy; prints answers and p99 in ms."""
    took: list[float] = []
    until = time.perf_counter() + seconds
    sent = [
        f"POST {PATH} HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n\r\n".encode()
        for token in tokens
    ]

    async def connection(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (start := time.perf_counter()) < until:
            number = (number + CONNECTIONS) % len(sent)
            writer.write(sent[number])
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
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
        agents = [*(f"agent-{number}" for number in range(TOKENS)), DENIED]
        made = [
            key.issue_token("user-1", agent, ["tools:read", "tools:write"], AUDIENCE, 3600, time.time(), agent)
            for agent in agents
        ]
        tokens, script = folder / "tokens", folder / "tokens.lua"
        tokens.write_text("\n".join(made[:-1]) + "\n")
        script.write_text(LUA.format(file=tokens, path=PATH))
        servers = {name: GatewayServerProcess(name, folder) for name in ("ours", "plain")}
        try:
            turns = measure(servers, made[0], made[-1], tokens, rounds, seconds, script)
        finally:
            for server in servers.values():
                server.process.terminate()
                server.process.wait()
    report(turns, given.json)


def measure(
    servers: dict[str, GatewayServerProcess],
    allowed: str,
    denied: str,
    tokens: Path,
    rounds: int,
    seconds: float,
    script: Path,
) -> dict[str, list[GatewayTurn]]:
    """Turns by server; the first of each only warms up."""
    turns: dict[str, list[GatewayTurn]] = {name: [] for name in servers}
    for server in servers.values():
        server.wait(allowed, denied)
        turn(server, tokens, 1.0, script)
    for _ in range(rounds):
        for name, server in servers.items():
            turns[name].append(turn(server, tokens, seconds, script))
    return turns


def report(turns: dict[str, list[GatewayTurn]], to: Path | None) -> None:
    """The table for docs/performance.md."""
    median = {name: GatewayTurn(*map(statistics.median, zip(*found, strict=True))) for name, found in turns.items()}
    ratio = statistics.median(
        mine.cpu_us / theirs.cpu_us for mine, theirs in zip(turns["ours"], turns["plain"], strict=True)
    )
    rows = [(name, median[name].cpu_us, median[name].per_s, median[name].p99_ms) for name in ("ours", "plain")]
    title = f"Gateway check, {TOKENS} ES256 tokens, {CONNECTIONS} connections"
    table(title, ("server", "server CPU, us per check", "checks per s", "p99, ms"), rows)
    print(f"\nours needs {ratio:.3f} of the CPU of plain")
    facts = machine("fastapi", "uvicorn", "pydantic", "PyJWT", "msgspec")
    finish(facts, {"ratio": ratio, **{name: turn._asdict() for name, turn in median.items()}}, to)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--client"]:
        asyncio.run(client(int(sys.argv[2]), Path(sys.argv[3]).read_text().split(), float(sys.argv[4])))
    else:
        main()
