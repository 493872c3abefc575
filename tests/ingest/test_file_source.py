"""Events from files and streams."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from trustwatch.ingest.file_source import MAX_LINE_BYTES, FileSource, UnreadableFile
from trustwatch.ingest.record_keys import raw_id_hash
from trustwatch.ingest.source import Record, RecordKind


def lines(source: FileSource, max_records: int = 100) -> list[bytes]:
    found: list[bytes] = []
    while (batch := source.poll(max_records, 0)) is not None:
        assert batch.base_offset == len(found)
        found += [record.payload for record in batch.records]
    return found


def test_files_in_order_plain_and_packed(tmp_path: Path) -> None:
    """Blank lines are no records; missing line ends and byte order marks do not matter; gzip is known by content."""
    plain, packed, empty = tmp_path / "a.jsonl.gz", tmp_path / "b", tmp_path / "c"
    plain.write_bytes(b'\xef\xbb\xbf{"id":"1"}\r\n\n  \n{"id":"2"}')
    packed.write_bytes(gzip.compress(b'{"id":"3"}\n') + gzip.compress(b'{"id":"4"}\n\n'))
    empty.write_bytes(b"")
    source = FileSource([plain, empty, packed])
    batch = source.poll(1, 0)
    assert batch is not None
    assert batch.records == [Record(RecordKind.EVENT, raw_id_hash(b'{"id":"1"}'), 0, b'{"id":"1"}')]
    source.close()
    assert lines(FileSource([plain, empty, packed]), 3) == [b'{"id":"%d"}' % i for i in (1, 2, 3, 4)]


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_stream_is_read_once(pack: Callable[[bytes], bytes]) -> None:
    """A stream, packed too, has no size, and is not closed."""
    stream = io.BytesIO(pack(b"{}\n" * 5 + b'{"a":1}'))
    source = FileSource(stream)
    assert (lines(source, 1), source.total_bytes) == ([b"{}"] * 5 + [b'{"a":1}'], 0)
    source.close()
    assert not stream.closed


def test_a_pipe_is_read_as_it_comes() -> None:
    """A line in a pipe is handed out before the writer has closed it, and half a line is not."""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as stream, os.fdopen(write, "wb", buffering=0) as sender:
        source = FileSource(stream)
        sender.write(b'{"a":1}\n{"b"')
        batch = source.poll(1000, 0)
        assert batch is not None
        assert [record.payload for record in batch.records] == [b'{"a":1}']
        sender.write(b":2}\n")
        batch = source.poll(1000, 0)
        assert batch is not None
        assert [record.payload for record in batch.records] == [b'{"b":2}']
        source.close()


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    """Missing, damaged and truncated files, and files without lines, end in an error with the name or the reason."""
    with pytest.raises(UnreadableFile, match="missing"):
        FileSource([tmp_path / "missing"]).poll(1, 0)
    with pytest.raises(UnreadableFile, match="missing"):
        _ = FileSource([tmp_path / "missing"]).total_bytes
    packed = gzip.compress(os.urandom(5000).hex().encode())
    for name, content in (("cut", packed[:-30]), ("damaged", packed[:50] + b"!!!!" + packed[54:])):
        (tmp_path / name).write_bytes(content)
        source = FileSource([tmp_path / name])
        for _ in range(2):
            with pytest.raises(UnreadableFile, match=name):
                lines(source)
    (tmp_path / "long").write_bytes(b"x" * (MAX_LINE_BYTES + 1_000_000))
    with pytest.raises(UnreadableFile, match="JSON lines"):
        FileSource([tmp_path / "long"]).poll(1, 0)
