"""`trustwatch init`: a first settings file with comments."""

from __future__ import annotations

import shlex
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from trustwatch.ingest.durable_files import write_file_atomically
from trustwatch.ingest.errors import ConfigError

from ..cli.terminal import fail, print_message


def init(
    file: Annotated[Path, typer.Argument(help="settings file to write")] = Path("trustwatch.yaml"),
) -> None:
    """Write a first settings file with comments: a trial on one machine, and what a deployment may need."""
    if file.exists():
        raise fail(ConfigError(f"{file} exists already: remove it, or name another file"))
    content = files(__package__).joinpath("first_settings.yaml").read_bytes()
    write_file_atomically(file, content, mode=0o600)  # a symbolic link there is replaced, never followed
    print_message(f"wrote {file}")
    print_message("next:")
    for step in (
        f"export TRUSTWATCH_SETTINGS={shlex.quote(str(file.absolute()))}",
        "trustwatch serve",
        "trustwatch token    # signs in programs; trustwatch console-link signs you in",
    ):
        print_message(f"  {step}")
