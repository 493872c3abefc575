"""Hooks at issuance, asked 200 times per second, on the real service: every call is judged, logged and scored.

Calls start by the clock, whatever becomes of those before, and their time counts from when they were to start: an
answer that is late makes those behind it late too. Everything runs on this machine: `trustwatch serve` (two processes)
and the load share its cores. Target: p99 below 5 ms for every product; exit status 1 if it is missed, `--quick` only
reports.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from .bench_under_load import SETTINGS, ServiceProcess, prepare
from .harness import finish, machine, options, table

RATE, TARGET_MS = 200, 5.0
AGENTS, CONNECTIONS = 1_000, 16
SECRET = "the secret of the benchmark"
BODIES = Path(__file__).parents[1] / "tests" / "api" / "access" / "hooks" / "bodies"
CLIENT = {"hydra": "app-client", "okta": "bot", "wso2": "bot", "zitadel": "bot", "authzen": "bot"}
HOOKS = "\n".join(
    f'  - {{{{name: {kind}, kind: {kind}, tenant: acme, issuer: "https://as.example", secret: "{SECRET}"}}}}'
    for kind in CLIENT
    if kind != "authzen"
)
AUTHZEN = '  - {{name: authzen, kind: authzen, tenant: acme, issuer: "https://as.example"}}'
EVALUATIONS = {
    "subject": {"type": "client", "id": "bot"},
    "resource": {"type": "audience", "id": "https://telemetry.example"},
    "evaluations": [
        {"action": {"name": name}}
        for name in ("issue:access_token:client_credentials", "telemetry:read", "telemetry:write")
    ],
}


class HookTurn(NamedTuple):
    """One product's times, ms."""

    calls: int
    p50_ms: float
    p99_ms: float
    worst_ms: float


def bodies(kind: str) -> list[bytes]:
    """One request for each of AGENTS agents: those of the tests."""
    name = {"hydra": "hydra_token"}.get(kind, kind)
    text = json.dumps(EVALUATIONS) if kind == "authzen" else (BODIES / f"{name}.json").read_text()
    agent = f'"{CLIENT[kind]}"'
    return [text.replace(agent, f'"agent-{number}"').encode() for number in range(AGENTS)]


def requests(kind: str, token: str) -> Callable[[int], bytes]:
    """Makes the request of a number, as it goes over the wire."""
    contents = bodies(kind)
    path = "/access/v1/evaluations" if kind == "authzen" else f"/hooks/{kind}"

    def make(number: int) -> bytes:
        content = contents[number % AGENTS]
        proof = f"Authorization: Bearer {token}" if kind == "authzen" else f"X-Trustwatch-Key: {SECRET}"
        if kind == "zitadel":
            at = str(int(time.time()))
            signature = hmac.new(SECRET.encode(), f"{at}.".encode() + content, hashlib.sha256).hexdigest()
            proof = f"ZITADEL-Signature: t={at},v1={signature}"
        head = f"POST {path} HTTP/1.1\r\nHost: b\r\nContent-Type: application/json\r\n{proof}\r\n"
        return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content

    return make


async def load(port: int, kind: str, token: str, seconds: float) -> list[float]:
    """Ask RATE times per second over CONNECTIONS connections; seconds from when each call was due to its answer."""
    make, took = requests(kind, token), []
    start, count = time.perf_counter() + 0.2, int(RATE * seconds)

    async def connection(first: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in range(first, count, CONNECTIONS):
            due = start + number / RATE
            request = make(number)
            await asyncio.sleep(due - time.perf_counter())
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            status = int(head[9:12])
            assert status in (200, 204, 403), head
            if status != 204:
                await reader.readexactly(int(re.search(rb"content-length: (\d+)", head)[1]))  # type: ignore[index]
            took.append(time.perf_counter() - due)
        writer.close()

    await asyncio.gather(*(connection(first) for first in range(CONNECTIONS)))
    return took


def turn(service: ServiceProcess, kind: str, seconds: float) -> HookTurn:
    """One product's turn, with the load in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.bench_hooks", "--client", str(service.port), kind, service.token]
    process = subprocess.run([*command, str(seconds)], stdout=subprocess.PIPE, check=True, text=True)
    took = [float(one) for one in process.stdout.split()]
    service.settle()
    return HookTurn(len(took), statistics.median(took), statistics.quantiles(took, n=100)[98], max(took))


def main() -> None:
    """A turn of each product, after one that only warms up."""
    given = options(__doc__ or "").parse_args()
    seconds = 3.0 if given.quick else 30.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, history=2_000, live=4_000)
        settings = f"{SETTINGS}tenants: {{{{acme: {{{{mode: enforce}}}}}}}}\nhooks:\n{HOOKS}\n{AUTHZEN}\n"
        service = ServiceProcess(folder, settings)
        try:
            service.wait_ready()
            turn(service, "hydra", 3.0)
            turns = {kind: turn(service, kind, seconds) for kind in CLIENT}
            written = service.metric('trustwatch_audit_events_total{outcome="written"}')
        finally:
            service.stop()
    table(
        f"Hooks at {RATE} calls per second",
        ("hook", "calls", "p50, ms", "p99, ms", "worst, ms"),
        [(kind, *one) for kind, one in turns.items()],
    )
    missed = [kind for kind, one in turns.items() if one.p99_ms >= TARGET_MS]
    print(f"\n{written:.0f} audit events written; p99 at {TARGET_MS:.0f} ms or more (target: none): {missed or 'none'}")
    finish(machine("uvicorn", "msgspec"), {kind: one._asdict() for kind, one in turns.items()}, given.json)
    raise SystemExit(1 if missed and not given.quick else 0)


def client(port: str, kind: str, token: str, seconds: str) -> None:
    """The load; prints milliseconds."""
    took = asyncio.run(load(int(port), kind, token, float(seconds)))
    print("\n".join(f"{one * 1000:.4f}" for one in took))


if __name__ == "__main__":
    client(*sys.argv[2:]) if sys.argv[1:2] == ["--client"] else main()
