"""The clients of `bench_under_load`, each in a process of its own: one sends events, one asks at a steady rate."""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

from .bench_answer import CONNECTIONS

STEADY = 1_000.0
"""Questions per second of the steady turns: a thousand tokens issued or exchanged each second."""
PER_BODY, SENDERS = 500, 4
NUMBER, TIME, CYCLE = b"@@@@@@@@@@@@", b"@@@@-@@-@@T@@:@@:@@.@@@Z", b"&&&&&&"
"""Stand for what makes a body new each time it is sent; as long as what replaces them."""


class SenderResult(NamedTuple):
    """What a sender got rid of, and what became of it."""

    seconds: float
    accepted: int
    told_to_wait: int
    post_p50_ms: float
    post_p99_ms: float


async def send(port: int, token: str, rate: float, seconds: float, folder: Path) -> None:
    """The sender: SENDERS connections share one schedule of bodies; prints what became of them as JSON."""
    bodies = [path.read_bytes() for path in sorted(folder.iterdir())]
    start = time.perf_counter()
    counts = {"number": 0, "accepted": 0, "waited": 0}
    took: list[float] = []
    run = int(time.time() * 10) % 10**7

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
        while (now := time.perf_counter()) - start < seconds:
            number = counts["number"]
            counts["number"] += 1
            await asyncio.sleep(start + number * PER_BODY / rate - now)
            body = new_body(bodies[number % len(bodies)], run * 100_000 + number, number // len(bodies))
            head = (
                f"POST /v1/events HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {token}\r\n"
                f"Content-Type: application/x-ndjson\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            begun = time.perf_counter()
            writer.write(head.encode())
            writer.write(body)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            rest = await reader.readexactly(int(answer.partition("content-length: ")[2].partition("\r")[0]))
            took.append(time.perf_counter() - begun)
            if " 202 " in answer:
                counts["accepted"] += json.loads(rest)["accepted"]
            elif " 429 " in answer:
                counts["waited"] += 1
                await asyncio.sleep(0.5)
            else:
                raise SystemExit(rest.decode())
        writer.close()

    await asyncio.gather(*(connection() for _ in range(SENDERS)))
    quantiles = statistics.quantiles(took, n=100)
    load = SenderResult(
        time.perf_counter() - start, counts["accepted"], counts["waited"], quantiles[49] * 1e3, quantiles[98] * 1e3
    )
    print(json.dumps(load._asdict()))


def new_body(body: bytes, number: int, cycle: int) -> bytes:
    """The body with ids nobody has seen, the time of now, and other sessions than when it was sent before."""
    now = time.time()
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
    return body.replace(NUMBER, b"%012d" % number).replace(TIME, at.encode()).replace(CYCLE, b"%06d" % cycle)


async def ask_steadily(port: int, token: str, seconds: float, script: Path) -> None:
    """The steady client: prints answers, and the p99 (ms) from when each question was due."""
    paths = re.findall(r'"(/v1/[^"]+)"', script.read_text())
    took: list[float] = []
    due = iter(range(int(STEADY * seconds)))
    start = time.perf_counter() + 0.1

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in due:
            at = start + number / STEADY
            await asyncio.sleep(at - time.perf_counter())
            path = paths[number % len(paths)]
            writer.write(f"GET {path} HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            if " 200 " not in head.partition("\r")[0]:
                raise SystemExit(head)
            await reader.readexactly(int(head.partition("content-length: ")[2].partition("\r")[0]))
            took.append(time.perf_counter() - at)
        writer.close()

    await asyncio.gather(*(connection() for _ in range(CONNECTIONS)))
    print(len(took), statistics.quantiles(took, n=100)[98] * 1e3)


if __name__ == "__main__":
    if sys.argv[1] == "--ask":
        asyncio.run(ask_steadily(int(sys.argv[2]), sys.argv[3], float(sys.argv[4]), Path(sys.argv[5])))
    else:
        asyncio.run(send(int(sys.argv[2]), sys.argv[3], float(sys.argv[4]), float(sys.argv[5]), Path(sys.argv[6])))
