"""Write the list in `docs/features.md` from the code: `python -m scripts.write_feature_table`."""

from __future__ import annotations

import textwrap
from pathlib import Path

from trustwatch.ingest.features.feature_table import FEATURES

BEGIN = "<!-- table: begin (generated from ingest/features/feature_table.py by scripts/write_feature_table.py) -->"
END = "<!-- table: end -->"
DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "features.md"


def rendered() -> str:
    """The features as a Markdown list, lines of at most 120 characters."""
    items = (f"- `{f.name}` ({number}, {f.family}, {f.unit}): {f.meaning}" for number, f in enumerate(FEATURES))
    return "\n".join(
        textwrap.fill(item, 120, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        for item in items
    )


def main() -> None:
    """Put the table between its markers."""
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{rendered()}\n{END}{after}")


if __name__ == "__main__":
    main()
