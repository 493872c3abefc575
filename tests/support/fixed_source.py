"""A source whose records are there from the start."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trustwatch.ingest.source import Record


class FixedSource:
    """As much of a `DurableSource` as one partition asks for."""

    def __init__(self, records: list[Record]) -> None:
        self.records = records

    def end_offset(self, _partition: int) -> int:
        return len(self.records)

    def read_id_hashes(self, _partition: int, start: int, end: int) -> npt.NDArray[np.uint64]:
        """Hashes of the ids of the records from *start* to before *end*."""
        return np.array([record.id_hash for record in self.records[start:end]], np.uint64)
