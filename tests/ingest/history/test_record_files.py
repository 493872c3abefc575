"""Files are recognised by what they hold: packing, shape, and what is none of it."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from trustwatch.ingest.archive.archive_files import POSITION_FILE
from trustwatch.ingest.errors import ConfigError, MalformedEvent
from trustwatch.ingest.file_source import UnreadableFile
from trustwatch.ingest.history.record_files import log_files, recognise_file, require_files, row_record

RECORDS = [{"a": 1, "b": "x"}, {"a": 2, "b": "y, z"}]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()


def zstd(raw: bytes) -> bytes:
    """Two frames, as `cat` makes them of two files."""
    arrow = pytest.importorskip("pyarrow")
    half = len(raw) // 2
    return b"".join(arrow.Codec("zstd").compress(part, asbytes=True) for part in (raw[:half], raw[half:]))


def parsed(path: Path) -> list[Any]:
    """Records of a file; reasons where there is none."""
    return [
        record.reason if isinstance(record, MalformedEvent) else json.loads(record)
        for record in recognise_file(path).records()
    ]


@pytest.mark.parametrize(
    ("made", "cutting"),
    [
        (lambda: LINES, "lines"),
        (lambda: b"\xef\xbb\xbf" + LINES, "lines"),
        (lambda: b"\n\n" + LINES.replace(b"\n", b"\r\n"), "lines"),
        (LINES.rstrip, "lines"),
        (lambda: json.dumps(RECORDS, indent=1).encode(), "json"),
        (lambda: json.dumps({"Records": RECORDS}).encode(), "json"),
        (lambda: json.dumps({"items": RECORDS}, indent=1).encode(), "json"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd])
def test_records_come_out_of_every_shape_and_packing(
    tmp_path: Path, made: Callable[[], bytes], cutting: str, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(pack(made()))

    assert recognise_file(path).cutting == cutting
    assert parsed(path) == RECORDS


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_rows_of_a_csv_are_objects(tmp_path: Path, delimiter: str) -> None:
    """Quoted cells may hold anything; empty ones are left out; a row of another length is told."""
    path = tmp_path / "export.csv"
    rows = [["at", "who.id", "note"], ["1", "me", '"two\nlines, and ""more"""'], ["2", "you", ""], ["3", "x"]]
    path.write_text("\r\n".join(delimiter.join(row) for row in rows) + "\r\n")

    assert parsed(path) == [
        {"at": "1", "who.id": "me", "note": 'two\nlines, and "more"', "who": {"id": "me"}},
        {"at": "2", "who.id": "you", "who": {"id": "you"}},
        "the row has 2 cells, the header 3",
    ]


def test_a_cell_beyond_every_bound_is_told(tmp_path: Path) -> None:
    """A quote that nobody closed takes the rest of the file."""
    path = tmp_path / "export.csv"
    path.write_bytes(b'"' + b"x" * (csv.field_size_limit() + 1))
    with pytest.raises(UnreadableFile, match="its first line is not a header"):
        parsed(path)


def test_cells_are_values() -> None:
    """JSON in a cell is an object, a time without an offset is UTC, and a column never hides another one."""
    row = {"at": datetime(2026, 3, 2), "o": '{"x": [1]}', "no": "{x", "a": "b", "a.c": "d", "n": None}  # noqa: DTZ001
    assert json.loads(row_record(row)) == {
        "at": "2026-03-02T00:00:00Z",
        "o": {"x": [1]},
        "no": "{x",
        "a": "b",
        "a.c": "d",
    }


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (gzip.compress(LINES, mtime=0)[:-12], "end-of-stream"),
        (gzip.compress(LINES, mtime=0) + b"more", "Not a gzipped file"),
        (json.dumps({"Records": RECORDS})[:-9].encode(), ", record 1: the file ends in the middle of it"),
        (bytes(range(256)), "neither text in UTF-8 nor gzip"),
        (b"a\0b\n", "neither text in UTF-8 nor gzip"),
        (LINES.decode().encode("utf-16"), "UTF-16: write it as UTF-8"),
        (b"PK\x03\x04...", "a zip archive: unpack it first"),
        (b"1,2\n3,4\n", "its first line is not a header"),
        (b"a,a\n3,4\n", "its first line is not a header"),
    ],
)
def test_what_can_not_be_read_is_told(tmp_path: Path, content: bytes, told: str) -> None:
    """With the name of the file, and what to do."""
    path = tmp_path / "log.csv"
    path.write_bytes(content)
    with pytest.raises(UnreadableFile, match=f"log.csv.*({told})"):
        parsed(path)


def test_a_few_bytes_that_are_no_text_are_the_fault_of_their_record(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(LINES + b'{"a": "\xff\xfe"}\n')
    assert len(list(recognise_file(path).records())) == 3
    path.write_bytes(bytes(range(1, 256)) * 9)
    with pytest.raises(UnreadableFile, match="neither text in UTF-8 nor gzip"):
        recognise_file(path)


def test_a_zstd_file_that_is_cut_off_is_told(tmp_path: Path) -> None:
    path = tmp_path / "log.zst"
    path.write_bytes(zstd(LINES)[:-3])
    with pytest.raises(UnreadableFile, match=r"log.zst: .*[Tt]runcated"):
        parsed(path)


def test_a_folder_gives_its_logs(tmp_path: Path) -> None:
    """All below it, in the order of their paths; not what is hidden, nor what no log is called."""
    for name in ("b/2.json.gz", "b/1.jsonl", "a.LOG", "b/.hidden.json", ".git/x.json", "README.md", "x.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in log_files(tmp_path)] == [
        "a.LOG",
        "b/1.jsonl",
        "b/2.json.gz",
    ]
    for name in ("old/date=1/a.parquet", f"old/{POSITION_FILE}"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert len(log_files(tmp_path)) == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty: neither an archive .* nor logs: nothing in it is called"):
        require_files(tmp_path / "empty")
    (tmp_path / POSITION_FILE).touch()
    with pytest.raises(ConfigError, match="is an archive, not a folder of logs"):
        require_files(tmp_path)
