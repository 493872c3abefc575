"""Each import contract of pyproject.toml is broken by an import that it forbids."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from ..support.checkout import ROOT

FOLDERS = ("trustwatch", "ingest", "models", "scoring", "api", "client", "lab", "simulator")
PLANTED = {
    "ingest/errors.py": "from ..api import clock",
    "scoring/records/agents.py": "from ..store import database",
    "lab/session.py": "from . import frames",
    "api/settings/root.py": "from ..console import console_app",
    "api/agents/service.py": "import fastapi",
    "api/console/rendering.py": "from ..agents import routes",
    "api/models/worker.py": "from ..agents import slice",
    "lab/event_history.py": "from ..ingest.kafka import open_reader",
    "client/timing.py": "from ..ingest import errors",
    "models/detector.py": "from ..client import timing",
}
"""A forbidden import for each contract, in the order in which they stand."""


def test_each_contract_bites(tmp_path: Path) -> None:
    """In a copy of the tree with one forbidden import for each, none is kept."""
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tmp_path / "trustwatch" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    package = tmp_path / "trustwatch"
    for path in (package / "trustwatch").iterdir():
        path.rename(package / path.name)
    for name, line in PLANTED.items():
        with (package / name).open("a") as module:
            module.write(f"\n{line}\n")

    command = [str(Path(sys.executable).with_name("lint-imports")), "--config", str(ROOT / "pyproject.toml")]
    done = subprocess.run([*command, "--no-cache"], cwd=tmp_path, capture_output=True, text=True, check=False)

    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    found = re.search(r"Contracts: (\d+) kept, (\d+) broken", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert (int(found[1]), int(found[2])) == (0, len(contracts)), done.stdout
