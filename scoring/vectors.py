"""What was really computed of each event, for the archive of feature vectors: packed while it is at hand.

Frames are handed on after their commit, so that nothing is told which the store does not know. What they cost the
pipeline is a copy of its matrices and records; whoever makes files of them is another process.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..ingest.archive.spool import VectorFrame, encode_frame
from ..ingest.features.table import FEATURE_NAMES
from .engine import ScoredBatch


class VectorCollector:
    """Packs the batches of one partition until they are taken.

    Args:
        partition: of the log.
    """

    def __init__(self, partition: int = 0) -> None:
        self._partition = partition
        self._frames: list[bytes] = []
        self._events = 0

    def collect(
        self, scored: ScoredBatch, offsets: npt.NDArray[np.int64], payloads: Sequence[bytes], model_version: str
    ) -> None:
        """Take a batch.

        Args:
            scored: n events.
            offsets: int64 (n,).
            payloads: n events as they were logged.
            model_version: of the model that scored them.
        """
        self._frames.append(
            encode_frame(
                VectorFrame(
                    self._partition,
                    model_version,
                    FEATURE_NAMES,
                    offsets,
                    scored.vectors.astype(np.float32),
                    scored.anomaly,
                    scored.raw_p_values,
                    scored.risk_scores,
                    scored.levels[:, 1],
                    payloads,
                )
            )
        )
        self._events += len(offsets)

    def drain(self) -> tuple[list[bytes], int]:
        """Packed frames since the last call, and how many events they hold; they are forgotten here."""
        taken, self._frames, self._events = (self._frames, self._events), [], 0
        return taken
