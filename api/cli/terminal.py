"""Output of the commands: messages and progress on stderr, results on stdout, errors as one line and a status."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from trustwatch.ingest.printable_text import escaped_json, escaped_text, number_text

JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON document on stdout")]
JsonLinesOption = Annotated[bool, typer.Option("--json", help="print JSON lines on stdout: one object a row")]
SettingsFileOption = Annotated[
    Path | None, typer.Option("--settings", help="settings file; default: $TRUSTWATCH_SETTINGS")
]

_BETWEEN_COLUMNS = 2
_LEAST_PROSE = 20
"""Columns of prose are folded to no less, in characters."""

stderr_console = Console(stderr=True, highlight=False)
"""Messages go to stderr, so that stdout holds nothing but results."""


_SECONDS_OF_UNIT = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd])")


def parse_duration(text: str, option: str) -> int:
    """Seconds of a time such as `14d`, `12h`, `30m`, `90s`. Raises BadParameter, which names the *option*.

    >>> parse_duration("1.5h", "--for")
    5400
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise typer.BadParameter("must be a number and s, m, h or d, such as 14d", param_hint=option)
    return round(float(match[1]) * _SECONDS_OF_UNIT[match[2]])


def is_decorated() -> bool:
    """True if stdout is a terminal that may show colors and frames; else all output is plain text."""
    console = Console()
    return console.is_terminal and not console.no_color


def print_message(text: str) -> None:
    """One message on stderr."""
    stderr_console.print("\n".join(map(escaped_text, text.split("\n"))), markup=False, soft_wrap=True)


def print_event(text: str, **values: object) -> None:
    """One message on stderr, with values by name as a log line has them."""
    print_message(text + (f" ({', '.join(f'{name}: {value}' for name, value in values.items())})" if values else ""))


def write_line(text: str) -> None:
    """One line of a result on stdout."""
    sys.stdout.write(escaped_text(text) + "\n")


def write_json(value: Any) -> None:
    """One JSON value as a line on stdout: exact for programs, without control characters on a terminal."""
    text = json.dumps(value, ensure_ascii=False)
    sys.stdout.write((escaped_json(text) if sys.stdout.isatty() else text) + "\n")


def print_summary(summary: dict[str, Any], as_json: bool, text: str) -> None:
    """End long work: one JSON value on stdout, or *text* filled in on stderr, and what was not as it should be."""
    if as_json:
        write_json(summary)
        return
    print_message(text.format(**{name: readable(value) for name, value in summary.items()}))
    for problem in ("malformed", "mended", "duplicates", "late"):
        if summary.get(problem):
            print_message(f"{problem}: {readable(summary[problem])}")


def fail(error: Exception | str) -> typer.Exit:
    """Report what went wrong; raise the result to end the command with status 1."""
    code = getattr(error, "code", None)
    print_message(f"trustwatch: {error}" + (f" [{code}]" if code else ""))
    return typer.Exit(1)


def not_available(command: str, error: ImportError) -> typer.Exit:
    """Report which library a command lacks; raise the result."""
    return fail(f"`{command}` is not available: {error}")


def _progress(measure: ProgressColumn) -> Progress:
    """Return a progress bar on stderr, which only a terminal shows."""
    columns = (TextColumn("{task.description}"), BarColumn(), measure, TimeElapsedColumn())
    return Progress(*columns, console=stderr_console, transient=True, disable=not stderr_console.is_terminal)


@contextmanager
def byte_progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar in bytes; yields a function that takes the number of bytes done."""
    with _progress(TransferSpeedColumn()) as progress:
        task = progress.add_task(label, total=total or None)
        yield lambda done: progress.update(task, completed=done)


@contextmanager
def stage_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show a progress bar over named stages; yields a function that takes stage, done and total."""
    with _progress(MofNCompleteColumn()) as progress:
        task = progress.add_task("starting", total=None)
        yield lambda stage, done, total: progress.update(task, description=stage, completed=done, total=total)


