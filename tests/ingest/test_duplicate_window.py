"""The duplicate window is a function of the log alone."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustwatch.ingest.duplicate_window import DEFAULT_WINDOW, DuplicateWindow
from trustwatch.ingest.record_keys import raw_id_hash, unkeyed_event_id_hash

LOGS = st.lists(st.integers(0, 12), min_size=1, max_size=80)
CUTS = st.lists(st.integers(0, 80), max_size=8)


def hashes_of(log: list[int]) -> npt.NDArray[np.uint64]:
    """Small numbers spread over 64 bits, many of them with equal low bits; 0 stays 0."""
    return np.array(log, np.uint64) * np.uint64(1 << 60 | 1 << 20)


def expected(log: list[int], window: int) -> list[bool]:
    """The definition, plainly: seen earlier in this generation of offsets or in the one before."""
    return [
        value != 0 and value in log[max(0, (offset // window - 1) * window) : offset]
        for offset, value in enumerate(log)
    ]


@settings(deadline=None)
@given(log=LOGS, cuts=CUTS, window=st.integers(1, 20), seed=st.integers(0, 2**64 - 1))
def test_answers_do_not_depend_on_batches(log: list[int], cuts: list[int], window: int, seed: int) -> None:
    """However the log is cut into batches, and whatever the seed, the answers are those of the definition."""
    tested = DuplicateWindow(window, seed)
    hashes, offsets = hashes_of(log), np.arange(len(log))
    borders = sorted({0, len(log), *(cut for cut in cuts if cut < len(log))})
    answers: list[bool] = []
    for start, end in pairwise(borders):
        answers += tested.mark(hashes[start:end], offsets[start:end]).tolist()
    assert answers == expected(log, window)


@settings(deadline=None)
@given(log=LOGS, restart=st.integers(0, 80), window=st.integers(1, 20))
def test_answers_do_not_depend_on_restarts(log: list[int], restart: int, window: int) -> None:
    """A window rebuilt at any offset from the hashes it asks for goes on as the old one would have."""
    restart = min(restart, len(log))
    tested = DuplicateWindow(window)
    tested.mark(hashes_of([5, 6, 7]), np.arange(3))
    start = tested.first_offset_to_rebuild(restart)
    tested.restore(start, hashes_of(log[start:restart]))
    rest = tested.mark(hashes_of(log[restart:]), np.arange(restart, len(log)))
    assert rest.tolist() == expected(log, window)[restart:]
    assert restart - start < 2 * window


def test_memory_is_fixed_and_a_full_generation_fits() -> None:
    """8 MiB at the default, before and after more than two generations of new ids; none of them is lost or invented."""
    window = DuplicateWindow()
    assert window.nbytes == 8 * 1024 * 1024
    hashes = np.arange(1, 2 * DEFAULT_WINDOW + 100, dtype=np.uint64)
    assert not window.mark(hashes, np.arange(len(hashes))).any()
    again = np.arange(len(hashes), len(hashes) + 1000)
    assert window.mark(hashes[-1000:], again).all()
    assert window.nbytes == 8 * 1024 * 1024


def test_offsets_may_not_go_back() -> None:
    """Reading again needs `restore`; within a batch offsets ascend."""
    window = DuplicateWindow(4)
    window.mark(hashes_of([1, 2]), np.arange(2))
    with pytest.raises(ValueError, match="from 2 on"):
        window.mark(hashes_of([3]), np.array([1]))
    with pytest.raises(ValueError, match="ascend"):
        window.mark(hashes_of([3, 4]), np.array([5, 5]))
    with pytest.raises(ValueError, match="equal dimension"):
        window.mark(hashes_of([3, 4]), np.array([5]))
    with pytest.raises(ValueError, match="window"):
        DuplicateWindow(0)
    assert not len(window.mark(hashes_of([]), np.array([], np.int64)))


@pytest.mark.parametrize("id_", ["evt-1", None, ""])
def test_identity_of_raw_records(id_: str | None) -> None:
    """The identity read from JSON is that of its decoded members."""
    raw = json.dumps({"tenant": "acme", "agent": {"id": "other"}, "id": id_, "source": "urn:x"}).encode()
    assert raw_id_hash(raw) == unkeyed_event_id_hash("acme", "urn:x", id_, raw)


@pytest.mark.parametrize("raw", [b"", b"{", b"5", b'{"id": 5}', b'{"id": "\xff"}', b"[" * 100_000])
def test_identity_of_garbage_is_its_bytes(raw: bytes) -> None:
    """What cannot be decoded still has an identity, so that its dead letter is written once."""
    assert raw_id_hash(raw) == unkeyed_event_id_hash(None, None, None, raw)


@settings(deadline=None)
@given(log=LOGS, cuts=CUTS, window=st.integers(1, 20))
def test_what_is_recorded_rebuilds_it(log: list[int], cuts: list[int], window: int) -> None:
    """Taken now and then, as commits do; records that were never marked have none."""
    tested, hashes = DuplicateWindow(window), hashes_of(log)
    tested.mark(hashes[:1], np.arange(1))
    tested.record()
    borders = sorted({1, len(log), *(cut for cut in cuts if 1 < cut < len(log))})
    taken: list[int] = [int(hashes[0])]
    for start, end in pairwise(borders):
        offsets = np.arange(start, end)[hashes[start:end] != 0]
        tested.mark(hashes[offsets], offsets)
        while len(taken) < end - 1 and (end + len(taken)) % 3:
            taken += tested.take_recorded(len(taken), len(taken) + 1).tolist()
    taken += tested.take_recorded(len(taken), len(log)).tolist()
    assert taken == hashes.tolist()
    assert tested.take_recorded(len(log), len(log)).tolist() == []


def test_what_would_get_lost_is_refused() -> None:
    """Records are taken in order, without a gap."""
    window = DuplicateWindow(4)
    window.record()
    window.mark(hashes_of([1, 2]), np.arange(2))
    with pytest.raises(ValueError, match="at 0 was not taken before 1"):
        window.take_recorded(1, 2)
