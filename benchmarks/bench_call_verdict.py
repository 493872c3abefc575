"""Time of a verdict on a call over an idle connection, beside the risk look-up of the same service.

One question after the other on one kept connection, as an agent's middleware asks; one in ten is odd, and its answer
has reasons.
"""

from __future__ import annotations

import http.client
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from trustwatch.api.access.call_evaluation import LiveCallScorer
from trustwatch.api.http.auth.signing import LocalSigningKey
from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.events import decode_event
from trustwatch.models.detector import DetectorSettings
from trustwatch.models.model_persistence import ModelRegistry, save_trained_model
from trustwatch.models.model_training import train_model

from .answer_servers import AUDIENCE, CLIENT, serve_ours
from .events import raw_events
from .harness import arguments, finish, machine, table

MOST_P99_MS = 2.0
EVENTS, AGENTS, SALT = 20_000, 200, b"salt of a benchmark"
WARM_UP = 200


def make_model(folder: Path) -> None:
    """A model of a busy history."""
    events = [decode_event(raw) for raw in raw_events(EVENTS, AGENTS, 500.0, full=True)]
    settings = DetectorSettings()
    model = train_model(ColumnEncoder(SALT).encode(events), SALT, "bench", settings)
    save_trained_model(folder / "model", model, settings, 1, 0)


def questions() -> list[bytes]:
    """Bodies: calls of the history before they were made, every tenth to a target that nobody knows."""
    found = []
    for number, raw in enumerate(raw_events(1_000, AGENTS, 500.0, full=True)):
        event = msgspec.json.decode(raw)
        kept = {
            name: event[name]
            for name in ("action", "effect", "resource", "principal", "task", "scopes")
            if name in event
        }
        if number % 10 == 0:
            kept |= {"action": f"new-{number}", "resource": {"target": f"host-{number}.example", "external": True}}
        source = {"name": "to", "origin": "tool", "from": 1, "untrusted": True, "hash": f"{number:012x}"}
        found.append(msgspec.json.encode({**kept, "arguments": [source], "agent_type": event["agent"].get("type")}))
    return found


class Asker:
    """One kept connection to the server."""

    def __init__(self, port: int, token: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def seconds(self, method: str, path: str, body: bytes | None = None) -> tuple[float, bytes]:
        """Time until the answer is whole, and the answer."""
        start = time.perf_counter()
        self._connection.request(method, path, body, self._headers)
        answer = self._connection.getresponse()
        content = answer.read()
        took = time.perf_counter() - start
        if answer.status != 200:
            raise SystemExit(f"{answer.status}: {content!r}")
        return took, content


def main() -> None:
    """Questions and look-ups in turns; p50 and p99."""
    given = arguments(__doc__ or "")
    rounds = 1_000 if given.quick else 10_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder)
        key = LocalSigningKey.open(folder)
        token = key.issue_token(CLIENT, CLIENT, ["trust.score:read"], AUDIENCE, 3600, time.time(), "bench")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        server = subprocess.Popen([sys.executable, "-m", "benchmarks.bench_call_verdict", "--serve", str(port), name])
        try:
            wait_for(port)
            asked, looked_up = measure(Asker(port, token), rounds)
        finally:
            server.terminate()
            server.wait()
    report(asked, looked_up, given.json)


def wait_for(port: int) -> None:
    """Wait until the server takes connections."""
    for _ in range(1_200):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionError:
            time.sleep(0.1)
    raise SystemExit("the server does not answer")


def measure(asker: Asker, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of each question and of each look-up, in turns."""
    bodies, asked, looked_up = questions(), [], []
    for number in range(WARM_UP + rounds):
        body = bodies[number % len(bodies)]
        took, content = asker.seconds("POST", f"/v1/agents/caller-{number % AGENTS}/calls/evaluate", body)
        assert b'"basis":"model"' in content
        asked.append(took)
        looked_up.append(asker.seconds("GET", f"/v1/agents/agent-{number % AGENTS}/risk")[0])
    return asked[WARM_UP:], looked_up[WARM_UP:]


def report(asked: list[float], looked_up: list[float], json_file: Path | None) -> None:
    """Print the figures, and whether the goal was missed."""
    figures = {}
    for name, seconds in (("verdict on a call", asked), ("risk look-up", looked_up)):
        figures[name] = [1_000.0 * statistics.median(seconds), 1_000.0 * statistics.quantiles(seconds, n=100)[98]]
    (ours_p50, ours_p99), (other_p50, other_p99) = figures.values()
    ratio = ("ratio", ours_p50 / other_p50, ours_p99 / other_p99)
    table("Over an idle connection", ("", "p50, ms", "p99, ms"), [*((n, *f) for n, f in figures.items()), ratio])
    finish(machine("msgspec", "numba", "numpy"), figures, json_file)
    if ours_p99 > MOST_P99_MS:
        print(f"target: p99 of at most {MOST_P99_MS} ms: missed, {ours_p99:.2f} ms")


def serve(port: int, folder: Path) -> None:
    """The real application with the model, until it is killed."""
    calls = LiveCallScorer(ModelRegistry(folder / "models", folder / "model"), {})
    calls.use_version("bench")
    serve_ours(port, folder, calls)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(int(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