def write_json_lines(rows: Iterable[Any]) -> None:
    """JSON values on stdout, a line each, as they come."""
    for row in rows:
        write_json(row)


def readable(value: Any) -> str:
    """A value as people read it: numbers in groups of three, fractions to three digits, nothing for None.

    >>> readable(1234567), readable(0.98765), readable(None), readable(["a", "b"])
    ('1,234,567', '0.988', '', 'a, b')
    """
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(map(readable, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {readable(part)}" for name, part in value.items())
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return number_text(value)
    return str(value)


def heading(name: str) -> str:
    """Heading of a member.

    >>> heading("last_seen_at"), heading("agent_id")
    ('last seen', 'agent')
    """
    return name.removesuffix("_id").removesuffix("_at").replace("_", " ")


def write_members(value: dict[str, Any], *, brief: bool = False, indent: str = "") -> None:
    """Members of a JSON object on stdout, a line each, and lists of objects below them; *brief* leaves out objects."""
    for name, member in value.items():
        if member is None or member in ("", [], {}):
            continue
        is_list = isinstance(member, list) and isinstance(member[0], dict)
        if not is_list and not isinstance(member, dict):
            write_line(f"{indent}{heading(name)}: {readable(member)}")
        elif not brief:
            write_line(f"{indent}{heading(name)}:")
            if is_list:
                _write_items(member, indent + "  ")
            else:
                write_members(member, indent=indent + "  ")


_OF_DECISIONS = ("decided_at", "previous_level", "level", "concern", "mode", "reason", "decision_id")
"""Columns of decisions: of all members a table would be wider than a screen, and reasons are what people look for."""


def _write_items(items: list[dict[str, Any]], indent: str) -> None:
    """Write objects of a list: their texts, or a table of their plain members."""
    if "text" in items[0]:
        for item in items:
            before = (item[name] for name in ("at", "agent_id", "by", "name") if item.get(name))
            write_line(f"{indent}- {' '.join((*before, item['text']))}")
        return
    flat = [
        {name: value for name, value in item.items() if not isinstance(value, dict) and value not in (None, "", [])}
        for item in items
    ]
    columns = dict.fromkeys(name for item in flat for name in item if not isinstance(item[name], list))
    if any("reasons" in item for item in flat):
        flat = [{**item, "reason": item["reasons"][0]["text"] if item.get("reasons") else ""} for item in flat]
        columns = dict.fromkeys(name for name in _OF_DECISIONS if any(name in item for item in flat))
    write_table(flat, {name: heading(name) for name in columns}, prose=tuple(columns)[1:])


def write_table(rows: list[dict[str, Any]], columns: dict[str, str], prose: Collection[str] = ()) -> None:
    """A table on stdout; *columns* maps members to headings.

    Only the columns of *prose* are folded, and only on a terminal: an id or a time stays in one piece. If stdout is not
    a terminal, the table is plain text, one line for each row however long it is.
    """
    cells = [[escaped_text(readable(row.get(member))) for member in columns] for row in rows]
    lines = [list(columns.values()), *cells]
    widths = {member: max(map(cell_len, texts)) for member, *texts in zip(columns, *lines, strict=True)}
    if not is_decorated():
        for line in lines:
            padded = (text + " " * (width - cell_len(text)) for text, width in zip(line, widths.values(), strict=True))
            sys.stdout.write("  ".join(padded).rstrip() + "\n")
        return
    grid = Table(box=None, pad_edge=False, header_style="bold")
    least = {member: min(width, _LEAST_PROSE) if member in prose else width for member, width in widths.items()}
    for member, title in columns.items():
        grid.add_column(title, overflow="fold", no_wrap=member not in prose, min_width=least[member])
    for row in cells:
        grid.add_row(*map(Text, row))
    console = Console(highlight=False)
    # A terminal breaks lines that are too long for it; rich would leave whole columns out.
    console.width = max(console.width, sum(least.values()) + _BETWEEN_COLUMNS * len(least))
    console.print(grid, crop=False)
