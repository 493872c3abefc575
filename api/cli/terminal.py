"""Output of the commands: messages and progress on stderr, results on stdout, errors as one line and a status."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from ...ingest.printable_text import escaped_json, escaped_text

JsonOption = Annotated[bool, typer.Option("--json", help="print JSON on stdout")]
SettingsFileOption = Annotated[
    Path | None, typer.Option("--settings", help="settings file; default: $TRUSTWATCH_SETTINGS")
]

stderr_console = Console(stderr=True, highlight=False)
"""Messages go to stderr, so that stdout holds nothing but results."""


def is_decorated() -> bool:
    """True where people read stdout on a terminal that may show colours and frames; else all of it is plain text."""
    console = Console()
    return console.is_terminal and not console.no_color


def print_message(text: str) -> None:
    """One message on stderr."""
    stderr_console.print("\n".join(map(escaped_text, text.split("\n"))), markup=False, soft_wrap=True)


def write_line(text: str) -> None:
    """One line of a result on stdout."""
    sys.stdout.write(escaped_text(text) + "\n")


def write_json(value: Any) -> None:
    """One JSON value as a line on stdout: exact where a program reads it, and nothing to obey on a terminal."""
    text = json.dumps(value, ensure_ascii=False)
    sys.stdout.write((escaped_json(text) if sys.stdout.isatty() else text) + "\n")


def print_summary(summary: dict[str, Any], as_json: bool, text: str) -> None:
    """End long work: one JSON value on stdout, or *text* filled in on stderr, and what was not as it should be."""
    if as_json:
        write_json(summary)
        return
    print_message(text.format(**summary))
    for problem in ("malformed", "mended", "duplicates", "late"):
        if summary.get(problem):
            print_message(f"{problem}: {summary[problem]}")


def fail(error: Exception | str) -> typer.Exit:
    """Say what went wrong; raise the result: it ends the command with status 1."""
    code = getattr(error, "code", None)
    print_message(f"trustwatch: {error}" + (f" [{code}]" if code else ""))
    return typer.Exit(1)


@contextmanager
def byte_progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar in bytes on stderr (none where stderr is no terminal); yields what to call with the bytes done."""
    columns = (TextColumn("{task.description}"), BarColumn(), TransferSpeedColumn(), TimeElapsedColumn())
    with Progress(*columns, console=stderr_console, transient=True, disable=not stderr_console.is_terminal) as progress:
        task = progress.add_task(label, total=total or None)
        yield lambda done: progress.update(task, completed=done)


@contextmanager
def stage_progress() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar over named stages on stderr; yields what to call with stage, done and total."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=stderr_console, transient=True, disable=not stderr_console.is_terminal) as progress:
        task = progress.add_task("starting", total=None)
        yield lambda stage, done, total: progress.update(task, description=stage, completed=done, total=total)


def write_table(rows: list[dict[str, Any]], columns: dict[str, str]) -> None:
    """A plain table on stdout; *columns* maps members to headings."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for heading in columns.values():
        grid.add_column(heading, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(escaped_text(str(row.get(member, "")))) for member in columns))
    Console(highlight=False).print(grid)
