"""Write the tables of `docs/notebooks.md` from the code: `python -m scripts.write_notebook_docs`."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from trustwatch.lab.backtest_frames import BacktestFrames
from trustwatch.lab.facade import LabSession
from trustwatch.lab.frame_columns import COLUMN_DTYPES, FRAME_COLUMNS
from trustwatch.lab.model_frames import LabModel

NOTEBOOKS_PAGE = Path(__file__).parents[1] / "docs" / "notebooks.md"
_DOCUMENTED_CLASSES = (("lab", LabSession), ("model", LabModel), ("backtest", BacktestFrames))


def methods_table() -> str:
    """Every method with what it takes and its first sentence."""
    lines = ["| call | gives |", "|---|---|"]
    for name, kind in _DOCUMENTED_CLASSES:
        for method, function in _public_methods(kind):
            call = getattr(function, "__func__", function)
            if not method.startswith("_") and inspect.isfunction(call):
                told = (inspect.getdoc(call) or "").split("\n")[0]
                lines.append(f"| `{name}.{method}({_argument_list(call)})` | {told} |")
    return "\n".join(lines)


def _public_methods(kind: type) -> list[tuple[str, object]]:
    """Methods of a class and of what it is made of, in the order of the files."""
    found: dict[str, object] = {}
    for part in reversed(kind.__mro__[:-1]):
        found.update(vars(part))
    return list(found.items())


def _argument_list(function: object) -> str:
    """Names of the arguments, `…` for those that may be left out and are named."""
    assert callable(function)
    told = []
    for one in inspect.signature(function).parameters.values():
        if one.name == "self":
            continue
        if one.kind is inspect.Parameter.KEYWORD_ONLY and one.default is not inspect.Parameter.empty:
            told.append(f"{one.name}=")
        else:
            told.append(f"**{one.name}" if one.kind is inspect.Parameter.VAR_KEYWORD else one.name)
    return ", ".join(told)


def frames_tables() -> str:
    """Every frame with its columns."""
    parts = []
    for name, columns in FRAME_COLUMNS.items():
        parts += [f"### {name}", "", "| column | dtype | meaning |", "|---|---|---|"]
        parts += [f"| {one.name} | {COLUMN_DTYPES[one.kind]} | {one.meaning} |" for one in columns]
        parts.append("")
    return "\n".join(parts).rstrip()


def main() -> None:
    """Replace what stands between the headings."""
    page = NOTEBOOKS_PAGE.read_text(encoding="utf-8")
    page = re.sub(r"(?s)(## Calls\n\n).*?(\n\nPictures: )", lambda m: m[1] + methods_table() + m[2], page)
    page = re.sub(r"(?s)(NaN or NaT\.\n\n).*\Z", lambda m: m[1] + frames_tables() + "\n", page)
    NOTEBOOKS_PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
