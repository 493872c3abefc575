"""The command line waits for nothing that a command does not need, and works without extras."""

from __future__ import annotations

import subprocess
import sys

HELP_WITHOUT_EXTRA = """
import sys
sys.modules["pandas"] = sys.modules["matplotlib"] = None
from typer.testing import CliRunner
from trustwatch.api.cli.main import make_app
from trustwatch import lab
help, ran = (CliRunner().invoke(make_app(), arguments) for arguments in (["--help"], ["lab"]))
assert help.exit_code == 0, help.output
assert "notebooks in JupyterLab" in help.output, help.output
assert ran.exit_code != 0
assert "pip install 'trustwatch[lab]'" in ran.stderr, ran.stderr
assert lab.open_session
"""


def run_python(code: str) -> None:
    """Run *code* in an interpreter of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_commands_are_loaded_when_the_command_line_is_made() -> None:
    """Importing it loads no optional package, so that one that can not be loaded is told by its error."""
    optional = ("trustwatch.lab", "trustwatch.simulator", "pandas", "matplotlib")
    run_python(
        "import sys, trustwatch.api.cli.main\n"
        f"loaded = [name for name in sys.modules if name.startswith({optional})]\n"
        "assert not loaded, loaded"
    )


def test_no_command_waits_for_pandas_to_be_imported() -> None:
    """All commands together import neither it nor matplotlib."""
    run_python(
        "import sys\n"
        "from trustwatch.api.cli.main import make_app\n"
        "make_app()\n"
        "assert 'trustwatch.lab.commands' in sys.modules\n"
        "assert not {'pandas', 'matplotlib'} & sys.modules.keys()"
    )


def test_the_command_of_the_lab_is_there_without_its_extra() -> None:
    """`trustwatch --help` lists it, and it says what to install; a session can be opened."""
    run_python(HELP_WITHOUT_EXTRA)
