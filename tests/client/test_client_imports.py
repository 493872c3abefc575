"""Importing the client costs little: it must not import the service, nor what only the service needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SERVER = {
    *("fastapi", "starlette", "uvicorn", "pydantic", "sqlalchemy", "alembic", "psycopg", "numba", "llvmlite", "numpy"),
    *("scipy", "sklearn", "kafka", "confluent_kafka", "jmespath", "prometheus_client", "standardwebhooks", "structlog"),
    *("typer", "yaml", "jwt", "a2a", "mcp", "crc32c", "lz4"),
}
OURS = {"trustwatch.ingest", "trustwatch.models", "trustwatch.scoring", "trustwatch.api"}


def loaded(module: str, folder: Path) -> set[str]:
    """Modules of a fresh interpreter after it imported *module*, and every name of it."""
    code = f"import sys; from {module} import *; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_server_stays_out(tmp_path: Path) -> None:
    found = loaded("trustwatch_client", tmp_path)

    assert "trustwatch_client.trust_client" in found
    assert {name.split(".")[0] for name in found} & SERVER == set()
    assert {".".join(name.split(".")[:2]) for name in found} & OURS == set()


def test_the_event_comes_without_the_http_client(tmp_path: Path) -> None:
    found = loaded("trustwatch_client.events", tmp_path)

    assert "msgspec" in found
    assert "httpx2" not in found


@pytest.mark.parametrize(("module", "own"), [("assertion", "jwt"), ("a2a", "a2a"), ("mcp", "mcp")])
def test_extras_bring_their_own_and_nothing_of_ours(module: str, own: str, tmp_path: Path) -> None:
    """Each of the modules that are imported by hand loads the library that it is for, and no part of the service."""
    found = loaded(f"trustwatch_client.{module}", tmp_path)

    assert own in found
    assert {".".join(name.split(".")[:2]) for name in found} & OURS == set()
    # a2a-sdk imports sqlalchemy by itself where it finds it.
    assert {name.split(".")[0] for name in found} & {"fastapi", "alembic", "numba", "sklearn", "kafka"} == set()
