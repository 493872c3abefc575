"""What was really computed of each event, for the archive of feature vectors: packed while it is at hand.

Frames are handed on after their commit, so that nothing is told which the store does not know. What they cost the
pipeline is a copy of its matrices and records; whoever makes files of them is another process.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..ingest.archive.spool import Frame, packed
from ..ingest.features.table import NAMES
from .engine import Scored


class VectorCollector:
    """Packs the batches of one partition until they are taken.

    Args:
        partition: of the log.
    """

    def __init__(self, partition: int = 0) -> None:
        self._partition = partition
        self._parts: list[bytes] = []
        self._events = 0

    def see(
        self, scored: Scored, offsets: npt.NDArray[np.int64], payloads: Sequence[bytes], model_version: str
    ) -> None:
        """Take a batch.

        Args:
            scored: n events.
            offsets: int64 (n,).
            payloads: n events as they were logged.
            model_version: of the model that scored them.
        """
        self._parts.append(
            packed(
                Frame(
                    self._partition,
                    model_version,
                    NAMES,
                    offsets,
                    scored.vectors.astype(np.float32),
                    scored.anomaly,
                    scored.alone,
                    scored.risk_scores,
                    scored.levels[:, 1],
                    payloads,
                )
            )
        )
        self._events += len(offsets)

    def take(self) -> tuple[list[bytes], int]:
        """Packed frames since the last call, and how many events they hold; they are forgotten here."""
        taken, self._parts, self._events = (self._parts, self._events), [], 0
        return taken
