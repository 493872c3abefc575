"""The command line as a whole."""

from __future__ import annotations

import tomllib

from trustwatch.api.cli.main import make_app
from typer.testing import CliRunner

from ...support.checkout import ROOT


def test_the_version_is_the_one_of_the_package() -> None:
    """And nothing else is done."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    told = CliRunner().invoke(make_app(), ["--version", "serve"])

    assert (told.exit_code, told.stdout) == (0, f"trustwatch {declared}\n")
