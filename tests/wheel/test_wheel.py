"""What users get: everything of the tree is in the wheel, and it works where the tree is not.

`scripts/test-wheel` builds the wheel, installs it without extras into an environment of its own, and runs this there: a
requirement that is not declared, or a file that is not packed, fails here and nowhere else.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

import httpx2
import pytest

WHEEL = os.environ.get("TRUSTWATCH_WHEEL", "")
EXTRAS = os.environ.get("TRUSTWATCH_WHEEL_EXTRAS", "") == "1"
pytestmark = [
    pytest.mark.wheel,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not WHEEL, reason="NO WHEEL: `make test-wheel` builds it and runs this"),
]

OF_EXTRAS = {
    "a2a",
    "altair",
    "confluent_kafka",
    "crc32c",
    "google.protobuf",
    "ipykernel",
    "joserfc",
    "jupyter_client",
    "kafka",
    "lz4",
    "mcp",
    "nbclient",
    "nbconvert",
    "nbformat",
    "opentelemetry.exporter",
    "opentelemetry.proto",
    "opentelemetry.sdk",
    "pandas",
    "psycopg",
    "pyarrow",
    "requests",
    "vl_convert",
}
"""What modules may lack without extras; nothing else."""

OWN_LINE = {
    "archive": "archive: {directory: kept, vectors: vectors}",
    "fast": "kafka: {bootstrap_servers: ['127.0.0.1:1'], client: confluent}",
    "kafka": "kafka: {bootstrap_servers: ['127.0.0.1:1']}",
    "postgres": "store: {url: 'postgresql://u@127.0.0.1:1/d'}",
}
"""Extra -> what in the settings needs it."""

SETTINGS = """\
data_dir: data
model_dir: model
listen: {{port: {port}}}
issuers: [{{issuer: "urn:trustwatch:local", jwks_file: data/local-jwks.json, audiences: [trustwatch]}}]
callers: [{{name: all, client_id: all, tenants: ["*"], issuers: ["*"], sources: ["*"], trusted: true}}]
tenants: {{acme-corp: {{mode: enforce}}, globex: {{mode: enforce}}}}
console: {{enabled: true, development_login: true}}
"""


@pytest.fixture(scope="module")
def source() -> Path:
    """The tree that the wheel was built from."""
    return Path(os.environ["TRUSTWATCH_SOURCE"])


def packed() -> set[str]:
    """Names of all files of the wheel."""
    with ZipFile(WHEEL) as wheel:
        return set(wheel.namelist())


def command(*arguments: str) -> list[str]:
    """Of the script that the wheel installs."""
    return [str(Path(sys.executable).with_name("trustwatch")), *arguments]


def run(folder: Path, *arguments: str, program: list[str] | None = None) -> str:
    """What a command that must succeed prints."""
    whole = command(*arguments) if program is None else [*program, *arguments]
    done = subprocess.run(whole, cwd=folder, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, (whole, done.stderr)
    return done.stdout


def test_it_holds_all_files_of_the_packages_and_nothing_else(source: Path) -> None:
    """Modules, templates, assets and their licences: what lies in a package's folder is packed."""
    below = os.walk(source / "trustwatch", followlinks=True)
    paths = [Path(folder, name).relative_to(source) for folder, _, names in below for name in names]
    in_tree = {path.as_posix() for path in paths if "__pycache__" not in path.parts}
    names = packed()
    ours = {name for name in names if ".dist-info/" not in name}
    assert (sorted(in_tree - ours), sorted(ours - in_tree)) == ([], [])
    assert len(ours) > 300
    about = {name.partition(".dist-info/")[2] for name in names - ours}
    assert about >= {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}


def test_files_are_those_of_the_tree(source: Path) -> None:
    """Byte by byte: nothing was left over in `build/` from another day."""
    with ZipFile(WHEEL) as wheel:
        other = [
            name
            for name in wheel.namelist()
            if name.startswith("trustwatch/") and wheel.read(name) != (source / name).read_bytes()
        ]
    assert other == []


def test_it_says_what_it_is_and_needs(source: Path) -> None:
    """Version, licence and requirements as in pyproject.toml."""
    project: dict[str, Any] = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    made = distribution("trustwatch")
    assert (made.version, made.metadata["License-Expression"]) == (project["version"], project["license"])
    assert made.read_text("licenses/LICENSE") == (source / "LICENSE").read_text()
    needs = [need for need in made.requires or () if "extra ==" not in need]
    assert len(needs) == len(project["dependencies"])
    assert set(made.metadata.get_all("Provides-Extra") or ()) == set(project["optional-dependencies"])
    groups = {"console_scripts": project["scripts"], **project["entry-points"]}
    declared = {(group, name, value) for group, entries in groups.items() for name, value in entries.items()}
    assert {(entry.group, entry.name, entry.value) for entry in made.entry_points} == declared


