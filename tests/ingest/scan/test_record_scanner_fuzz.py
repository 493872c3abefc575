"""The scanner and the reference path on whatever comes: the simulator's events, damaged ones, and any at all."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trustwatch.simulator.event_stream import simulate
from trustwatch.simulator.settings import SimulationSettings

from tests.support.feature_histories import event
from tests.support.scan_records import WHOLE, Pair, compact


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair()


def test_scan_equals_the_reference_on_the_simulator(pair: Pair) -> None:
    """Every kind of event that the simulator makes; nearly all are read by the kernels."""
    made = simulate(
        SimulationSettings(
            start=datetime(2026, 3, 2, 8, tzinfo=UTC), duration=timedelta(days=2), agents=40, events_per_agent_day=100.0
        )
    )
    raws = [row.event for row in islice(made, 6000)]
    encoder = Pair()

    for start in range(0, len(raws), 500):
        encoder.check(raws[start : start + 500])

    assert encoder.scanned > 0.95 * len(raws)


def test_scan_of_mutated_records_equals_the_reference(pair: Pair) -> None:
    """Bytes flipped, lost, doubled, put in, moved between records: accepted means equal, all else falls back."""
    draw = random.Random(7)
    raws = [compact(WHOLE), json.dumps(WHOLE, indent=1).encode(), compact(event(client={"ip": "::1"}))]
    mutated = [mutate(draw, raws[number % 3], raws) for number in range(12_000)]

    before = pair.scanned
    for start in range(0, len(mutated), 500):
        pair.check(mutated[start : start + 500])

    assert pair.scanned - before > 500  # many mutations leave a plain event: the kernels were really at work


TOKENS = [
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"true",
    b"0",
    b"-",
    b".",
    b"e",
    b" ",
    b"\0",
    b"\xc3",
    b"\x80",
    b"\xed\xa0\x80",
    b"\\u0041",
    b"9" * 20,
    b'"id":',
    b'"agent":{',
    b'"time":',
]


def mutate(draw: random.Random, raw: bytes, others: list[bytes]) -> bytes:
    """One to three random changes."""
    for _ in range(draw.randint(1, 3)):
        at, length = draw.randrange(len(raw)), draw.randint(1, 6)
        changes: tuple[Callable[[], bytes], ...] = (
            lambda: raw[:at] + bytes([raw[at] ^ (1 << draw.randrange(8))]) + raw[at + 1 :],  # noqa: B023
            lambda: raw[:at] + bytes([draw.randrange(256)]) + raw[at + 1 :],  # noqa: B023
            lambda: raw[:at] + raw[at + length :],  # noqa: B023
            lambda: raw[:at] + raw[at : at + length] + raw[at:],  # noqa: B023
            lambda: raw[:at] + draw.choice(TOKENS) + raw[at:],  # noqa: B023
            lambda: raw[:at] + draw.choice(TOKENS) + raw[at + length :],  # noqa: B023
            lambda: raw[: draw.randrange(len(raw))] + draw.choice(others)[at:],  # noqa: B023
        )
        raw = draw.choice(changes)() or b"{"
    return raw


def mostly(plain: st.SearchStrategy[Any], odd: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """One odd value among thirty: of a record with many members, some must be plain throughout."""
    return st.integers(0, 29).flatmap(lambda number: odd if number == 17 else plain)


PLAIN_TEXTS = st.one_of(
    st.sampled_from(["a", "https://x.example/y", "eve@x.example", "None", "1.2.3.4", "::1", "no host://x"]),
    st.text("aZ09 -_.:/@#?é€😀", min_size=1, max_size=12),
)
TEXTS = mostly(PLAIN_TEXTS, st.text(max_size=12))
AMOUNTS = mostly(
    st.one_of(st.none(), st.integers(0, 10**9), st.decimals(0, 10**6, places=3).map(float)),
    st.one_of(st.integers(0, 2**60), st.floats(0, allow_nan=False), st.integers(-3, 3)),
)
NAMES = st.one_of(st.none(), st.lists(TEXTS, max_size=4))


@st.composite
def records(draw: st.DrawFn) -> dict[str, Any]:
    """Events of any content, mostly valid, in any order of members."""
    optional = st.one_of(st.none(), TEXTS)

    def some(**members: st.SearchStrategy[Any]) -> dict[str, Any]:
        wanted = draw(st.lists(st.sampled_from(sorted(members)), unique=True))
        return {name: draw(members[name]) for name in wanted}

    agent = {"id": draw(TEXTS)} | some(
        issuer=optional, type=optional, version=optional, capabilities=NAMES, self_asserted=st.booleans(), other=AMOUNTS
    )
    made = {
        "time": draw(st.sampled_from(["2026-03-02T08:00:14.137Z", "1999-12-31T23:59:59+05:30"])),
        "agent": agent,
        "type": draw(st.sampled_from(["tool.call", "token.revoke", "a2a.message", "admin", "approval", "other"])),
        "action": draw(TEXTS),
        "outcome": draw(st.sampled_from(["success", "denied", "error"])),
    }
    made |= some(
        id=optional,
        tenant=optional,
        task=optional,
        peer=optional,
        session=optional,
        delegation=NAMES,
        status=AMOUNTS,
        error=st.sampled_from(["ext_authz_denied", "ext_authz_error", "recorded_by_trustwatch", None, "x"]),
        bytes_in=AMOUNTS,
        bytes_out=AMOUNTS,
        count=AMOUNTS,
        effect=st.sampled_from(["read", "admin", "unknown", None]),
        attributes=st.dictionaries(TEXTS, AMOUNTS, max_size=3),
        vendor=st.recursive(
            AMOUNTS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3)
        ),
    )
    for name, inner in {
        "principal": {"id": optional, "type": optional},
        "resource": {
            "type": optional,
            "id": optional,
            "target": optional,
            "audience": optional,
            "external": st.one_of(st.none(), st.booleans()),
            "provenance": st.sampled_from(["granted", "new", None]),
        },
        "scopes": {"requested": NAMES, "granted": NAMES},
        "client": {"ip": optional, "asn": st.one_of(st.none(), st.integers(0, 2**40)), "user_agent": optional},
        "credential": {
            "method": st.sampled_from(["none", "spiffe", "x", None]),
            "thumbprint": optional,
            "token_id": optional,
            "token_lifetime_s": AMOUNTS,
        },
    }.items():
        if draw(st.booleans()):
            made[name] = draw(st.none()) if draw(st.integers(0, 9)) == 0 else some(**inner)
    return dict(draw(st.permutations(sorted(made.items(), key=lambda item: item[0]))))


@settings(max_examples=300, deadline=None)
@given(st.lists(records(), min_size=1, max_size=5), st.booleans())
def test_scan_of_any_record_equals_the_reference(pair: Pair, made: list[dict[str, Any]], ascii_only: bool) -> None:
    """Properties instead of examples: whatever the members hold, in whatever order they stand."""
    pair.check([json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "replace") for value in made])
