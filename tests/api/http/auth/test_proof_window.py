"""What is remembered of proofs: bounded for one holder and for all, and no proof passes twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trustwatch.api.http.auth.proof_of_possession import ProofWindow

BOT, PAYER = b"bot", b"payer"


def test_the_window_is_bounded() -> None:
    """Beyond, the oldest of all are forgotten, and nothing as old as they were is taken of anybody."""
    window = ProofWindow(60.0, 20, 0.0)
    for number in range(21):
        assert window.add(b"%d" % (number // 2), b"%d" % number, 100 + number // 2, 110.0)
    assert len(window) == 19
    assert not window.add(b"0", b"0", 100, 110.0)
    assert not window.remembers(PAYER, 100.9)
    assert not window.add(PAYER, b"new", 100.9, 110.0)
    assert not window.add(b"1", b"2", 101, 110.0)
    assert window.add(PAYER, b"new", 101, 110.0)
    assert window.add(PAYER, b"later", 200, 200.0)
    assert len(window) == 1


def test_a_clock_that_is_set_back_brings_nothing_back() -> None:
    """What was forgotten as too old is refused, though it would not be too old by the new time."""
    window = ProofWindow(60.0, 20, 0.0)
    assert window.add(BOT, b"x", 941, 1000.9)
    assert window.add(BOT, b"y", 1003, 1003.0)
    assert not window.remembers(BOT, 941)
    assert not window.add(BOT, b"x", 941, 1000.5)
    assert window.add(BOT, b"z", 950, 1000.5)


def test_one_second_is_bounded() -> None:
    """Where all proofs are of one second, that second is over, and nothing is kept of it."""
    window = ProofWindow(60.0, 20, 0.0)
    taken = [window.add(b"%d" % (number // 2), b"%d" % number, 100, 100.0) for number in range(30)]
    assert (sum(taken), taken[20], taken[21], len(window)) == (21, True, False, 0)
    assert window.add(BOT, b"x", 101, 101.0)


def test_one_holder_is_bounded() -> None:
    """By a tenth: its own oldest are forgotten; nobody else notices. Once they are too old, it begins anew."""
    window = ProofWindow(60.0, 30, 0.0)
    assert all(window.add(BOT, b"%d" % second, second, 104.0) for second in range(100, 105))
    assert [window.remembers(BOT, second) for second in (100, 101, 102)] == [False, False, True]
    assert not window.add(BOT, b"other", 101, 104.0)
    assert window.add(PAYER, b"x", 100, 104.0)
    assert len(window) == 4
    assert window.add(PAYER, b"y", 200, 200.0)
    assert (len(window), window._floors, dict(window._counts)) == (1, {}, {PAYER: 1})


def test_nothing_is_known_from_before_the_beginning() -> None:
    window = ProofWindow(60.0, 30, 100.5)
    assert [window.add(BOT, b"x", iat, 101.0) for iat in (60, 99.9, 100, 101)] == [False, False, True, True]


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from([BOT, PAYER]), st.integers(0, 30), st.integers(0, 3)), max_size=60
    ),
    st.integers(1, 25),
)
def test_no_proof_passes_twice(shown: list[tuple[int, bytes, int, int]], most: int) -> None:
    """Whatever is shown by whom in whatever order, over forgetting and clocks that go on; what is kept is bounded."""
    window, taken, now = ProofWindow(10.0, most, 0.0), set(), 0.0
    for name, holder, iat, later in shown:
        now += later
        if not now - 10.0 <= iat <= now:
            continue
        if window.add(holder, b"%d" % name, iat, now):
            assert (name, holder, iat) not in taken
            taken.add((name, holder, iat))
        assert len(window) <= most
        assert len(window) == sum(len(one) for holders in window._by_second.values() for one in holders.values())
