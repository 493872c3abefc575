"""The command `trustwatch`: all commands in one place."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from trustwatch.ingest.errors import TrustwatchError

from ..file_access import restrict_new_files
from .lazy_commands import LazyGroup
from .terminal import fail, is_decorated, write_line


def make_app(group: type[LazyGroup] = LazyGroup) -> typer.Typer:
    """Make the command line of all commands that are installed, those of other packages included."""
    app = typer.Typer(
        name="trustwatch",
        cls=group,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich" if is_decorated() else None,
    )
    app.callback()(_show_version_or_go_on)
    return app


class _ProgramGroup(LazyGroup):
    """The command line as a separate process: its commands log to stderr."""

    def before_command(self) -> None:
        from ..structured_logs import configure_structured_logs  # help does not wait for it

        configure_structured_logs()


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
    try:
        restrict_new_files()
        make_app(_ProgramGroup)()
    except TrustwatchError as error:
        raise SystemExit(fail(error).exit_code) from None
    except BrokenPipeError:
        # The reader of our output (`head`) has enough; print nothing, and flush nothing into the closed pipe.
        sys.stderr.close()
        raise SystemExit(1) from None
    except OSError as error:  # such as a full disk, which the operator must fix
        raise SystemExit(
            fail(f"{error.filename}: {error.strerror}" if error.filename else str(error)).exit_code
        ) from None
