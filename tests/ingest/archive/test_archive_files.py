"""How far an archive goes: of the embedded log, and of the partitions of a topic."""

from __future__ import annotations

from pathlib import Path

import pytest

from trustwatch.ingest.archive.archive_files import (
    POSITION_FILE,
    data_files,
    file_name,
    parse_file_name,
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


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"offset": "x"}', '{"topic": "t"}', '{"topic": "t", "offsets": [1]}']
)
def test_what_says_nothing_is_refused(tmp_path: Path, text: str) -> None:
    """With what to do."""
    (tmp_path / POSITION_FILE).write_text(text)
    with pytest.raises(CorruptLog, match="restore it, or move the archive away"):
        read_positions(tmp_path)


def test_names_tell_what_is_in_a_file(tmp_path: Path) -> None:
    """Other files are nobody's, and a file within another's range was merged into it; partitions do not mix."""
    folder = tmp_path / "date=2025-12-01" / "tenant=a"
    folder.mkdir(parents=True)
    for partition, first, end in ((None, 0, 10), (None, 0, 4), (None, 4, 10), (None, 10, 12), (2, 3, 5), (2, 5, 9)):
        (folder / file_name("events", partition, first, end)).touch()
    (folder / "events-1-2.parquet").touch()
    (folder / (file_name("events", None, 20, 30) + ".tmp")).touch()
    found = [(file.partition, file.first, file.end) for file in data_files(tmp_path)]
    assert found == [(0, 0, 10), (0, 10, 12), (2, 3, 5), (2, 5, 9)]
    one = parse_file_name(folder / file_name("vectors", 12, 1, 2))
    assert one is not None and (one.kind, one.partition, one.day.isoformat()) == ("vectors", 12, "2025-12-01")
    assert one.tenant_folder == "tenant=a"
