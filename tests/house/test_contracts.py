"""Each import contract of pyproject.toml is broken by an import that it forbids."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from ..support.checkout import ROOT

PLANTED = {
    "trustwatch/ingest/errors.py": "from trustwatch.api import clock",
    "trustwatch/scoring/records/agents.py": "from ..store import database",
    "trustwatch/lab/session.py": "from . import frames",
    "trustwatch/api/settings/root.py": "from ..console import slice",
    "trustwatch/api/agents/service.py": "import fastapi",
    "trustwatch/api/console/rendering.py": "from ..cases import routes",
    "trustwatch/api/models/worker.py": "from ..agents import slice",
    "trustwatch/lab/frames.py": "from trustwatch.ingest.kafka import open_reader",
    "trustwatch_client/timing.py": "from trustwatch.ingest import errors",
}
"""A forbidden import for each contract, in the order in which they stand."""


def test_each_contract_bites(tmp_path: Path) -> None:
    """In a copy of the tree with one forbidden import for each, none is kept."""
    for package in ("trustwatch", "trustwatch_client"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, line in PLANTED.items():
        with (tmp_path / name).open("a") as module:
            module.write(f"\n{line}\n")

    command = [str(Path(sys.executable).with_name("lint-imports")), "--config", str(ROOT / "pyproject.toml")]
    done = subprocess.run([*command, "--no-cache"], cwd=tmp_path, capture_output=True, text=True, check=False)

    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    found = re.search(r"Contracts: (\d+) kept, (\d+) broken", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert (int(found[1]), int(found[2])) == (0, len(contracts)), done.stdout
