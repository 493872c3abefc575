"""Writes the tables of docs/notebooks.md anew, between their headings. Run after a change of `api/lab`."""

from __future__ import annotations

import re
from pathlib import Path

from trustwatch.scripts.write_notebook_docs import frames_tables, methods_table

NOTEBOOKS_PAGE = Path(__file__).parents[1] / "docs" / "notebooks.md"


def main() -> None:
    """Replace what stands between the headings."""
    page = NOTEBOOKS_PAGE.read_text(encoding="utf-8")
    page = re.sub(r"(?s)(## Calls\n\n).*?(\n\nPictures: )", lambda m: m[1] + methods_table() + m[2], page)
    page = re.sub(r"(?s)(NaN or NaT\.\n\n).*\Z", lambda m: m[1] + frames_tables() + "\n", page)
    NOTEBOOKS_PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
