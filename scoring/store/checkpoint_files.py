"""Files of checkpoints in a store of objects: states of agents that changed since their rows were written.

A file is a short head and, compressed with zstd, a msgpack list of rows by the names of their members, so that a later
version reads what an earlier one wrote. Its name is its position: a commit that is tried again writes the same file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import msgspec
import zstandard

from ...ingest.errors import CorruptCheckpoint, ObjectMissing
from ...ingest.objects.object_store import ObjectStore
from ..records.agents import AgentRow
from ..records.commits import Checkpoint, Position

_HEAD: Final = b"TWCP\x01"
"""Of the present format; the last byte is its number."""
_LEVEL: Final = 1
"""Of compression: higher ones take several times as long for a tenth less."""
_encode_rows = msgspec.msgpack.Encoder().encode
_decode_rows = msgspec.msgpack.Decoder(list[AgentRow]).decode


class CheckpointFiles:
    """Writes and reads checkpoints. Every method may raise Unavailable; it blocks.

    Args:
        objects: where they lie; every worker of the deployment must reach it.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def write(self, position: Position, rows: Sequence[AgentRow]) -> Checkpoint:
        """Write the states of agents as of a position; they are durable then."""
        content = _HEAD + zstandard.ZstdCompressor(_LEVEL).compress(_encode_rows(rows))
        name = _file_name(position)
        self._objects.put(name, content)
        return Checkpoint(position, name, hashlib.sha256(content).hexdigest(), len(rows), len(content))

    def read(self, checkpoint: Checkpoint) -> list[AgentRow]:
        """Agents of a checkpoint. Raises CorruptCheckpoint: it is not there, or not what was written."""
        try:
            content = self._objects.get(checkpoint.name)
        except ObjectMissing:
            raise _corrupt(checkpoint, "is not there") from None
        if hashlib.sha256(content).hexdigest() != checkpoint.digest:
            raise _corrupt(checkpoint, "is not what was written")
        if not content.startswith(_HEAD):
            raise _corrupt(checkpoint, "was written by a newer Trustwatch")
        return _decode_rows(zstandard.ZstdDecompressor().decompress(content[len(_HEAD) :]))

    def remove_up_to(self, position: Position) -> int:
        """Remove files of a partition that a commit at *position* has ended, those that no commit named included.

        Those of later owners stay. Returns the number of files.
        """
        names = self._objects.list_names(_folder(position.partition))
        gone = [name for name in names if name <= _file_name(position)]
        self._objects.delete(gone)
        return len(gone)


def _folder(partition: int) -> str:
    return f"partition-{partition:06}/"


def _file_name(position: Position) -> str:
    """Name of the file of a position: names of a partition sort as epochs and offsets do."""
    return f"{_folder(position.partition)}{position.epoch:012}-{position.offset:020}.states"


def _corrupt(checkpoint: Checkpoint, fault: str) -> CorruptCheckpoint:
    return CorruptCheckpoint(
        f"checkpoint {checkpoint.name}, with the newest states of {checkpoint.agents} agents of partition "
        f"{checkpoint.position.partition}, {fault}: check `store.checkpoints`, or restore the database and the "
        "checkpoints from one back-up"
    )