IMPORTS = """\
import importlib, json, sys
lacking, places = {}, {}
for name in json.load(sys.stdin):
    try:
        places[name] = importlib.import_module(name).__file__
    except ImportError as error:
        lacking[name] = getattr(error, "name", "") or str(error)
print(json.dumps([lacking, places]))
"""


def of_extras(need: str) -> bool:
    """Whether what an import lacks comes with an extra; `trustwatch.lab` says so in its own words."""
    return any(need == name or need.startswith(f"{name}.") for name in OF_EXTRAS) or "path/to/WHEEL[" in need


def test_every_module_is_imported_from_the_wheel(tmp_path: Path) -> None:
    """Without extras, nothing is missing but what extras bring; with them, nothing is."""
    names = [
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in packed()
        if name.startswith("trustwatch/") and name.endswith(".py")
    ]
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS], input=json.dumps(sorted(names)), capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    lacking, places = json.loads(done.stdout)
    wrong = {name: need for name, need in lacking.items() if EXTRAS or not of_extras(need)}
    assert wrong == {}
    elsewhere = {name: place for name, place in places.items() if not place.startswith(sys.prefix)}
    assert elsewhere == {}
    assert len(places) > 0.8 * len(names)


without_extras = pytest.mark.skipif(EXTRAS, reason="the extras are here")


@without_extras
def test_nothing_of_the_extras_is_here() -> None:
    """No requirement brings it on the way: what follows was not tested otherwise."""
    assert [name for name in sorted(OF_EXTRAS) if is_found(name)] == []


def is_found(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # of the package above it
        return False


@without_extras
@pytest.mark.parametrize("extra", OWN_LINE)
def test_serve_names_the_extra_that_is_missing(extra: str, tmp_path: Path) -> None:
    """At start, in one line, before it makes anything."""
    (tmp_path / "settings.yaml").write_text(OWN_LINE[extra] + "\n")
    told = refused(tmp_path, *command("serve", "--settings", "settings.yaml"))
    assert f"path/to/WHEEL[{extra}]'" in told
    assert [path.name for path in tmp_path.iterdir()] == ["settings.yaml"]


@without_extras
@pytest.mark.parametrize(
    ("extra", "line"),
    [
        ("kafka", "simulate --kafka 127.0.0.1:1 --rate 1 --count 1"),
        ("archive", "archive kept"),
        ("lab", "lab"),
    ],
)
def test_commands_name_the_extra_that_is_missing(extra: str, line: str, tmp_path: Path) -> None:
    """Each with the line that installs it."""
    assert f"path/to/WHEEL[{extra}]'" in refused(tmp_path, *command(*line.split()))


@without_extras
def test_the_client_needs_little(tmp_path: Path) -> None:
    """Installed by itself it has less than 15 MB, with what it needs, and works."""
    folder = Path(os.environ["TRUSTWATCH_CLIENT"])
    size = sum(path.stat().st_size for path in folder.rglob("*") if "__pycache__" not in path.parts)
    code = (
        f"import sys; sys.path.insert(0, {str(folder)!r}); import trustwatch_client as c; print(c.TrustClient.__name__)"
    )
    assert size < 15e6
    assert not (folder / "trustwatch").exists()
    assert run(tmp_path, "-I", "-S", "-c", code, program=[sys.executable]) == "TrustClient\n"


@without_extras
@pytest.mark.parametrize("extra", ["a2a", "mcp"])
def test_middlewares_name_the_extra_that_is_missing(extra: str, tmp_path: Path) -> None:
    """As the error of the import."""
    told = refused(tmp_path, sys.executable, "-c", f"import trustwatch_client.{extra}", traceback=True)
    assert f"path/to/WHEEL[{extra}]'" in told


def refused(folder: Path, *line: str, traceback: bool = False) -> str:
    """What a command that must fail says."""
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=100)
    assert done.returncode != 0, done.stdout
    assert ("Traceback" in done.stderr) is traceback, done.stderr
    return " ".join(done.stderr.split())


