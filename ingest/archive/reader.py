"""The reading side for replays: raw events of an archive in the order in which they were logged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import ConfigError
from .position import read_position
from .writer import offsets_of


def raw_lines(directory: Path) -> Iterator[bytes]:
    """Every archived event as it was logged, in the order of the log; ranges that are not committed are left out.

    One range is held in memory at a time.

    Raises:
        ConfigError: no archive, or a file of it is damaged.
    """
    position = read_position(directory)
    if position is None:
        raise ConfigError(f"{directory}: no archive of ours; one has a `_position.json`")
    ranges: dict[int, list[Path]] = {}
    for path in directory.glob("date=*/tenant=*/events-*.parquet"):
        found = offsets_of(path)
        if found is not None and found[0] < position:
            ranges.setdefault(found[0], []).append(path)
    for base in sorted(ranges):
        yield from _range(ranges[base])


def _range(paths: list[Path]) -> list[bytes]:
    rows: list[tuple[int, bytes]] = []
    for path in paths:
        try:
            read = pq.ParquetFile(path).read(columns=["offset", "raw"])
        except (OSError, pa.ArrowException) as error:
            raise ConfigError(f"{path}: can not be read: {error}") from error
        rows += zip(read["offset"].to_pylist(), read["raw"].to_pylist(), strict=True)
    # One line each: JSON has line breaks between its parts alone, where a blank says the same.
    return [raw.replace(b"\r", b" ").replace(b"\n", b" ") for _, raw in sorted(rows)]
