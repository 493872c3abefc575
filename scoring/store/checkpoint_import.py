"""Checkpoints of builds after 0.2, which kept the newest states of agents in files, become rows at the first start.

Without them agents would go on from older rows, behind whose events their partition has come already.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import zstandard
from sqlalchemy import Connection, text

from trustwatch.ingest.errors import ConfigError

from ..records.agents import AgentRow
from ..records.commits import Position
from .dialects import dialect_of

_HEAD = b"TWCP\x01"
_decode_rows = msgspec.msgpack.Decoder(list[AgentRow]).decode


def import_checkpoints(connection: Connection, folder: Path | None) -> None:
    """Write the rows of all agents that the table `checkpoints` says are in files below *folder*.

    Raises ConfigError: a file is not there, or is not what was written. Nothing is changed then.
    """
    query = 'SELECT partition, epoch, "offset", name, digest FROM checkpoints ORDER BY partition, epoch, "offset"'
    for partition, epoch, offset, name, digest in connection.execute(text(query)).all():
        rows = _read(folder, name, digest)  # of one partition the newest file comes last, and its rows stay
        dialect_of(connection).write_agents(connection, rows, Position(partition, epoch, offset))


def _read(folder: Path | None, name: str, digest: str) -> list[AgentRow]:
    try:
        content = b"" if folder is None else (folder / name).read_bytes()
    except OSError:
        content = b""
    if hashlib.sha256(content).hexdigest() != digest or not content.startswith(_HEAD):
        raise ConfigError(
            f"the newest states of some agents are in the checkpoint {name}, which is missing or damaged in {folder}: "
            "copy what is at `store.checkpoints` to that folder and start again; or start the version of before with "
            "its settings and stop it cleanly (SIGTERM), which leaves no checkpoints. Nothing was changed"
        )
    return _decode_rows(zstandard.ZstdDecompressor().decompress(content[len(_HEAD) :]))
