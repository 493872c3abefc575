"""Write the tables of `docs/notebooks.md` from the code: `python -m scripts.write_notebook_docs`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trustwatch.lab import (
    LabSession,
    backtest_frames,
    behaviour_frames,
    event_frames,
    frames,
    model_frames,
    score_frames,
    store_frames,
)
from trustwatch.lab.frame_columns import COLUMN_DTYPES, FRAME_COLUMNS

NOTEBOOKS_PAGE = Path(__file__).resolve().parents[1] / "docs" / "notebooks.md"
FRAME_MODULES = (store_frames, event_frames, behaviour_frames, score_frames, model_frames, backtest_frames)
"""In the order in which the page tells of them."""


def calls_table() -> str:
    """Every call with what it takes and its first sentence."""
    lines = ["| call | gives |", "|---|---|"]
    for name, function in _calls():
        description = (inspect.getdoc(function) or "").split("\n")[0]
        lines.append(f"| `{name}({_argument_list(function)})` | {description} |")
    return "\n".join(lines)


def _calls() -> Iterator[tuple[str, Callable[..., Any]]]:
    """What an analyst calls: two methods of the session, then the frames in the order of their modules."""
    yield "session.model", LabSession.model
    yield "session.close", LabSession.close
    for module in FRAME_MODULES:
        for name, value in vars(module).items():
            if name in frames.__all__ and value.__module__ == module.__name__:
                yield f"frames.{name}", value


def _argument_list(function: Callable[..., Any]) -> str:
    """Names of the arguments; `=` for those that may be left out and are named."""
    names = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "self":
            continue
        named = parameter.kind is inspect.Parameter.KEYWORD_ONLY and parameter.default is not inspect.Parameter.empty
        names.append(f"{parameter.name}=" if named else parameter.name)
    return ", ".join(names)


def frames_tables() -> str:
    """Every frame with its columns."""
    lines = []
    for name, columns in FRAME_COLUMNS.items():
        lines += [f"### {name}", "", "| column | dtype | meaning |", "|---|---|---|"]
        lines += [f"| {column.name} | {COLUMN_DTYPES[column.kind]} | {column.meaning} |" for column in columns]
        lines.append("")
    return "\n".join(lines).rstrip()


def main() -> None:
    """Replace the tables between their headings."""
    page = NOTEBOOKS_PAGE.read_text(encoding="utf-8")
    page = re.sub(r"(?s)(## Calls\n\n).*?(\n\nCharts: )", lambda match: match[1] + calls_table() + match[2], page)
    page = re.sub(r"(?s)(NaN or NaT\.\n\n).*\Z", lambda match: match[1] + frames_tables() + "\n", page)
    NOTEBOOKS_PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
