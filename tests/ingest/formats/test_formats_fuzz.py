"""Whatever arrives, a format takes it, skips it or refuses it with a reason: nothing else may happen to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustwatch.ingest.errors import MalformedEvent
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.formats.format_registry import CONFIGURABLE_FORMATS, create_parser

from ...support.format_samples import (
    ADMIN,
    AT,
    AUDIT_LOG_SAMPLES,
    LINES,
    LOGIN,
    OLD,
    QUOTED,
    TOOL,
    audit_log_records,
    hydra,
    logs,
    span,
)
from ...support.nightly import size

SEEDS: dict[str, list[str]] = {
    "keycloak": [AT + QUOTED, AT + OLD, json.dumps(LOGIN), json.dumps(ADMIN), json.dumps({"ts": 1, "log": QUOTED})],
    "hydra": (LINES / "hydra_2.3.0.jsonl").read_text().splitlines(),
    "otlp": [
        json.dumps(span(TOOL)),
        json.dumps(hydra("OAuth2AccessTokenIssued", OAuth2ClientID="b")),
        json.dumps(logs("agentgateway.access", {"http.status": 200, "client_id": "b"})),
    ],
    **{name: list(map(json.dumps, audit_log_records(name))) for name in AUDIT_LOG_SAMPLES},
}

ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


def check(name: str, value: bytes) -> None:
    """Events are valid, refusals have a reason and keep what was refused."""
    try:
        parcels, skipped = create_parser(name)(value, {})
    except MalformedEvent as error:
        assert error.reason
        return
    assert skipped >= 0
    for parcel in parcels:
        assert parcel.raw in value or (name in ("apisix", "otlp") and parcel.raw)
        assert parcel.to_native is not None
        try:
            native = parcel.to_native()
        except MalformedEvent as error:
            assert error.reason
        else:
            decode_event(native)


@st.composite
def damaged(draw: st.DrawFn, name: str) -> bytes:
    """A good record with bytes cut out, put in, or turned."""
    raw = bytearray(draw(st.sampled_from(SEEDS[name])).encode())
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(0, len(raw) - 1)))
        raw[place : place + draw(st.integers(0, 9))] = draw(st.binary(max_size=5))
    return bytes(raw)


@st.composite
def changed(draw: st.DrawFn, name: str) -> bytes:
    """A good JSON record of which one member, however deep, is of another type."""
    record = json.loads(draw(st.sampled_from([seed for seed in SEEDS[name] if seed.startswith("{")])))
    node: Any = record
    while True:
        key = draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        if isinstance(node[key], dict | list) and node[key] and draw(st.integers(0, 3)):
            node = node[key]
            continue
        node[key] = draw(ANY)
        return json.dumps(record).encode(errors="surrogatepass")


@pytest.mark.parametrize("drawn", [damaged, changed])
@pytest.mark.parametrize("name", SEEDS)
def test_records_that_were_good(name: str, drawn: Callable[[str], st.SearchStrategy[bytes]]) -> None:
    """Cut, shifted, with bytes that are not text; and well-formed JSON that means nothing."""

    @settings(max_examples=size(each_push=80, nightly=1_000), deadline=None)
    @given(drawn(name))
    def run(value: bytes) -> None:
        check(name, value)

    run()


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(CONFIGURABLE_FORMATS), st.binary(max_size=60) | ANY.map(lambda value: json.dumps(value).encode())
)
def test_anything_at_all(name: str, value: bytes) -> None:
    """Every format with a mapping of its own."""
    check(name, value)
