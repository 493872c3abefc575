"""docs/features.md says what the code does: the table and the bytes."""

from __future__ import annotations

import re

from trustwatch.ingest.features import layout
from trustwatch.ingest.features.feature_table import (
    FEATURE_COUNT,
    FEATURE_INDEX,
    FEATURE_NAMES,
    FEATURES,
    feature_table_hash,
)

from ...support.checkout import DOCS

DOCUMENT = (DOCS / "features.md").read_text()


def test_features_docs_hold_the_table() -> None:
    """Every feature is documented in order: family, unit, range, meaning; run scripts/write_feature_table.py."""
    section = DOCUMENT.split("<!-- table: begin")[1].split("<!-- table: end")[0]
    lines = [line for line in section.splitlines() if re.match(r"\| \d", line)]

    assert lines == [
        f"| {n} | `{f.name}` | {f.family} | {f.unit} | {f.low:g} to {f.high:g} | {f.meaning} |"
        for n, f in enumerate(FEATURES)
    ]


def test_features_docs_state_bytes_per_agent() -> None:
    """The bytes of one agent, as a whole and by part, are those of the layout and of the arrays."""
    state = layout.allocate_state(3)
    assert layout.STATE_ROW.names is not None and layout.STATE_ROW.fields is not None

    assert sum(array.nbytes for array in state) == 3 * layout.BYTES_PER_AGENT
    assert f"**{layout.BYTES_PER_AGENT:,} bytes**" in DOCUMENT
    for name in layout.STATE_ROW.names:
        assert f"| `{name}` | {layout.STATE_ROW.fields[name][0].itemsize} |" in DOCUMENT


def test_features_docs_state_the_bounds() -> None:
    """Regions, entries, sessions and tokens are as many as the document says."""
    assert (layout.REGION_SIZE, layout.TABLE_SIZE) == (64, 320)
    assert (layout.SESSIONS, layout.SESSION_TABLE, layout.REVOKED_TOKENS) == (4, 12, 4)
    assert layout.REMEMBERED_CALLS == 64


def test_features_have_one_place() -> None:
    """Names are unique, positions are those of the table, and its digest is a fact of it alone."""
    assert len(set(FEATURE_NAMES)) == FEATURE_COUNT == len(FEATURES)
    assert [FEATURE_INDEX[name] for name in FEATURE_NAMES] == list(range(FEATURE_COUNT))
    assert re.fullmatch(r"[0-9a-f]{32}", feature_table_hash())
