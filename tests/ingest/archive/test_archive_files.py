"""How far an archive goes: of the embedded log, and of the partitions of a topic."""

from __future__ import annotations

from pathlib import Path

import pytest

from trustwatch.ingest.archive.archive_files import (
    POSITION_FILE,
    read_position,
    read_positions,
    write_positions,
)
from trustwatch.ingest.errors import CorruptLog


def test_positions_come_back(tmp_path: Path) -> None:
    """Each archive is of one log, and says of which."""
    assert read_position(tmp_path) is None and read_positions(tmp_path, "") is None
    write_positions(tmp_path, "", {0: 7})
    assert read_position(tmp_path) == 7 and read_positions(tmp_path) == read_positions(tmp_path, "") == {0: 7}
    assert (tmp_path / POSITION_FILE).read_text() == '{"offset": 7}'
    with pytest.raises(CorruptLog, match="of an embedded log, not of the topic events"):
        read_positions(tmp_path, "events")
    write_positions(tmp_path, "events", {3: 5, 11: 2**40})
    assert read_positions(tmp_path, "events") == {3: 5, 11: 2**40}
    assert read_position(tmp_path) is None
    with pytest.raises(CorruptLog, match="of the topic events, not of an embedded log"):
        read_positions(tmp_path, "")
