"""Files of snapshots give back what was written, to who has their secret; everything else is refused."""

from __future__ import annotations

import string
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.objects.folder_objects import FolderObjects
from trustwatch.scoring.records.agent_pages import AgentColumns, StateFormat
from trustwatch.scoring.records.snapshots import AgentVersions
from trustwatch.scoring.store.snapshot_files import SnapshotFiles, UnreadableSnapshot

FORMAT = StateFormat("v2:r2", 5, 3)
TEXT = st.one_of(st.sampled_from(["", "acme", "\0", "é"]), st.text(st.characters(codec="utf-8"), max_size=5))
BYTES = st.one_of(st.sampled_from([b"", b"[]"]), st.binary(max_size=5))
Block = tuple[AgentColumns, AgentVersions]


@st.composite
def blocks(draw: Any) -> list[Block]:
    """Up to three blocks of agents with different keys."""
    keys = draw(st.lists(st.integers(0, 2**64 - 1), unique=True, min_size=1, max_size=12))
    cuts = sorted(draw(st.sets(st.integers(1, len(keys)), max_size=2)) | {len(keys)})
    return [block(draw, keys[start:end]) for start, end in zip([0, *cuts], cuts, strict=False)]


def block(draw: Any, keys: list[int]) -> Block:
    size = len(keys)

    def of(kind: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(kind, min_size=size, max_size=size))

    matrices = (np.frombuffer(draw(st.binary(min_size=size * n, max_size=size * n)), np.uint8) for n in FORMAT[1:])
    features, risk = (matrix.reshape(size, -1) for matrix in matrices)
    key_column = np.array(keys, np.uint64)
    words = *(of(TEXT) for _ in range(5)), of(BYTES), of(TEXT), of(BYTES), of(BYTES), of(BYTES)
    numbers = (np.array(of(st.integers(0, 2**62)), np.int64) for _ in range(2))
    return AgentColumns(key_column, *words, features, risk), AgentVersions(key_column, *numbers)


def as_lists(columns: AgentColumns) -> list[list[Any]]:
    return [column if isinstance(column, list) else column.tolist() for column in columns]


@pytest.fixture
def files(tmp_path: Path) -> SnapshotFiles:
    return SnapshotFiles(FolderObjects(tmp_path))


@pytest.fixture
def a_block() -> Block:
    keys = np.arange(1, 301, dtype=np.uint64)
    names = [f"agent-{key}" for key in keys.tolist()]
    texts, raw = ["same"] * 300, [b"[]"] * 300
    states = (np.full((300, size), 7, np.uint8) for size in FORMAT[1:])
    columns = AgentColumns(keys, texts, texts, names, texts, texts, raw, texts, raw, raw, raw, *states)
    return columns, AgentVersions(keys, np.full(300, 4), np.arange(300))


@given(written=blocks())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_written_is_read(files: SnapshotFiles, written: list[Block]) -> None:
    """By this process or by another one: columns of every block, and versions of all."""
    snapshot = files.write(3, 1, FORMAT, written)
    opened = files.open(snapshot)
    assert snapshot.agents == sum(columns.agent_count for columns, _ in written)
    assert opened.index.state_format == FORMAT
    assert [column.tolist() for column in opened.index.versions] == [
        column.tolist() for column in AgentVersions.join([versions for _, versions in written])
    ]
    read = [opened.read_block(number) for number in range(len(opened.index.block_ends))]
    assert [as_lists(columns) for columns in read] == [as_lists(columns) for columns, _ in written]


def test_equal_values_are_one_object(files: SnapshotFiles, a_block: Block) -> None:
    """Most agents have the same tenant, issuer and reasons: memory has them once."""
    columns = files.open(files.write(3, 1, FORMAT, [a_block])).read_block(0)
    assert len({id(value) for value in columns.tenants}) == 1 and len({id(value) for value in columns.reasons}) == 1


def test_content_is_readable_with_its_secret_alone(files: SnapshotFiles, a_block: Block, tmp_path: Path) -> None:
    """No name stands in the file, and another secret, as of another file, opens nothing."""
    snapshot, other = (files.write(3, 1, FORMAT, [a_block]) for _ in range(2))
    content = (tmp_path / snapshot.name).read_bytes()
    assert b"agent-" not in content and len(snapshot.secret) == 32 and snapshot.secret != other.secret
    assert content != (tmp_path / other.name).read_bytes()
    with pytest.raises(UnreadableSnapshot, match="damaged"):
        files.open(snapshot._replace(secret=other.secret))


def test_a_file_in_the_place_of_another_is_refused(files: SnapshotFiles, a_block: Block, tmp_path: Path) -> None:
    """Somebody who can write there can not bring old states back under a name that the database knows."""
    snapshot, other = (files.write(3, 1, FORMAT, [a_block]) for _ in range(2))
    (tmp_path / snapshot.name).write_bytes((tmp_path / other.name).read_bytes())
    for secret in (snapshot.secret, other.secret):
        with pytest.raises(UnreadableSnapshot):
            files.open(snapshot._replace(secret=secret))


