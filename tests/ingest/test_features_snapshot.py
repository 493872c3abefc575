"""Snapshots of agents' state: what is read is what was written, or it is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from trustwatch.ingest.columns import AGENT
from trustwatch.ingest.features.baseline import empty_baseline
from trustwatch.ingest.features.builder import FeatureBuilder
from trustwatch.ingest.features.layout import ROW
from trustwatch.ingest.features.snapshot import DamagedSnapshot, Snapshot, load_snapshot, save_snapshot

from .oracle import columns, history

PARTS = ["keys.npy", "rows.npy", "manifest.json"]


def some_state() -> Snapshot:
    builder = FeatureBuilder(empty_baseline(), 16)
    batch = columns(history(1, 200, agents=9))
    builder.vectors(batch)
    keys = np.unique(batch.names[:, AGENT])
    return Snapshot(keys, builder.pack(builder.slots.find(keys)))


def test_snapshot_reads_what_was_written(tmp_path: Path) -> None:
    """Keys and rows come back with the same bits, and an agent goes on from them as if nothing had happened."""
    state = some_state()
    save_snapshot(tmp_path / "s", *state)

    keys, rows = load_snapshot(tmp_path / "s")

    np.testing.assert_array_equal(keys, state.keys)
    assert rows.tobytes() == state.rows.tobytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s"]


def test_snapshot_of_nobody(tmp_path: Path) -> None:
    """A snapshot may be empty."""
    save_snapshot(tmp_path / "s", np.zeros(0, np.uint64), np.zeros(0, ROW))

    assert len(load_snapshot(tmp_path / "s").keys) == 0


@pytest.mark.parametrize("part", PARTS)
def test_snapshot_refuses_a_missing_file(tmp_path: Path, part: str) -> None:
    """Each file is needed."""
    save_snapshot(tmp_path / "s", *some_state())
    (tmp_path / "s" / part).unlink()

    with pytest.raises(DamagedSnapshot, match=part.removesuffix(".json")):
        load_snapshot(tmp_path / "s")


@pytest.mark.parametrize("part", ["keys.npy", "rows.npy"])
@pytest.mark.parametrize("damage", ["flip", "cut", "more"])
def test_snapshot_refuses_damage(tmp_path: Path, part: str, damage: str) -> None:
    """One changed bit, a lost end or an added byte are found."""
    save_snapshot(tmp_path / "s", *some_state())
    path = tmp_path / "s" / part
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1 if damage == "flip" else 0
    path.write_bytes({"flip": raw, "cut": raw[:-8], "more": raw + b"\0"}[damage])

    with pytest.raises(DamagedSnapshot, match="altered"):
        load_snapshot(tmp_path / "s")


@pytest.mark.parametrize(("member", "value"), [("layout", "other"), ("format", 2), ("agents", 3)])
def test_snapshot_refuses_another_layout(tmp_path: Path, member: str, value: object) -> None:
    """State whose layout or size is not ours is not reinterpreted."""
    save_snapshot(tmp_path / "s", *some_state())
    path = tmp_path / "s" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), member: value}))

    with pytest.raises(DamagedSnapshot):
        load_snapshot(tmp_path / "s")


def test_snapshot_is_never_overwritten(tmp_path: Path) -> None:
    """A name that is taken is refused; the draft of a writer that was killed is not."""
    (tmp_path / ".s.draft").mkdir()
    (tmp_path / ".s.draft" / "rows.npy").write_bytes(b"half")
    save_snapshot(tmp_path / "s", *some_state())

    with pytest.raises(FileExistsError):
        save_snapshot(tmp_path / "s", *some_state())
    assert len(load_snapshot(tmp_path / "s").keys) == 9


def test_snapshot_refuses_rows_that_do_not_fit(tmp_path: Path) -> None:
    """Keys without rows are an error of the caller."""
    state = some_state()

    with pytest.raises(ValueError, match="do not fit"):
        save_snapshot(tmp_path / "s", state.keys[:3], state.rows)
