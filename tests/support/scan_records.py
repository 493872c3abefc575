"""The scanner beside the reference path, and records to give to both."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.errors import MalformedEvent
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.scan.raw_encoder import EncodedBatch, RawEncoder

from .feature_histories import SALT

DOMAINS = {"acme": ["acme.example", "Internal.test"]}
WHOLE: dict[str, Any] = {
    "id": "evt-1",
    "time": "2026-03-02T08:00:14.137Z",
    "source": "urn:as",
    "type": "tool.call",
    "tenant": "acme",
    "agent": {
        "id": "https://agents.acme.example/7",
        "issuer": "https://as.acme.example",
        "type": "Clerk",
        "version": "1.8",
        "instance": "pod-7",
        "capabilities": ["read", "zürich", "pay"],
        "self_asserted": False,
    },
    "principal": {"id": "jürgen@acme.example", "type": "user"},
    "delegation": ["a", "", "b€"],
    "task": "triage",
    "action": "pay",
    "effect": "write",
    "resource": {
        "type": "account",
        "id": "acct-42",
        "target": "https://Evil.example:8443/drop?x=1",
        "external": None,
        "audience": "https://pay.example",
        "provenance": "granted",
    },
    "peer": "ledger",
    "scopes": {"requested": ["b", "a", "b"], "granted": ["a"]},
    "outcome": "denied",
    "status": 200,
    "error": "ext_authz_denied",
    "caused_by": "trustwatch",
    "unauthorized": ["", "b€", "ledger"],
    "bytes_in": 512,
    "bytes_out": 20.75,
    "duration_ms": 0.1,
    "count": 3,
    "client": {"ip": "198.51.100.7", "asn": None, "user_agent": "sdk/1.2"},
    "credential": {"method": "private_key_jwt", "thumbprint": "x5t", "token_id": "sha256:4", "token_lifetime_s": 300},
    "session": "conv-81",
    "trace_id": "4bf9",
    "txn": "8675309",
    "arguments": [
        {"name": "to", "origin": "prompt", "hash": "39e505e56acc"},
        {
            "name": "body~é",
            "origin": "tool",
            "hash": "00ff00ff",
            "from": 2,
            "from_action": "read_mail",
            "part": True,
            "untrusted": True,
            "vendor": [{}],
        },
    ],
    "untrusted_result": True,
    "attributes": {"a": [1, -2.5, {"b": None}, 'q"\\/\b\f\n\r\t'], "c": {}, "d": [], "e": True},
    "vendor": {"x": [[], {}, [{"y": False}]]},
}


class ScannerAndReference:
    """A scanner and the path that it must equal. The memory is small, so that it also runs full."""

    def __init__(self) -> None:
        self.raw = RawEncoder(ColumnEncoder(SALT, DOMAINS), places=2048)
        self.reference = ColumnEncoder(SALT, DOMAINS)
        self.scanned = 0

    def check(self, payloads: list[bytes]) -> EncodedBatch:
        """Encode twice, as the second time finds everything remembered; both must be as the reference."""
        events, wrong = [], []
        for position, payload in enumerate(payloads):
            try:
                events.append(decode_event(payload))
            except MalformedEvent as error:
                wrong.append((position, error.path, error.reason))
        wanted = self.reference.encode(events)
        for _ in range(2):
            found = self.raw.encode(payloads)
            assert (wanted.arguments is None) == (found.columns.arguments is None)
            made_arguments, wanted_arguments = found.columns.arguments or (), wanted.arguments or ()
            for column, made in zip(
                (*wanted[1:5], *wanted_arguments), (*found.columns[1:5], *made_arguments), strict=True
            ):
                assert column.dtype == made.dtype
                np.testing.assert_array_equal(made.view(np.uint8), column.view(np.uint8))
            assert [(position, error.path, error.reason) for position, error in found.refused] == wrong
            assert sorted([*found.positions.tolist(), *(position for position, _ in found.refused)]) == list(
                range(len(payloads))
            )
        self.scanned += len(events) - len(found.columns.events._decoded)  # type: ignore[attr-defined]
        assert list(found.columns.events) == events
        return found

    def is_scanned(self, payload: bytes) -> bool:
        """Whether the kernels accept a record, once everything in it is remembered."""
        before = self.scanned
        self.check([payload])
        return self.scanned > before


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def changed(path: str, value: Any) -> dict[str, Any]:
    """The whole event with another member; `...` leaves it out."""
    made: dict[str, Any] = json.loads(compact(WHOLE))
    *outer, name = path.split(".")
    inner = made
    for step in outer:
        inner = inner[step] if isinstance(inner[step], dict) else inner[step][-1]
    inner[name] = value
    if value is ...:
        del inner[name]
    return made


def text_with(path: str, raw: str) -> bytes:
    """The whole event with raw JSON text as one member."""
    return compact(changed(path, "@@@")).replace(b'"@@@"', raw.encode("utf-8", "surrogatepass"))


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


HASHES = st.text("0123456789abcdef", min_size=8, max_size=64)
ARGUMENTS = st.none() | st.lists(
    st.fixed_dictionaries(
        {
            "name": mostly(st.sampled_from(["to", "body~", "é" * 256]), st.sampled_from(["", "x" * 257])),
            "origin": mostly(st.sampled_from(["prompt", "system", "tool", "unseen"]), TEXTS),
        },
        optional={
            "hash": st.none() | mostly(HASHES, st.text("0123456789abcdefgA\n", max_size=66)),
            "from": st.none() | mostly(st.integers(0, 999_999_999), AMOUNTS),
            "from_action": st.none() | mostly(st.sampled_from(["read_mail", "b"]), TEXTS),
            "part": mostly(st.booleans(), st.none()),
            "untrusted": mostly(st.booleans(), st.none()),
            "other": AMOUNTS,
        },
    ),
    max_size=4,
)


def mutate(draw: random.Random, raw: bytes, others: list[bytes]) -> bytes:
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
        "type": draw(
            st.sampled_from(["tool.call", "token.revoke", "a2a.message", "admin", "approval", "other", "signal.hard"])
        ),
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
        caused_by=st.sampled_from(["trustwatch", None, "somebody"]),
        unauthorized=NAMES,
        bytes_in=AMOUNTS,
        bytes_out=AMOUNTS,
        count=AMOUNTS,
        effect=st.sampled_from(["read", "admin", "unknown", None]),
        attributes=st.dictionaries(TEXTS, AMOUNTS, max_size=3),
        arguments=ARGUMENTS,
        untrusted_result=mostly(st.sampled_from([True, False, None]), AMOUNTS),
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
