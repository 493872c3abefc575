"""`trustwatch lab`: analysts' notebooks on the data of a service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trustwatch.api.cli.terminal import fail, print_message, write_json

from .session import EXTRA_MISSING, is_extra_installed


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
    json: Annotated[bool, typer.Option("--json", help="with --run: print one JSON document on stdout")] = False,
) -> None:
    """Open the notebooks in JupyterLab (loopback, with a token); they change nothing. Needs the extra `lab`."""
    if settings is not None and example is not None:
        raise typer.BadParameter("--settings and --example exclude each other", param_hint="--example")
    if not is_extra_installed():
        raise fail(EXTRA_MISSING)
    from . import notebook_runner  # what it needs, and the simulator, no other command waits for
    from .example_data import prepare_example

    books = notebook_runner.find_notebooks(notebooks)
    if example is not None:
        settings = prepare_example(example, print_message)
    settings = None if settings is None else settings.absolute()
    if run is None:
        raise typer.Exit(notebook_runner.start_jupyterlab(notebooks, settings, browser))
    runs = notebook_runner.run_notebooks(books, settings, run, print_message)
    if json:
        write_json({"folder": str(run.absolute()), "notebooks": [book._asdict() for book in runs]})
    if any(book.error for book in runs):
        raise typer.Exit(1)
    if not json:
        print_message(f"executed copies: {run.absolute()}")