def test_damage_anywhere_is_noticed(files: SnapshotFiles, a_block: Block, tmp_path: Path) -> None:
    """A bit, a cut end, nothing at all: index or block is refused, and nothing wrong is ever read."""
    snapshot = files.write(3, 1, FORMAT, [a_block, a_block])
    path = tmp_path / snapshot.name
    whole, expected = path.read_bytes(), as_lists(a_block[0])
    damaged = [whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :] for at in range(0, len(whole), 7)]
    damaged += [whole[:at] for at in range(0, len(whole), 41)]
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            opened = files.open(snapshot)
            read = [as_lists(opened.read_block(number)) for number in range(2)]
        except UnreadableSnapshot:
            refused += 1
        else:
            assert read == [expected, expected]
    assert refused == len(damaged)


@pytest.mark.parametrize("filling", [b"\0", b"\1\0\0\0a"])
def test_what_somebody_else_wrote_is_not_cut(
    files: SnapshotFiles, a_block: Block, tmp_path: Path, filling: bytes
) -> None:
    """Without the secret nobody makes a worker take apart more than the first chunk, nor read another length."""
    snapshot = files.write(3, 1, FORMAT, [a_block])
    path = tmp_path / snapshot.name
    size = path.stat().st_size
    for content in (filling * 5_000_000, (b"TWSN\1" + filling * size)[:size]):
        path.write_bytes(content)
        tracemalloc.start()
        with pytest.raises(UnreadableSnapshot):
            files.open(snapshot)
        assert tracemalloc.get_traced_memory()[1] < len(content) + 100_000
        tracemalloc.stop()


def test_a_place_of_another_database_is_left_alone(a_block: Block, tmp_path: Path) -> None:
    """Nothing there is written, read or removed."""
    ours, theirs = (SnapshotFiles(FolderObjects(tmp_path), name) for name in ("ours", "theirs"))
    snapshot = ours.write(3, 1, FORMAT, [a_block])
    for call in (lambda: theirs.list_names(3), lambda: theirs.open(snapshot), lambda: theirs.remove([snapshot.name])):
        with pytest.raises(ConfigError, match="another database"):
            call()
    assert ours.list_names() == {snapshot.name}


def test_blocks_can_not_change_places(files: SnapshotFiles, a_block: Block, tmp_path: Path) -> None:
    """Each is sealed under its number."""
    snapshot = files.write(3, 1, FORMAT, [a_block, a_block])
    path = tmp_path / snapshot.name
    content, chunks, at = path.read_bytes(), [], 5
    while at < len(content):
        size = 4 + int.from_bytes(content[at : at + 4], "little")
        chunks.append(content[at : at + size])
        at += size
    path.write_bytes(b"".join([content[:5], chunks[0], chunks[2], chunks[1]]))
    with pytest.raises(UnreadableSnapshot):
        files.open(snapshot).read_block(0)


def test_a_file_that_is_gone_is_told(files: SnapshotFiles, a_block: Block) -> None:
    """As on the disk of another machine; its index is known to who wrote it until it is removed."""
    snapshot = files.write(3, 1, FORMAT, [a_block])
    assert files.list_names(3) == {snapshot.name} and files.list_names(30) == set()
    assert files.index(snapshot).versions.agent_count == 300
    files.remove([snapshot.name])
    with pytest.raises(UnreadableSnapshot, match="not there"):
        files.index(snapshot)
    assert files.list_names(3) == set()


def test_names_are_those_of_objects(files: SnapshotFiles, a_block: Block) -> None:
    """So that every store of objects takes them, beside checkpoints."""
    name = files.write(12, 1, FORMAT, [a_block]).name
    folder, _, last = name.rpartition("/")
    assert folder == "snapshots/partition-000012" and set(last) <= set(string.hexdigits.lower() + ".rows")


def test_versions_find_equal_ones_alone() -> None:
    """Key, epoch and offset have to be the same."""
    here = AgentVersions(np.array([1, 5, 2**64 - 1], np.uint64), np.array([1, 1, 2]), np.array([10, 20, 30]))
    others = AgentVersions(
        np.array([5, 5, 5, 1, 2**64 - 1, 7], np.uint64),
        np.array([1, 2, 1, 1, 2, 1]),
        np.array([20, 20, 21, 10, 30, 20]),
    )
    assert here.find(others).tolist() == [1, -1, -1, 0, 2, -1]
    assert here.at(slice(0, 0)).find(others).tolist() == [-1] * 6
    assert here.has(np.array([0, 1, 5, 6, 2**64 - 1], np.uint64)).tolist() == [False, True, True, False, True]
    assert here.at(slice(0, 0)).has(others.keys).tolist() == [False] * 6
