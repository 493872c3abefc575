"""Files of snapshots in a store of objects: copies of agents' rows, for who takes a partition over.

A file is a short head and chunks, each compressed with zstd and then sealed with AES-256-GCM under a key of the file
that the database alone has. The first chunk is the index, the others are blocks of agents, column by column. Nobody
relies on a file: one that is gone, damaged or of another format is left out, and the rows are read.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, Final

import msgspec
import numpy as np
import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from trustwatch.ingest.errors import ObjectMissing, TrustwatchError
from trustwatch.ingest.objects.object_store import ObjectStore

from ..records.agent_pages import AgentColumns, StateFormat
from ..records.snapshots import AgentVersions, Snapshot, SnapshotIndex
from .claimed_objects import ClaimedObjects

_HEAD: Final = b"TWSN\x01"
"""Of the present format; the last byte is its number."""
_FOLDERS: Final = "snapshots/partition-"
_LEFT_BEHIND_S: Final = 3600.0
_LENGTH: Final = struct.Struct("<I")
_LEVEL: Final = 1
"""Of compression: higher ones take several times as long for a tenth less."""
_MOST_DISTINCT: Final = 0.5
"""Share of different values up to which a column is written as values and their places."""
_MATRICES: Final = ("features", "risk")
_WORDS: Final = tuple(name for name in AgentColumns._fields if name not in ("keys", *_MATRICES))


class UnreadableSnapshot(TrustwatchError):
    """A snapshot is not there, is damaged, or has another format: the rows of its agents are read instead."""

    code = "unreadable_snapshot"


class _Index(msgspec.Struct, array_like=True):
    state_format: StateFormat
    keys: bytes
    epochs: bytes
    offsets: bytes
    block_ends: tuple[int, ...]


class _Column(msgspec.Struct, array_like=True):
    """Values of a column; where *places* is not empty, uint16, they are the different ones, and it tells whose."""

    values: list[Any]
    places: bytes


class _Block(msgspec.Struct, array_like=True):
    keys: bytes
    words: list[_Column]
    features: memoryview
    risk: memoryview


_encode = msgspec.msgpack.Encoder().encode
_decode_index = msgspec.msgpack.Decoder(_Index).decode
_decode_block = msgspec.msgpack.Decoder(_Block).decode


class SnapshotFiles:
    """Writes and reads snapshots. Several threads may call the methods, which block.

    Each may raise Unavailable, or ConfigError: the place is another deployment's.

    Args:
        objects: where they lie; who does not reach a file reads the rows.
        deployment: see `ClaimedObjects`.
    """

    def __init__(self, objects: ObjectStore, deployment: str | None = None) -> None:
        self._place = ClaimedObjects(objects, deployment)
        self._indexes: dict[str, SnapshotIndex] = {}

    def write(
        self,
        partition: int,
        generation: int,
        state_format: StateFormat,
        blocks: Sequence[tuple[AgentColumns, AgentVersions]],
    ) -> Snapshot:
        """Write copies of agents' rows, which nobody reads before the database has the secret.

        Args:
            partition: of the agents.
            generation: as of before they were read.
            state_format: of their states.
            blocks: at least one, each of at most 65,536 agents, with the versions of their rows in the same order.
        """
        versions = AgentVersions.join([versions for _, versions in blocks])
        ends = tuple(np.cumsum([columns.agent_count for columns, _ in blocks]).tolist())
        index = SnapshotIndex(state_format, versions, ends)
        name = f"{_folder(partition)}{secrets.token_hex(16)}.rows"
        secret = AESGCM.generate_key(256)
        chunks = chain([_encode_index(index)], (_encode_columns(columns) for columns, _ in blocks))
        content = b"".join([_HEAD, *_seal(name, secret, chunks)])
        self._place.get().put(name, content)
        self._indexes[name] = index
        return Snapshot(name, partition, secret, generation, versions.agent_count, len(content))

    def open(self, snapshot: Snapshot) -> OpenSnapshot:
        """Read a file. Raises UnreadableSnapshot."""
        try:
            content = self._place.get().get(snapshot.name)
        except ObjectMissing:
            raise UnreadableSnapshot(f"snapshot {snapshot.name} is not there") from None
        opened = OpenSnapshot(snapshot, content)
        self._indexes[snapshot.name] = opened.index
        return opened

    def index(self, snapshot: Snapshot) -> SnapshotIndex:
        """Index of a file, which is read where this process has neither written nor read it. Raises as `open`."""
        known = self._indexes.get(snapshot.name)
        return self.open(snapshot).index if known is None else known

    def remove(self, names: Collection[str]) -> None:
        """Remove files; one that is not there is no error."""
        for name in names:
            self._indexes.pop(name, None)
        if names:  # a cloud is not asked for nothing
            self._place.get().delete(names)

    def list_names(self, partition: int | None = None) -> set[str]:
        """Names of all files of a partition, or of all."""
        return set(self._place.get().list_names(_FOLDERS if partition is None else _folder(partition)))

    def forget_indexes(self, partition: int, kept: Collection[str] = ()) -> None:
        """Keep no index of a partition in memory but those of some files."""
        folder = _folder(partition)
        for name in [name for name in self._indexes.copy() if name.startswith(folder) and name not in kept]:
            self._indexes.pop(name, None)

    def remove_unfinished(self) -> None:
        """Remove what a crash of a writer left without a name, at least an hour ago."""
        self._place.get().remove_unfinished(_LEFT_BEHIND_S)


class OpenSnapshot:
    """A file that was read; its blocks are decoded one by one.

    Args:
        snapshot: as the database knows it.
        content: of the file.

    Raises:
        UnreadableSnapshot: it is damaged, or of another format.
    """

    def __init__(self, snapshot: Snapshot, content: bytes) -> None:
        self._name = snapshot.name
        self._cipher = AESGCM(snapshot.secret)
        if not content.startswith(_HEAD):
            raise UnreadableSnapshot(f"snapshot {self._name} has another format")
        if len(content) != snapshot.content_bytes:
            raise self._damaged()
        chunks = _cut(memoryview(content)[len(_HEAD) :])
        self.index = self._decode_index(next(chunks, b""))
        self._blocks = list(islice(chunks, len(self.index.block_ends)))  # as many as who has the secret wrote

    def read_block(self, number: int) -> AgentColumns:
        """Agents of a block. Raises UnreadableSnapshot: it is damaged."""
        try:
            packed = self._unseal(1 + number, self._blocks[number])
            return _to_columns(_decode_block(packed), self.index.state_format)
        except (msgspec.DecodeError, ValueError, IndexError):
            raise self._damaged() from None

    def _decode_index(self, chunk: bytes | memoryview) -> SnapshotIndex:
        try:
            stored = _decode_index(self._unseal(0, chunk))
            versions = AgentVersions(
                np.frombuffer(stored.keys, "<u8").astype(np.uint64, copy=False),
                np.frombuffer(stored.epochs, "<i8").astype(np.int64, copy=False),
                np.frombuffer(stored.offsets, "<i8").astype(np.int64, copy=False),
            )
        except (msgspec.DecodeError, ValueError):
            raise self._damaged() from None
        return SnapshotIndex(stored.state_format, versions, stored.block_ends)

    def _unseal(self, number: int, chunk: bytes | memoryview) -> bytes:
        try:
            packed = self._cipher.decrypt(_nonce(number), chunk, self._name.encode())
        except InvalidTag:
            raise self._damaged() from None
        return zstandard.ZstdDecompressor().decompress(packed)

    def _damaged(self) -> UnreadableSnapshot:
        return UnreadableSnapshot(f"snapshot {self._name} is damaged")


def _folder(partition: int) -> str:
    return f"{_FOLDERS}{partition:06}/"


def _nonce(number: int) -> bytes:
    """Of a chunk: the key is the file's own, so that numbers will do."""
    return number.to_bytes(12, "big")


