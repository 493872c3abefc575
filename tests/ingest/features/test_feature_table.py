"""docs/features.md says what the code does: units and bytes."""

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


def test_features_docs_state_the_range_of_each_unit() -> None:
    """All features of a unit have one range."""
    ranges = {(f.unit, f.low, f.high) for f in FEATURES}

    assert len(ranges) == len({unit for unit, _, _ in ranges})
    assert [
        f"`{unit}` ({low:g} to {high:g})"
        for unit, low, high in ranges
        if f"`{unit}` ({low:g} to {high:g})" not in DOCUMENT
    ] == []


def test_features_docs_state_bytes_per_agent() -> None:
    """The bytes of one agent are those of the layout and of the arrays."""
    state = layout.allocate_state(3)

    assert sum(array.nbytes for array in state) == 3 * layout.BYTES_PER_AGENT
    assert f"**{layout.BYTES_PER_AGENT:,} bytes**" in DOCUMENT


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
