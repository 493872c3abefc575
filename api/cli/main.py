"""The command `trustwatch`: all commands in one place."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points, version
from typing import Annotated

import structlog
import typer

from ...ingest.errors import TrustwatchError
from ..data_at_rest import restrict_new_files
from ..structured_logs import configure_structured_logs
from .terminal import fail, print_message, write_line

COMMANDS_GROUP = "trustwatch.commands"
"""Entry points that add commands: each is a function that takes the application."""


def make_app() -> typer.Typer:
    """Make the command line of all commands that are installed, those of other packages included.

    A package of commands whose requirements are not installed is left out; its name and what it misses go to stderr.
    """
    app = typer.Typer(
        name="trustwatch",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_show_version_or_go_on)
    for entry in sorted(entry_points(group=COMMANDS_GROUP), key=lambda entry: entry.name):
        try:
            register = entry.load()
        except ImportError as error:
            print_message(f"commands of `{entry.name}` are not available: {error}")
            continue
        register(app)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        write_line(f"trustwatch {version('trustwatch')}")
        raise typer.Exit


def _show_version_or_go_on(
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="print the version, and end")
    ] = False,
) -> None:
    """Continuous trust for AI agents: audit events in, explained and calibrated risk out."""


def main() -> None:
    """Entry point of the `trustwatch` script."""
    configure_structured_logs()
    try:
        restrict_new_files()
        make_app()()
    except TrustwatchError as error:
        raise SystemExit(_exit_status(error)) from None
    except BrokenPipeError:
        # The reader of our output (`head`) has enough; say nothing, and let nothing be flushed into the closed pipe.
        sys.stderr.close()
        raise SystemExit(1) from None
    except OSError as error:  # a file that can not be written, a full disk: the operator's to mend, not ours
        raise SystemExit(
            fail(f"{error.filename}: {error.strerror}" if error.filename else str(error)).exit_code
        ) from None


def _exit_status(error: TrustwatchError) -> int:
    structlog.get_logger(__name__).debug("command failed", code=error.code)
    return fail(error).exit_code