def _seal(name: str, secret: bytes, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Chunks as they stand in the file, each behind its length. They are of this file and in this order alone."""
    cipher, compressor = AESGCM(secret), zstandard.ZstdCompressor(_LEVEL)
    for number, chunk in enumerate(chunks):
        sealed = cipher.encrypt(_nonce(number), compressor.compress(chunk), name.encode())
        yield _LENGTH.pack(len(sealed))
        yield sealed


def _cut(content: memoryview) -> Iterator[memoryview]:
    """Chunks of a file; what follows a broken length is left out, and missed."""
    at = 0
    while at + _LENGTH.size <= len(content):
        (size,) = _LENGTH.unpack_from(content, at)
        at += _LENGTH.size
        yield content[at : at + size]
        at += size


def _encode_index(index: SnapshotIndex) -> bytes:
    keys, epochs, offsets = index.versions
    return _encode(
        _Index(
            index.state_format,
            keys.astype("<u8").tobytes(),
            epochs.astype("<i8").tobytes(),
            offsets.astype("<i8").tobytes(),
            index.block_ends,
        )
    )


def _encode_columns(columns: AgentColumns) -> bytes:
    words = [_encode_words(getattr(columns, name)) for name in _WORDS]
    features, risk = (np.ascontiguousarray(matrix).data for matrix in (columns.features, columns.risk))
    return _encode(_Block(columns.keys.astype("<u8").tobytes(), words, features, risk))


def _encode_words(values: list[Any]) -> _Column:
    places: dict[Any, int] = {}
    found = [places.setdefault(value, len(places)) for value in values]
    if len(places) > _MOST_DISTINCT * len(values):
        return _Column(values, b"")
    return _Column(list(places), np.array(found, "<u2").tobytes())


def _decode_words(column: _Column, kind: type) -> list[Any]:
    values = column.values
    if not all(isinstance(value, kind) for value in values):
        raise ValueError
    if not column.places:
        return values
    return list(map(values.__getitem__, np.frombuffer(column.places, "<u2").tolist()))


def _to_columns(block: _Block, state_format: StateFormat) -> AgentColumns:
    """Columns of a block. Raises ValueError or IndexError: they do not fit together."""
    keys = np.frombuffer(block.keys, "<u8").astype(np.uint64, copy=False)
    words = dict(zip(_WORDS, block.words, strict=True))
    of_bytes = ("reasons", "indicators", "announced_paths", "capabilities")
    kinds = {name: bytes if name in of_bytes else str for name in _WORDS}
    columns = AgentColumns(
        keys=keys,
        **{name: _decode_words(words[name], kinds[name]) for name in _WORDS},
        features=np.frombuffer(block.features, np.uint8).reshape(len(keys), state_format.features_bytes),
        risk=np.frombuffer(block.risk, np.uint8).reshape(len(keys), state_format.risk_bytes),
    )
    if any(len(column) != len(keys) for column in columns):
        raise ValueError
    return columns
