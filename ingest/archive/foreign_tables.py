"""Reads what others packed or wrote with Arrow's formats: rows of a Parquet file, and streams of zstd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ..file_source import UnreadableFile

BATCH_ROWS = 1_000


def open_zstd(packed: BinaryIO) -> Any:
    """The unpacked stream; several frames are one. It raises OSError where it is damaged or cut off."""
    return pa.CompressedInputStream(pa.PythonFile(packed), "zstd")


def parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a Parquet file, in batches of few. Raises UnreadableFile."""
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH_ROWS):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise UnreadableFile(f"{path}: no Parquet that can be read: {str(error).splitlines()[0]}") from None
