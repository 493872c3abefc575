"""The command line waits for nothing that a command does not need, and works without extras."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trustwatch.api.cli.lazy_commands import CommandPanel, LazyCommand, installed_commands

HEAVY = ("numpy", "numba", "pandas", "sklearn", "scipy", "sqlalchemy", "fastapi", "pydantic", "httpx2", "structlog")
"""What takes long to import: none of it is needed to say which commands there are."""

QUICK = {
    "--help": HEAVY,
    "--version": HEAVY,
    "agents --help": ("numpy", "numba", "pandas", "sklearn", "sqlalchemy", "fastapi"),
    "explain --help": ("numpy", "numba", "pandas", "sklearn", "sqlalchemy", "fastapi"),
    "feedback add --help": ("numpy", "numba", "pandas", "sklearn", "sqlalchemy", "fastapi"),
    "models list --help": ("numpy", "numba", "pandas", "sklearn", "sqlalchemy", "fastapi"),
    "token --help": ("pandas", "sklearn"),
    "serve --settings nowhere.yaml": ("pandas", "sklearn", "sqlalchemy", "fastapi", "httpx2", "uvicorn"),
}
"""What a command line may not import."""

WATCHED = """
import sys
from trustwatch.api.cli.main import main
try:
    main()
except SystemExit as ended:
    assert bool(ended.code) == ("nowhere.yaml" in sys.argv), ended.code
sys.stderr.write(" ".join(sorted({name.partition(".")[0] for name in sys.modules})))
"""

HELP_WITHOUT_EXTRA = """
import sys
sys.modules["pandas"] = sys.modules["altair"] = None
from typer.testing import CliRunner
from trustwatch.api.cli.main import make_app
from trustwatch import lab
help, ran = (CliRunner().invoke(make_app(), arguments) for arguments in (["--help"], ["lab"]))
assert help.exit_code == 0, help.output
assert "notebooks in JupyterLab" in help.output, help.output
assert ran.exit_code != 0
assert "pip install '.[lab]'" in ran.stderr, ran.stderr
assert lab.open_session
"""

ABSENT = """
import sys
library, *line = sys.argv[1:]
sys.modules[library] = None
from typer.testing import CliRunner
from trustwatch.api.cli.main import make_app
ran = CliRunner().invoke(make_app(), line)
assert ran.exit_code == 1, ran.output
assert f"`{line[0]}` is not available: import of {library} halted" in ran.stderr, ran.stderr
"""

COMMANDS = {command.name: command for command in installed_commands()}


def run_python(code: str, *arguments: str) -> str:
    """Run *code* in an interpreter of its own. Returns what it wrote to stderr."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("line", QUICK)
def test_help_and_refusals_wait_for_no_library_that_they_do_not_need(line: str) -> None:
    """Help of all commands or of one, and refused settings; each library here takes a tenth of a second and more."""
    loaded = run_python(WATCHED, *line.split()).split()

    assert "typer" in loaded
    assert not set(QUICK[line]) & set(loaded)


@pytest.mark.parametrize("name", COMMANDS)
def test_what_help_says_before_a_command_is_loaded_is_what_the_command_says(name: str) -> None:
    """Its first sentence; its panel is one of ours; and what is loaded has the name."""
    listed: LazyCommand = COMMANDS[name]
    loaded: Any = listed.load()

    assert loaded.name == name
    assert inspect.cleandoc(loaded.help).split("\n")[0] == listed.short_help
    assert listed.panel in list(CommandPanel)
    assert loaded.rich_help_panel == listed.panel


def test_a_command_whose_library_is_missing_says_so(tmp_path: Path) -> None:
    """And no other command notices; `serve` loads the service only after it has read the settings."""
    settings = tmp_path / "trustwatch.yaml"
    settings.write_text("settings_version: 2\n")

    run_python(ABSENT, "httpx2", "agents")
    run_python(ABSENT, "uvicorn", "serve", "--settings", str(settings))


def test_the_command_of_the_lab_is_there_without_its_extra() -> None:
    """`trustwatch --help` lists it, and it says what to install; a session can be opened."""
    run_python(HELP_WITHOUT_EXTRA)
