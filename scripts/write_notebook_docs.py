"""Write `notebooks/frames.md` from the code: `python -m scripts.write_notebook_docs`."""

from __future__ import annotations

import inspect
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

FRAMES_PAGE = Path(__file__).resolve().parents[1] / "notebooks" / "frames.md"
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


def frames_page() -> str:
    """The page: calls, then frames."""
    return f"""# Calls and frames of the lab

Written by `python -m scripts.write_notebook_docs`; a test holds it to the code. How to use them is told in
[notebooks](../docs/notebooks.md).

## Calls

What reads the service takes the session first; everything else takes frames, a model, or the outcome of a back-test.

{calls_table()}

## Frames

Every frame has these columns, also where it has no rows. Names that repeat are categoricals, levels ordered ones.
Missing values are NA, NaN or NaT.

{frames_tables()}
"""


def main() -> None:
    """Write the page."""
    FRAMES_PAGE.write_text(frames_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
