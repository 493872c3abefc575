"""`trustwatch lab`: analysts' notebooks on what a service knows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..api.cli.terminal import fail, print_message


def lab_command(
    settings: Annotated[
        Path | None, typer.Option(help="settings file of the service; default: $TRUSTWATCH_SETTINGS")
    ] = None,
    example: Annotated[
        Path | None, typer.Option(help="begin with the example instead: made in this folder, once (about a minute)")
    ] = None,
    notebooks: Annotated[Path, typer.Option(help="folder of notebooks")] = Path("notebooks"),
    run: Annotated[
        Path | None, typer.Option(help="do not open them, but run them all; executed copies and HTML pages go there")
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="open a browser")] = True,
) -> None:
    """Open the notebooks in JupyterLab (loopback, with a token); they change nothing. Needs the extra `lab`."""
    if settings is not None and example is not None:
        raise typer.BadParameter("--settings and --example exclude each other", param_hint="--example")
    try:
        from . import notebook_runner
        from .example_data import prepare_example
    except ImportError as error:
        raise fail(str(error)) from None
    found = notebook_runner.find_notebooks(notebooks)
    if example is not None:
        settings = prepare_example(example, print_message)
    settings = None if settings is None else settings.absolute()
    if run is None:
        raise typer.Exit(notebook_runner.start_jupyterlab(notebooks, settings, browser))
    ran = notebook_runner.run_notebooks(found, settings, run, print_message)
    if any(one.error for one in ran):
        raise typer.Exit(1)
    print_message(f"executed copies: {run.absolute()}")


def register(app: typer.Typer) -> None:
    """Add `lab` to the command line."""
    app.command("lab")(lab_command)
