"""What golden tests stand on: commands of `trustwatch`, HTTP and files, and the imports of the program: all are here.

Whoever moves or renames what is imported adapts this module, and no other of the golden tests.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import platform
import re
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import unified_diff
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx2

HERE = Path(__file__).parent
INPUTS = HERE / "inputs"
RECORDED = HERE / "recorded"
PROGRAM = Path(sys.executable).with_name("trustwatch")
Row = dict[str, Any]

SETTINGS = """\
data_dir: data
model_dir: {model}
listen: {{port: {port}}}
issuers: [{{issuer: "urn:trustwatch:local", jwks_file: data/local-jwks.json, audiences: [trustwatch]}}]
callers: [{{name: all, client_id: all, tenants: ["*"], issuers: ["*"], sources: ["*"], trusted: true}}]
tenants:
  acme-corp: {{domains: [acme-corp.example], mode: enforce}}
  globex: {{domains: [globex.example], mode: enforce}}
pipeline: {{commit_interval_s: 0.2, tick_interval_s: 3600}}
{more}"""
"""No tick falls into a test: it would be of the wall clock, a year behind the events, and let every level step down."""


# What is imported of the program


def command_tree() -> Any:
    """The command `trustwatch` as click has it, with all that stands below it."""
    from typer.main import get_command

    from trustwatch.api.cli.main import make_app

    tree: Any = get_command(make_app())
    tree.commands.update({name: command.load() for name, command in tree.commands.items()})
    return tree


def settings_markdown() -> str:
    """The table of all settings, in the form of reference/settings.md."""
    from scripts.settings_table import settings_table

    return settings_table()


def settings_type() -> type:
    """The settings file as msgspec reads it."""
    from trustwatch.api.settings.root import Settings

    return Settings


def settings_variables() -> Mapping[str, tuple[str, ...]]:
    """Variables of the environment that win over the file, with the member that each is."""
    from trustwatch.api.settings.loading import SHORT_NAMES

    return SHORT_NAMES


def declared_metrics() -> list[Row]:
    """Every metric of the program: name, kind, unit, labels."""
    from trustwatch.api.http.prometheus_metrics import METRICS

    return [
        {"name": one.name, "kind": one.kind.removeprefix("observed "), "unit": one.unit, "labels": list(one.labels)}
        for one in METRICS
    ]


def score_vectors(model: Path, rows: Any, groups: Any, familiar: Any) -> dict[str, list[float]]:
    """Load a model; what it says of feature vectors (n, F) of peer groups (n,), well known to it or not (n,)."""
    from trustwatch.models.model_persistence import load_trained_model

    scores = load_trained_model(model).detector.assess(rows, groups, None, familiar)[0]
    columns = (scores.anomaly_score, scores.p_value, scores.feature_evidence)
    return {name: column.tolist() for name, column in zip(("anomaly_score", "p_value", "u"), columns, strict=True)}


def stored(database: Path) -> tuple[dict[str, tuple[str, str]], dict[tuple[str, str], tuple[str, int]]]:
    """Open a SQLite store, migrating it: decision -> agent and level; tenant and agent -> level and events."""
    from trustwatch.scoring.records.agents import RiskLevel
    from trustwatch.scoring.store.agent_store import AgentQuery
    from trustwatch.scoring.store.sql_store import open_store, sqlite_url

    with contextlib.closing(open_store(sqlite_url(database))) as store:
        decisions = store.decisions.page(limit=500).items
        agents = store.agents.page(AgentQuery(limit=500)).items
    return (
        {one.decision_id: (one.agent.agent_id, RiskLevel(one.level).label) for one in decisions},
        {(one.name.tenant, one.name.agent_id): (RiskLevel(one.level).label, one.events) for one in agents},
    )


# Commands and the service


def run(*arguments: object, folder: Path | None = None, timeout: float = 500.0) -> str:
    """Run a command of `trustwatch` that must succeed. Returns its standard output.

    The first one after an installation compiles for a minute, on a busy machine for several.
    """
    command = [str(PROGRAM), *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{command}: {done.stderr[-3000:]}"
    return done.stdout


def wait(until: Callable[[], Any], within_s: float, told: Callable[[], str] = str) -> Any:
    """The first true answer of *until*; *told* says more where there is none in time."""
    deadline = time.monotonic() + within_s
    while not (found := until()):
        assert time.monotonic() < deadline, f"not within {within_s} s; {told()[-3000:]}"
        time.sleep(0.05)
    return found


class Service:
    """`trustwatch serve` as a process of its own, known by its settings file and its HTTP alone.

    Args:
        folder: made where it does not exist; what lies in `folder/data` is gone on from.
        model: directory of a model.
        more: further settings (YAML).
        option: part of the service, such as `--api-only`; "" = all of it.
    """

    def __init__(self, folder: Path, model: Path, more: str = "", option: str = "") -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        folder.mkdir(parents=True, exist_ok=True)
        self.settings = folder / "settings.yaml"
        self.settings.write_text(SETTINGS.format(model=json.dumps(str(model)), port=self.port, more=more))
        self.client = httpx2.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30.0)
        self.process: subprocess.Popen[bytes] | None = None
        self._options = [option] if option else []
        self.token = ""

    def __enter__(self) -> Service:
        token = run("token", "--settings", self.settings, "--client-id", "all", "--lifetime", 3600)
        self.token = token.strip()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        with (self.folder / "service.log").open("ab") as log:
            command = [str(PROGRAM), "serve", "--settings", str(self.settings), *self._options]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        wait(self._ready, 240.0, self.log)  # as in `run`

    def _ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        with contextlib.suppress(httpx2.TransportError):
            return self.client.get("/readyz").status_code == 200
        return False

    def log(self) -> str:
        return (self.folder / "service.log").read_text()

    def get(self, path: str, **parameters: Any) -> Any:
        """The JSON answer of a route, which must be 200."""
        headers = {"authorization": f"Bearer {self.token}"}
        answer = self.client.get(path, params=parameters or None, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: bytes, kind: str = "application/json") -> httpx2.Response:
        headers = {"authorization": f"Bearer {self.token}", "content-type": kind}
        return self.client.post(path, content=body, headers=headers)

    def send(self, lines: Iterable[bytes]) -> Row:
        """Send events, one a line, in one body. Returns the receipt."""
        answer = self.post("/v1/events", b"\n".join(lines), "application/x-ndjson")
        assert answer.status_code == 202, answer.text
        receipt: Row = answer.json()
        return receipt

    def pages(self, path: str, **parameters: Any) -> list[Row]:
        """All items of a paged list."""
        found: list[Row] = []
        page = self.get(path, limit=500, **parameters)
        while True:
            found += page["items"]
            if page["next_cursor"] is None:
                return found
            page = self.get(path, limit=500, cursor=page["next_cursor"], **parameters)

    def metric(self, name: str) -> float:
        lines = self.client.get("/metrics").text.splitlines()
        return float(next(line.rpartition(" ")[2] for line in lines if line.startswith(f"{name} ")))

    def settle(self, within_s: float = 90.0) -> None:
        """Wait until everything that was logged is committed and in the answers. Not for replicas: they log nothing."""
        wait(
            lambda: self.metric("trustwatch_pipeline_offset") == self.metric("trustwatch_log_next_offset"),
            within_s,
            self.log,
        )

    def settle_topics(self, within_s: float = 120.0) -> None:

        def applied() -> bool:
            told = json.loads(run("topics", "status", "--settings", self.settings, "--json"))
            return not any(one["behind"] for one in told["events"])

        wait(applied, within_s, self.log)

    def close(self) -> None:
        self.client.close()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)


def on_postgres(folder: Path, postgres: Any, database: str) -> str:
    """Further settings of a service on PostgreSQL."""
    folder.mkdir(parents=True, exist_ok=True)
    url = postgres.url_of(database)
    (folder / "password").write_text(re.search(":([^:@]+)@", url)[1])  # type: ignore[index]
    bare = re.sub(":[^:@]+@", "@", url)
    return f'store: {{url: "{bare}", password: {{file: password}}, agents_days: 36500}}\n'


def on_kafka(kafka: Any, name: str, partitions: int = 3) -> str:
    """Further settings of a service on Kafka; *name* is the prefix of its topics, and its group."""
    kinds = {"events": "events", "dead_letters": "dlq", "risk": "risk", "decisions": "decisions", "alerts": "alerts"}
    names = ", ".join(f"{kind}: {name}.{topic}" for kind, topic in kinds.items())
    return (
        f'kafka: {{bootstrap_servers: ["{kafka.bootstrap}"], group_id: {name}, partitions: {partitions}, '
        f"replication: 1, session_timeout_s: 6, names: {{{names}}}}}\n"
    )


# Files


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a zip of ours. Returns *folder*."""
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
    return folder


