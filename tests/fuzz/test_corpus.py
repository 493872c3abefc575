"""Every input of the corpus, and thousands near to it, keeps the promise of its parser. Without the fuzzer itself."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .run import CORPUS, MAX_INPUT_BYTES
from .targets import TARGETS

MAX_CORPUS_BYTES = 400_000


def inputs_of(name: str) -> list[bytes]:
    """Inputs of one target."""
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


@st.composite
def damaged(draw: st.DrawFn, inputs: list[bytes]) -> bytes:
    """An input with bytes cut out, put in or doubled."""
    raw = bytearray(draw(st.sampled_from(inputs)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(raw)))
        end = place + draw(st.integers(0, 12))
        raw[place:end] = draw(st.binary(max_size=6) | st.just(bytes(raw[place:end] * 2)))
    return bytes(raw[:MAX_INPUT_BYTES])


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_holds(name: str) -> None:
    """What was found once is tried again each time, and nothing is."""
    for data in (b"", b"\x00", *inputs_of(name)):
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_near_to_the_corpus_holds(name: str) -> None:
    """Cut, shifted, doubled, with bytes that are no text."""

    @settings(max_examples=settings().max_examples // 2, deadline=None)
    @given(damaged(inputs_of(name)))
    def run(data: bytes) -> None:
        TARGETS[name](data)

    run()


@pytest.mark.parametrize("name", TARGETS)
def test_deep_nesting_ends_nothing(name: str) -> None:
    """Brackets by the thousand, alone, in a member and after the choosing bytes."""
    for deep in (b"[" * 50_000, b'{"a":' * 20_000, b'{"id":' + b"[" * 20_000, b'{"keys":[' + b'{"k":' * 20_000):
        TARGETS[name](deep)
        TARGETS[name](b"\x05\x00" + deep)


def test_the_corpus_is_small_and_complete() -> None:
    """A folder of inputs for each target, and none for a target that is gone."""
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < MAX_CORPUS_BYTES
