"""The architecture is a test: who may import whom, and one importer for each outside technology."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from ..support.checkout import ROOT

LAYERS = ("ingest", "models", "scoring", "api")
FOLDERS = (*LAYERS, "client", "lab", "simulator")
"""Folders that are installed: the layers, the client, lab and simulator."""

IMPORTERS = {
    "sklearn": {"models/detector_training.py", "scoring/backtest/label_evaluation.py"},
    "sqlalchemy": {"scoring/store/"},
    "alembic": {"scoring/store/"},
    "psycopg": {"scoring/store/dialects/"},
    "jwt": {
        "api/http/auth/token_verification.py",
        "api/http/auth/jwks.py",
        "api/http/auth/proof_of_possession.py",
        "api/http/auth/set_verification.py",
        "api/http/auth/signing.py",
        "client/trustwatch_client/assertion.py",
    },
    "joserfc": {"api/http/auth/set_encryption.py"},
    "fastapi": {"api/"},
    "starlette": {"api/"},
    "uvicorn": {"api/service/"},
    "typer": {
        "api/cli/",
        "/commands.py",
        "api/models/training_commands.py",
        "api/service/data_commands.py",
        "api/service/settings_commands.py",
    },
    "rich": {"api/cli/", "api/feedback/commands.py"},
    "prometheus_client": {"api/http/"},
    "standardwebhooks": {"scoring/delivery/notifiers/"},
    "yaml": {"ingest/settings_reading.py"},
    "jinja2": {"api/backtest/", "api/charts.py", "api/console/"},
    "markupsafe": {"api/backtest/", "api/console/", "api/charts.py"},
    "jmespath": {"ingest/formats/expressions.py"},
    "opentelemetry": {"api/http/request_traces.py"},  # and by name ingest/formats/otlp.py, what has its own extra
    "pyarrow": {"ingest/archive/"},
    "pandas": {"lab/"},
    "altair": {"lab/charts.py"},
    "vl_convert": {"lab/notebook_runner.py"},
    "jupyter_client": {"lab/notebook_runner.py"},
    "nbclient": {"lab/notebook_runner.py"},
    "nbconvert": {"lab/notebook_runner.py"},
    "nbformat": {"lab/notebook_runner.py"},
    "kafka": {"ingest/kafka/kafka_python/"},
    "confluent_kafka": {"ingest/kafka/confluent/"},
    "a2a": {"client/trustwatch_client/a2a.py"},
    "mcp": {"client/trustwatch_client/mcp.py"},
}
"""Outside technology -> the only files or folders that may import it; `/commands.py` is that of every slice."""


def modules(layer: str) -> list[Path]:
    return sorted((ROOT / layer).rglob("*.py"))


@cache
def imported(path: Path) -> list[tuple[int, str]]:
    """(relative level, dotted name) of every import in a file, which is read once."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or ""))
    return found


def layer_reached(path: Path, level: int, name: str) -> str | None:
    """The layer that an import reaches, None for one outside of ours."""
    if level == 0:
        parts = name.split(".")
        if parts[0] == "trustwatch_client":
            return "client"
        return parts[1] if parts[0] == "trustwatch" and len(parts) > 1 else None
    place = path.relative_to(ROOT).parent.parts
    kept = place[: len(place) - (level - 1)]
    full = (*kept, *name.split("."))
    return next((part for part in full if part), None)


def test_imports_across_folders_are_absolute() -> None:
    """A relative import stays inside its folder, so that editors and type checkers find what it names."""
    wrong = [
        f"{path.relative_to(ROOT)}: {'.' * level}{name}"
        for folder in FOLDERS
        for path in modules(folder)
        for level, name in imported(path)
        if level and layer_reached(path, level, name) != folder
    ]

    assert wrong == []


def test_no_test_module_imports_another_one_or_a_conftest() -> None:
    """What they share is in `tests/support`, under a name that says what it is."""
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules("tests")
        for _, name in imported(path)
        if any(part.startswith("test_") or part == "conftest" for part in name.split("."))
    ]

    assert wrong == []


@pytest.mark.parametrize("technology", IMPORTERS)
def test_each_outside_technology_has_one_importer(technology: str) -> None:
    """Whoever replaces a technology changes one place."""
    found = {
        path.relative_to(ROOT).as_posix()
        for layer in FOLDERS
        for path in modules(layer)
        for level, name in imported(path)
        if level == 0 and name.split(".")[0] == technology
    }

    allowed = tuple(IMPORTERS[technology])
    names = tuple(place for place in allowed if place.startswith("/"))

    wrong = {file for file in found if not file.startswith(allowed) and not file.endswith(names)}

    assert wrong == set()


CLOCK = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "date.today"}


def uses(path: Path, names: set[str]) -> list[str]:
    """Places of a file that use one of the dotted names; a file without their last words is not parsed."""
    source = path.read_text()
    if not any(name.rpartition(".")[2] in source for name in names):
        return []
    last = {name.rpartition(".")[2] for name in names}
    return [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and node.attr in last
        and ast.unparse(node).removeprefix("datetime.") in names
    ]


def test_only_the_clock_reads_the_clock() -> None:
    """Time is passed in, so that everything replays."""
    wrong = [
        place
        for layer in FOLDERS
        for path in modules(layer)
        if path.relative_to(ROOT).as_posix() not in ("api/clock.py", "client/trustwatch_client/timing.py")
        for place in uses(path, CLOCK)
    ]

    assert wrong == []


READERS_OF_THE_ENVIRONMENT = (
    "api/settings/loading.py",
    "api/data_at_rest.py",
    "api/file_access.py",
    "api/http/request_traces.py",  # the standard variables of OpenTelemetry
)


def test_only_settings_read_the_environment() -> None:
    """Nothing else depends on its process, but for file access, which is known before settings are, and traces."""
    wrong = [
        place
        for layer in FOLDERS
        for path in modules(layer)
        if path.relative_to(ROOT).as_posix() not in READERS_OF_THE_ENVIRONMENT
        for place in uses(path, {"os.environ", "os.getenv"})
    ]

    assert wrong == []
