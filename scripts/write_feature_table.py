"""Write the tables of `docs/features.md` from the code: `python -m scripts.write_feature_table`."""

from __future__ import annotations

from pathlib import Path

from trustwatch.ingest.features.feature_table import FEATURES

BEGIN = "<!-- table: begin (generated from ingest/features/feature_table.py by scripts/write_feature_table.py) -->"
END = "<!-- table: end -->"
DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "features.md"


def rendered() -> str:
    """The feature table in Markdown."""
    lines = ["| # | feature | family | unit | range | meaning |", "|---|---|---|---|---|---|"]
    for number, f in enumerate(FEATURES):
        lines.append(f"| {number} | `{f.name}` | {f.family} | {f.unit} | {f.low:g} to {f.high:g} | {f.meaning} |")
    return "\n".join(lines)


def main() -> None:
    """Put the table between its markers."""
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{rendered()}\n{END}{after}")


if __name__ == "__main__":
    main()