def pack(folder: Path, archive: Path) -> None:
    """Make a zip of all files below *folder*: equal files, equal bytes."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), (2026, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            packed.writestr(entry, path.read_bytes())


def read_rows(path: Path) -> list[Row]:
    """The JSON objects of a file, one a line; `.gz` is unpacked."""
    raw = path.read_bytes()
    text = gzip.decompress(raw) if path.suffix == ".gz" else raw
    return [json.loads(line) for line in text.splitlines()]


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write JSON objects, one a line; what is called `.gz` is packed, without a time."""
    text = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
    path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


# Comparison


def machine() -> Row:
    """What floats may depend on in their last bits."""
    names = re.findall(r"^model name\s*: (.*)$", _text(Path("/proc/cpuinfo")), re.MULTILINE)
    libraries = {name: version(name) for name in ("numpy", "numba", "scikit-learn")}
    return {"machine": platform.machine(), "processor": names[0] if names else "", "libraries": libraries}


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@cache
def exact() -> bool:
    """Whether floats must equal the recorded ones to the last bit: on the kind of machine that recorded them."""
    recorded = RECORDED / "machine.json"
    return recorded.exists() and json.loads(recorded.read_text()) == machine()


def differences(ours: Any, golden: Any, at: str = "") -> Iterator[str]:
    """Where two JSON values differ, in words. Floats may differ by 1e-9 of their size on another kind of machine."""
    if isinstance(golden, dict) and isinstance(ours, dict):
        for name in golden.keys() | ours.keys():
            if name not in ours or name not in golden:
                yield f"{at}.{name}: {'missing' if name not in ours else 'new'}"
            else:
                yield from differences(ours[name], golden[name], f"{at}.{name}")
    elif isinstance(golden, list) and isinstance(ours, list):
        if len(golden) != len(ours):
            yield f"{at}: {len(ours)} items, recorded {len(golden)}"
        for number, (one, other) in enumerate(zip(ours, golden, strict=False)):
            yield from differences(one, other, f"{at}[{number}]")
    elif not _equal(ours, golden):
        yield f"{at}: {ours!r}, recorded {golden!r}"


