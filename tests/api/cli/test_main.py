"""The command line as a whole."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib

import pytest
from trustwatch.api.cli.main import make_app
from typer.testing import CliRunner

from ...support.checkout import ROOT


def test_the_version_is_the_one_of_the_package() -> None:
    """And nothing else is done."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    told = CliRunner().invoke(make_app(), ["--version", "serve"])

    assert (told.exit_code, told.stdout) == (0, f"trustwatch {declared}\n")


@pytest.mark.parametrize(
    ("words", "expected"),
    [("trustwatch ag", ["agents"]), ("trustwatch models pro", ["promote"]), ("trustwatch explain --iss", ["--issuer"])],
)
def test_the_shell_completes_commands_and_options(words: str, expected: list[str]) -> None:
    """Those of commands that are loaded for it, too."""
    asked = {"_TRUSTWATCH_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    program = "import sys; sys.argv[0] = 'trustwatch'; from trustwatch.api.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **asked}, capture_output=True, text=True, timeout=60
    )

    assert (done.stdout.split(), done.stderr) == (expected, "")


def test_help_is_plain_where_it_is_no_terminal() -> None:
    """Commands stand below what they are for; no frame, no colour, no summary that is cut."""
    told = CliRunner().invoke(make_app(), ["--help"]).stdout

    assert told.isascii()
    assert "\nRun the service:\n  compile " in told
    assert "..." not in told.partition("\n\n")[2]
