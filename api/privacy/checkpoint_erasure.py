"""Erasure in checkpoints: files with states of before the order go, whoever left them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from trustwatch.ingest.errors import Unavailable
from trustwatch.ingest.objects.object_store import CLOUD_SCHEMES
from trustwatch.scoring.store.checkpoint_files import CheckpointFiles
from trustwatch.scoring.store.sql_store import SqlStore

FILES_COUNT: Final = "checkpoints.files"
UNFINISHED_COUNT: Final = "checkpoints.unfinished_files"
WRITTEN_WITHIN_S: Final = 60.0
"""Age from which a file without its name is one that a crash left: a writer that is slower writes it once more."""


class CheckpointsNotErased(Unavailable):
    """Files of checkpoints that hold states of before an order can not be removed, or looked for, now."""

    code = "checkpoints_not_erased"


@dataclass(eq=False, repr=False)
class CheckpointErasure:
    """Removes files of checkpoints that were written before an order, those of crashes and of lost partitions included.

    A worker that came past the order has written the rows of all agents, and ended its checkpoints. It removes their
    files then, but nobody waits for that, and it does not know of files that no commit named.
    """

    places: Mapping[str, CheckpointFiles]
    store: SqlStore
    unreached: str = ""  # a place that this process does not look at; "" = there is none

    def erase(self, offsets: Mapping[int, int]) -> dict[str, int]:
        """Remove files of before the order, which lies at *offsets* by partition; counts of them.

        Raises CheckpointsNotErased, Unavailable.
        """
        count = sum(self._erase_at(place, files, offsets) for place, files in self.places.items())
        return {FILES_COUNT: count} if self.places else {}

    def _erase_at(self, place: str, files: CheckpointFiles, offsets: Mapping[int, int]) -> int:
        names, needed = self._names_before(place, files, offsets)
        if needed:
            raise CheckpointsNotErased(
                f"checkpoints at {place}: {needed[0]} is of before the order, and its partition still goes on from it: "
                "the worker has to write the rows of all agents first; start it, or stop it cleanly"
            )
        try:
            files.remove(names)
            files.remove_unfinished(WRITTEN_WITHIN_S)
            unfinished = files.count_unfinished(0.0)
        except Unavailable as error:
            raise _not_erased(place, error) from error
        if unfinished:
            raise CheckpointsNotErased(
                f"checkpoints at {place}: a file is being written, or a crash left it; it goes once it is a minute old"
            )
        return len(names)

    def remaining(self, offsets: Mapping[int, int]) -> dict[str, int]:
        """Counts of files of before the order that are still there. Raises CheckpointsNotErased, Unavailable."""
        counts = {FILES_COUNT: 0, UNFINISHED_COUNT: 0}
        for place, files in self.places.items():
            names, needed = self._names_before(place, files, offsets)
            counts[FILES_COUNT] += len(names) + len(needed)
            try:
                counts[UNFINISHED_COUNT] += files.count_unfinished(WRITTEN_WITHIN_S)
            except Unavailable as error:
                raise _not_erased(place, error) from error
        return {name: count for name, count in counts.items() if count}

    def _names_before(
        self, place: str, files: CheckpointFiles, offsets: Mapping[int, int]
    ) -> tuple[list[str], list[str]]:
        """Files of before the order that nobody needs, and those that partitions go on from.

        A file of an earlier epoch than that of its partition's owner is one that a worker left, whatever its offset:
        where the events topic was made again, offsets began again. The files are listed first, so that one which a
        commit names meanwhile is known to be named, or has the owner's epoch.
        """
        try:
            listed = files.list_files()
        except Unavailable as error:
            raise _not_erased(place, error) from error
        epochs = {position.partition: position.epoch for position in self.store.partitions.list_positions()}
        named = {checkpoint.name for checkpoint in self.store.checkpoints.list_all()}
        before = {name for name, position in listed.items() if position.offset <= offsets.get(position.partition, -1)}
        left = {name for name, position in listed.items() if position.epoch < epochs.get(position.partition, 0)}
        return sorted((before | left) - named), sorted(before & named)

    def not_checked(self) -> list[str]:
        """Places that this process does not look at, in words."""
        return [f"files of checkpoints at {self.unreached}, which workers reach"] if self.unreached else []

    def remains(self) -> list[tuple[str, str, str]]:
        """Things that stay after files were removed, why, and until when."""
        return [
            (
                f"earlier versions and copies of removed checkpoint files, where {place} keeps such",
                "the bucket was asked to remove the files; what it keeps besides, its own rules say",
                "its rules end them",
            )
            for place in self.places
            if place.partition("://")[0] in CLOUD_SCHEMES
        ]


def _not_erased(place: str, error: Unavailable) -> CheckpointsNotErased:
    return CheckpointsNotErased(f"checkpoints at {place} can not be removed: {error}; tried again every few seconds")