class Made(NamedTuple):
    """What the commands made, in their folder."""

    folder: Path
    trained: dict[str, Any]
    replayed: dict[str, Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Three simulated days are learned, and the last is replayed."""
    folder = tmp_path_factory.mktemp("wheel")
    run(folder, "simulate", "--out", "events.jsonl", "--agents", "12", "--hours", "72", "--events-per-day", "80")
    trained = json.loads(run(folder, "train", "events.jsonl", "--model", "model", "--json"))
    lines = (folder / "events.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "last.jsonl").write_bytes(b"".join(lines[-500:]))
    replay = ("replay", "last.jsonl", "--model", "model", "--out", "scores.jsonl", "--json")
    return Made(folder, trained, json.loads(run(folder, *replay)))


def test_commands_say_what_they_do(tmp_path: Path) -> None:
    """The script and the module are one."""
    told = run(tmp_path, "--help")
    assert all(name in told for name in ("serve", "train", "replay", "topics", "models", "erase", "demo"))
    assert run(tmp_path, "--help", program=[sys.executable, "-m", "trustwatch"]).count("\n") > 20


def test_history_is_learned_and_replayed(made: Made) -> None:
    """Every event has its line of scores."""
    assert made.trained["events"] > 1_500 and made.trained["malformed"] == 0
    assert made.replayed["events"] == 500
    scores = [json.loads(line) for line in (made.folder / "scores.jsonl").read_text().splitlines()]
    assert len(scores) == 500
    assert all(0 <= line["p_value"] <= 1 for line in scores)


def test_a_back_test_has_its_report(made: Made) -> None:
    """The page and its style come out of the wheel."""
    run(made.folder, "backtest", "last.jsonl", "--model", "model", "--report", "report.html", "--jobs", "1")
    page = (made.folder / "report.html").read_text()
    assert "<style>" in page and "{{" not in page and "last.jsonl" in page


def until(reached: Callable[[], Any], within_s: float = 90.0) -> Any:
    deadline = time.monotonic() + within_s
    while not (found := reached()):
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def served(made: Made) -> Iterator[httpx2.Client]:
    """A service on that model, ready; its database is made by the packed program."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = made.folder / "settings.yaml"
    settings.write_text(SETTINGS.format(port=port))
    token = run(made.folder, "token", "--client-id", "all", "--settings", str(settings)).strip()
    log = made.folder / "service.log"
    with log.open("wb") as stream, httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30.0) as client:
        process = subprocess.Popen(command("serve", "--settings", str(settings)), stdout=stream, stderr=stream)

        def ready() -> bool:
            assert process.poll() is None, log.read_text()
            with suppress(httpx2.TransportError):
                return client.get("/readyz").status_code == 200
            return False

        try:
            until(ready)
            client.headers["authorization"] = f"Bearer {token}"
            yield client
            process.terminate()
            assert process.wait(30) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()
    assert "Traceback" not in log.read_text()


def test_the_service_takes_events_and_answers(served: httpx2.Client) -> None:
    """Health, an event in, and its agent's risk out."""
    assert served.get("/healthz").status_code == 200
    event = {
        "id": "1",
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "type": "tool.call",
        "tenant": "globex",
        "agent": {"id": "a", "issuer": "https://as.example", "type": "Clerk"},
        "action": "read_file",
        "outcome": "success",
    }
    assert served.post("/v1/events", json=[event]).json()["accepted"] == 1
    risk = served.get("/v1/agents/a/risk", params={"tenant": "globex"})
    assert risk.status_code == 200, risk.text
    until(lambda: served.get("/v1/agents", params={"tenant": "globex"}).json()["items"])


def test_the_console_has_its_pages_and_all_its_files(served: httpx2.Client, made: Made) -> None:
    """Sign in by the link of `console-link`, then look at pages; each file of `static/` is served as it was packed."""
    told = run(made.folder, "console-link", "--settings", "settings.yaml")
    link = next(word for word in told.split() if word.startswith("http"))
    with httpx2.Client(base_url=served.base_url, timeout=30.0, follow_redirects=True) as browser:
        browser.get(link).raise_for_status()
        for page in ("/", "/agents", "/decisions", "/alerts", "/approvals", "/feedback", "/models", "/dead-letters"):
            answer = browser.get(f"/console{page}")
            assert (answer.status_code, "</html>" in answer.text) == (200, True), (page, answer.text)
        with ZipFile(WHEEL) as wheel:
            prefix = "trustwatch/api/console/static/"
            files = [name for name in wheel.namelist() if name.startswith(prefix)]
            assert len(files) > 8
            for name in files:
                assert browser.get(f"/console/static/{name.removeprefix(prefix)}").content == wheel.read(name), name
