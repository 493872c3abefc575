"""Write the list in `docs/metrics.md` from the code: `python -m scripts.write_metric_list`."""

from __future__ import annotations

import textwrap
from pathlib import Path

from trustwatch.api.http.metric_table import METRICS

BEGIN = "<!-- metrics: begin (generated from api/http/metric_table.py by scripts/write_metric_list.py) -->"
END = "<!-- metrics: end -->"
DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "metrics.md"


def rendered() -> str:
    """Every metric in the order of the table: name, kind, unit, labels, meaning; lines of at most 120 characters."""
    items = (
        f"- `{metric.name}` ({metric.kind.removeprefix('observed ')}, {metric.unit}"
        f"{''.join(f', `{label}`' for label in metric.labels)}): {metric.meaning}"
        for metric in METRICS
    )
    return "\n".join(
        textwrap.fill(item, 120, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        for item in items
    )


def main() -> None:
    """Put the list between its markers."""
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{rendered()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
