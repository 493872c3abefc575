"""The duplicate window: which event ids were seen within the last records of the log.

Two generations of `window` offsets each, aligned to multiples of `window`: a record is compared with all records of its
own generation before it and with the whole generation before that one, which is at least `window` and less than
2 x `window` records back. Because the borders are offsets, the answers are a function of the log alone: not of batches,
restarts or time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from numba import njit

DEFAULT_WINDOW = 262_144
"""Offsets of one generation. At 1,000 events per second, retries are recognized for at least 4 minutes."""


PARTITION_WINDOW = 65_536
"""The same for each of several partitions: a worker holds some of each that it has."""


def _mark_seen_rows(
    hashes: Any, offsets: Any, tables: Any, generation: int, window: int, multiplier: Any, shift: Any, seen: Any
) -> int:
    """Look up and insert each hash in order; returns the generation of the last row. Empty slots hold 0."""
    mask = tables.shape[1] - 1
    for row in range(hashes.shape[0]):
        current = offsets[row] // window
        if current != generation:
            tables[current & 1, :] = 0
            if current != generation + 1:
                tables[(current + 1) & 1, :] = 0
            generation = current
        key = hashes[row]
        if key == 0:
            seen[row] = False
            continue
        start = np.int64((key * multiplier) >> shift)
        duplicate = False
        for which in range(2):
            table = tables[(current + which) & 1]
            slot = start
            while table[slot] != 0 and table[slot] != key:
                slot = (slot + 1) & mask
            if table[slot] == key:
                duplicate = True
            elif which == 0:
                # Duplicates are kept too: the state must follow from the logged hashes of two generations alone.
                table[slot] = key
        seen[row] = duplicate
    return generation


_mark_seen = cast(Callable[..., int], njit(cache=True)(_mark_seen_rows))


class DuplicateWindow:
    """Recognizes repeated event ids in fixed memory: 8 MiB at the default window, which is 32 bytes per offset."""

    def __init__(self, window: int = DEFAULT_WINDOW, seed: int = 0x9E3779B97F4A7C15) -> None:
        if window < 1:
            raise ValueError(f"window must be 1 or more, is {window}")
        bits = max(1, (2 * window - 1).bit_length())  # at most half full
        self.window = window
        self.next_offset = 0
        self._tables = np.zeros((2, 1 << bits), np.uint64)
        self._multiplier = np.uint64(seed | 1)
        self._shift = np.uint64(64 - bits)
        self._generation = 0
        self._recorded: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the tables, fixed for the life of the object."""
        return self._tables.nbytes

    def mark(self, hashes: npt.NDArray[np.uint64], offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Remember a batch; return which of its events, shape (n,), were seen in the window or earlier in the batch.

        `hashes` (n,) are from `event_id_hash`; 0 = no event, never a duplicate. Raises ValueError unless `offsets` (n,)
        ascend, from those of earlier calls on.
        """
        hashes = np.ascontiguousarray(hashes, np.uint64)
        offsets = np.ascontiguousarray(offsets, np.int64)
        if hashes.shape != offsets.shape or hashes.ndim != 1:
            raise ValueError(f"hashes and offsets must have one equal dimension: {hashes.shape}, {offsets.shape}")
        seen = np.empty(len(hashes), np.bool_)
        if not len(hashes):
            return seen
        if offsets[0] < self.next_offset or (np.diff(offsets) < 1).any():
            raise ValueError(f"offsets must ascend from {self.next_offset} on")
        self._generation = _mark_seen(
            hashes, offsets, self._tables, self._generation, self.window, self._multiplier, self._shift, seen
        )
        self.next_offset = int(offsets[-1]) + 1
        if self._recorded is not None:
            self._recorded.append((offsets, hashes))
        return seen

    def record(self, before: npt.NDArray[np.uint64] | None = None) -> None:
        """Keep the arguments of `mark` from here on for `take_recorded`, and *before*, the hashes up to here."""
        self._recorded = []
        if before is not None and len(before):
            offsets = np.arange(self.next_offset - len(before), self.next_offset, dtype=np.int64)
            self._recorded.append((offsets, before))

    def take_recorded(self, start_offset: int, end_offset: int) -> npt.NDArray[np.uint64]:
        """Take the recorded hashes of [start_offset, end_offset), 0 if `mark` got none; later ones stay.

        Raises ValueError.
        """
        taken = np.zeros(end_offset - start_offset, np.uint64)
        left = []
        for offsets, hashes in self._recorded or ():
            if offsets[0] < start_offset:
                raise ValueError(f"the record at {offsets[0]} was not taken before {start_offset}")
            end = int(np.searchsorted(offsets, end_offset))
            taken[offsets[:end] - start_offset] = hashes[:end]
            if end < len(offsets):
                left.append((offsets[end:], hashes[end:]))
        self._recorded = None if self._recorded is None else left
        return taken

    def first_offset_to_rebuild(self, offset: int) -> int:
        """Return the first offset whose hash is needed to judge records from *offset* on as before."""
        return max(0, (offset // self.window - 1) * self.window)

    def restore(self, start_offset: int, hashes: npt.NDArray[np.uint64]) -> None:
        """Forget everything, then remember consecutive records from *start_offset* on.

        After a restart at *x*: `restore(s, reader.read_id_hashes(p, s, x))` with `s = first_offset_to_rebuild(x)`.
        """
        self._tables[:] = 0
        self._generation = start_offset // self.window
        self.next_offset = start_offset
        self.mark(hashes, np.arange(start_offset, start_offset + len(hashes), dtype=np.int64))