def _equal(ours: Any, golden: Any) -> bool:
    if isinstance(golden, float) and isinstance(ours, float) and not exact():
        return abs(ours - golden) <= 1e-9 * max(abs(ours), abs(golden))
    return bool(type(ours) is type(golden) and ours == golden)


def assert_same(ours: Any, golden: Any) -> None:
    found = [difference for _, difference in zip(range(12), differences(ours, golden), strict=False)]
    assert not found, "differs from what was recorded:\n" + "\n".join(found)


def assert_same_soon(ours: Callable[[], Any], golden: Any, within_s: float = 20.0) -> None:
    """The same for what comes to be so: answers follow what is committed."""
    deadline = time.monotonic() + within_s
    while any(differences(ours(), golden)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert_same(ours(), golden)


def assert_same_rows(ours: list[Row], golden: list[Row]) -> None:
    """The same for rows without computed floats: fail with the rows that are new and those that are missing."""
    texts = ([json.dumps(row, ensure_ascii=False) for row in rows] for rows in (golden, ours))
    found = [line for line in unified_diff(*texts, "recorded", "now", n=0, lineterm="") if line[:2] != "@@"]
    assert not found, "differs from what was recorded:\n" + "\n".join(found[:40])


def digest(rows: Iterable[Row]) -> str:
    whole = hashlib.sha256()
    for row in rows:
        whole.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return whole.hexdigest()
