"""Files of checkpoints in a store of objects: states of agents that changed since their rows were written.

A file is a short head and, compressed with zstd, a msgpack list of rows by the names of their members, so that a later
version reads what an earlier one wrote. Its name is its position: a commit that is tried again writes the same file.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Collection, Sequence
from typing import Final

import msgspec
import zstandard

from trustwatch.ingest.errors import CorruptCheckpoint, ObjectMissing
from trustwatch.ingest.objects.object_store import ObjectStore

from ..records.agents import AgentRow
from ..records.commits import Checkpoint, Position
from .claimed_objects import ClaimedObjects

_HEAD: Final = b"TWCP\x01"
"""Of the present format; the last byte is its number."""
_LEVEL: Final = 1
"""Of compression: higher ones take several times as long for a tenth less."""
_FOLDERS: Final = "partition-"
_FILE_NAME: Final = re.compile(r"partition-(\d{6,})/(\d{12,})-(\d{20,})\.states")
_encode_rows = msgspec.msgpack.Encoder().encode
_decode_rows = msgspec.msgpack.Decoder(list[AgentRow]).decode


class CheckpointFiles:
    """Writes and reads checkpoints. Every method may raise Unavailable, or ConfigError as `check`; it blocks.

    Args:
        objects: where they lie; every worker of the deployment must reach it.
        deployment: id of the deployment whose place it must be, of `database_id`: before anything is written, removed
            or read there it is seen to, once. None = whoever opened it may look at any place.
    """

    def __init__(self, objects: ObjectStore, deployment: str | None = None) -> None:
        self._place = ClaimedObjects(objects, deployment)
        self._away_until_s = -math.inf

    def is_away(self, now_s: float) -> bool:
        """True where nobody should write or remove now, since that failed not long ago."""
        return now_s < self._away_until_s

    def leave_alone_until(self, at_s: float) -> None:
        """Note that a write or removal failed, and until when none is tried, on a clock that never goes back."""
        self._away_until_s = at_s

    def check(self) -> None:
        """Try the place, and see to whose it is.

        Raises:
            ConfigError: it refuses, or is another deployment's, whose files would be removed.
        """
        self._place.check()

    def write(self, position: Position, rows: Sequence[AgentRow]) -> Checkpoint:
        """Write the states of agents as of a position; they are durable then."""
        content = _HEAD + zstandard.ZstdCompressor(_LEVEL).compress(_encode_rows(rows))
        name = _file_name(position)
        self._place.get().put(name, content)
        return Checkpoint(position, name, hashlib.sha256(content).hexdigest(), len(rows), len(content))

    def read(self, checkpoint: Checkpoint) -> list[AgentRow]:
        """Agents of a checkpoint. Raises CorruptCheckpoint: it is not there, or not what was written."""
        content = self.read_content(checkpoint)
        return _decode_rows(zstandard.ZstdDecompressor().decompress(content[len(_HEAD) :]))

    def read_content(self, checkpoint: Checkpoint) -> bytes:
        """Content of a file, as it was written. Raises CorruptCheckpoint as `read`."""
        try:
            content = self._place.get().get(checkpoint.name)
        except ObjectMissing:
            raise _corrupt(checkpoint, "is not there") from None
        if hashlib.sha256(content).hexdigest() != checkpoint.digest:
            raise _corrupt(checkpoint, "is not what was written")
        if not content.startswith(_HEAD):
            raise _corrupt(checkpoint, "was written by a newer Trustwatch")
        return content

    def write_content(self, checkpoint: Checkpoint, content: bytes) -> None:
        """Write a file again that `read_content` gave, at another place."""
        self._place.get().put(checkpoint.name, content)

    def list_files(self) -> dict[str, Position]:
        """Positions of all files by their names, those that no commit named included."""
        names = self._place.get().list_names(_FOLDERS)
        found = {name: _FILE_NAME.fullmatch(name) for name in names}
        return {name: Position(*map(int, match.groups())) for name, match in found.items() if match is not None}

    def remove(self, names: Collection[str]) -> None:
        """Remove files; one that is not there is no error."""
        self._place.get().delete(names)

    def count_unfinished(self, older_than_s: float) -> int:
        """Files that a crash of a writer left without their names, or that are being written; of that age or more."""
        return self._place.get().count_unfinished(older_than_s)

    def remove_unfinished(self, older_than_s: float) -> None:
        """Remove such files."""
        self._place.get().remove_unfinished(older_than_s)

    def remove_up_to(self, position: Position) -> int:
        """Remove files of a partition that a commit at *position* has ended, those that no commit named included.

        Those of later owners stay. Returns the number of files.
        """
        names = self._place.get().list_names(_folder(position.partition))
        gone = [name for name in names if name <= _file_name(position)]
        self._place.get().delete(gone)
        return len(gone)


def _folder(partition: int) -> str:
    return f"{_FOLDERS}{partition:06}/"


def _file_name(position: Position) -> str:
    """Name of the file of a position: names of a partition sort as epochs and offsets do."""
    return f"{_folder(position.partition)}{position.epoch:012}-{position.offset:020}.states"


def _corrupt(checkpoint: Checkpoint, fault: str) -> CorruptCheckpoint:
    return CorruptCheckpoint(
        f"checkpoint {checkpoint.name}, with the newest states of {checkpoint.agents} agents of partition "
        f"{checkpoint.position.partition}, {fault}: check `store.checkpoints`, or restore the database and the "
        "checkpoints from one back-up"
    )
