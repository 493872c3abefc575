"""p99 of the gateway check while nobody else asks, and under a flood of slow senders that have no token.

Checks come at a steady rate, as at a gateway, and each is timed from when it was due. The flood, in a process of its
own, sends bodies of 8 MiB in small pieces, heads that never end, and opens more connections than the service takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from trustwatch.api.http.auth.signing import LocalSigningKey

from .bench_gateway import PATH, GatewayServerProcess, pin
from .gateway_servers import AUDIENCE, DENIED
from .harness import arguments, finish, machine, table

TOKENS, CONNECTIONS, CHECKS_PER_S = 100, 8, 200.0
MAX_RATIO = 2.0
BODY_BYTES, PIECE_BYTES = 8_000_000, 64 * 1024
BODY_SENDERS, HEAD_SENDERS, OPENERS = 20, 200, 20
PAUSE_S = 0.2
"""Time between pieces, and between a connection that was closed and the next one of the same sender."""


class FloodTurn(NamedTuple):
    """One turn of checks."""

    p50_ms: float
    p99_ms: float
    rss_mib: float


async def check_steadily(port: int, tokens: list[str], seconds: float) -> None:
    """Ask at a steady rate over a few connections; prints p50 and p99 in ms."""
    took: list[float] = []
    numbers = itertools.count()
    start = time.perf_counter() + 0.2

    async def ask() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while True:
            number = next(numbers)
            due = start + number / CHECKS_PER_S
            if due > start + seconds:
                break
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            head = f"POST {PATH} HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {tokens[number % len(tokens)]}\r\n"
            writer.write(head.encode() + b"Content-Length: 0\r\n\r\n")
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200"), answer
            took.append(time.perf_counter() - due)
        writer.close()

    await asyncio.gather(*(ask() for _ in range(CONNECTIONS)))
    print(statistics.median(took) * 1000, statistics.quantiles(took, n=100)[98] * 1000)


async def flood(port: int) -> None:
    """Send slowly, for ever."""

    async def send_over_and_over(pieces: Iterable[bytes], pause_s: float) -> None:
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(pause_s)
                writer.close()
            await asyncio.sleep(PAUSE_S)

    body = questions()
    head = f"POST /v1/risk/query HTTP/1.1\r\nHost: b\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    body_pieces = [body[at : at + PIECE_BYTES] for at in range(0, len(body), PIECE_BYTES)]
    bodies = [f"{head}\r\n\r\n".encode(), *body_pieces, b""]
    heads = [b"GET / HTTP/1.1\r\n", *[b"X-A: " + b"a" * 1000 + b"\r\n"] * 1000]
    senders: list[tuple[list[bytes], float]] = [(bodies, PAUSE_S / 10)] * BODY_SENDERS
    senders += [(heads, PAUSE_S)] * HEAD_SENDERS
    senders += [([b""], 60.0)] * OPENERS
    await asyncio.gather(*(send_over_and_over(*sender) for sender in senders))


def questions() -> bytes:
    """A body of BODY_BYTES that costs time to parse."""
    question = b'{"agent_id":"agent-7"}'
    return b'{"agents":[' + b",".join([question] * (BODY_BYTES // (len(question) + 1))) + b"]}"


def turn(server: GatewayServerProcess, tokens: Path, seconds: float) -> FloodTurn:
    """Checks for *seconds*, from a process of their own."""
    command = [sys.executable, "-m", "benchmarks.bench_gateway_flood", "--client", str(server.port), str(tokens)]
    process = subprocess.Popen([*command, str(seconds)], stdout=subprocess.PIPE, text=True)
    pin(process.pid, 1)
    p50_ms, p99_ms = map(float, process.communicate()[0].split())
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    rss_kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
    return FloodTurn(p50_ms, p99_ms, int(rss_kib) / 1024)


def flooded_turn(server: GatewayServerProcess, tokens: Path, seconds: float) -> FloodTurn:
    """The same while the flood goes on."""
    command = [sys.executable, "-m", "benchmarks.bench_gateway_flood", "--flood", str(server.port)]
    flooding = subprocess.Popen(command)
    pin(flooding.pid, 1)
    try:
        time.sleep(1.0)
        return turn(server, tokens, seconds)
    finally:
        flooding.terminate()
        flooding.wait()


def main() -> None:
    """Interleaved turns; medians."""
    given = arguments(__doc__ or "")
    rounds, seconds = (3, 2.0) if given.quick else (9, 5.0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        key = LocalSigningKey.open(folder)
        agents = [*(f"agent-{number}" for number in range(TOKENS)), DENIED]
        made = [
            key.issue_token("user-1", agent, ["tools:read"], AUDIENCE, 3600, time.time(), agent) for agent in agents
        ]
        tokens = folder / "tokens"
        tokens.write_text("\n".join(made[:-1]) + "\n")
        server = GatewayServerProcess("ours", folder)
        turns: dict[str, list[FloodTurn]] = {"idle": [], "flood": []}
        try:
            server.wait(made[0], made[-1])
            turn(server, tokens, 1.0)
            for _ in range(rounds):
                turns["idle"].append(turn(server, tokens, seconds))
                turns["flood"].append(flooded_turn(server, tokens, seconds))
        finally:
            server.process.terminate()
            server.process.wait()
    report(turns, given.json, strict=not given.quick)


def report(turns: dict[str, list[FloodTurn]], to: Path | None, *, strict: bool) -> None:
    """The table for docs/performance.md; ends with status 1 where a long enough run feels the flood."""
    median = {name: FloodTurn(*map(statistics.median, zip(*found, strict=True))) for name, found in turns.items()}
    ratio = median["flood"].p99_ms / median["idle"].p99_ms
    senders = f"{BODY_SENDERS} bodies, {HEAD_SENDERS} heads, {OPENERS} silent"
    rows = [(name, found.p50_ms, found.p99_ms, found.rss_mib) for name, found in median.items()]
    table(
        f"Gateway check at {CHECKS_PER_S:.0f}/s, flood without token: {senders}",
        ("senders", "p50, ms", "p99, ms", "memory, MiB"),
        rows,
    )
    print(f"\np99 under the flood is {ratio:.2f} of the idle one; at most {MAX_RATIO}")
    facts = machine("fastapi", "uvicorn", "msgspec")
    finish(facts, {"ratio": ratio, **{name: found._asdict() for name, found in median.items()}}, to)
    if strict and ratio > MAX_RATIO:
        raise SystemExit(1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--client"]:
        asyncio.run(check_steadily(int(sys.argv[2]), Path(sys.argv[3]).read_text().split(), float(sys.argv[4])))
    elif sys.argv[1:2] == ["--flood"]:
        asyncio.run(flood(int(sys.argv[2])))
    else:
        main()
