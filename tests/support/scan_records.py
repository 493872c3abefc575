"""The scanner beside the reference path, and records to give to both."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.errors import MalformedEvent
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.scan.raw_encoder import EncodedBatch, RawEncoder

from tests.support.feature_histories import SALT

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
    "bytes_in": 512,
    "bytes_out": 20.75,
    "duration_ms": 0.1,
    "count": 3,
    "client": {"ip": "198.51.100.7", "asn": None, "user_agent": "sdk/1.2"},
    "credential": {"method": "private_key_jwt", "thumbprint": "x5t", "token_id": "sha256:4", "token_lifetime_s": 300},
    "session": "conv-81",
    "trace_id": "4bf9",
    "txn": "8675309",
    "attributes": {"a": [1, -2.5, {"b": None}, 'q"\\/\b\f\n\r\t'], "c": {}, "d": [], "e": True},
    "vendor": {"x": [[], {}, [{"y": False}]]},
}


class Pair:
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
            for column, made in zip(wanted[1:], found.columns[1:], strict=True):
                assert column.dtype == made.dtype
                np.testing.assert_array_equal(made.view(np.uint8), column.view(np.uint8))
            assert [(position, error.path, error.reason) for position, error in found.refused] == wrong
            assert sorted([*found.positions.tolist(), *(position for position, _ in found.refused)]) == list(
                range(len(payloads))
            )
        self.scanned += len(events) - len(found.columns.events._known)  # type: ignore[attr-defined]
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
        inner = inner[step]
    inner[name] = value
    if value is ...:
        del inner[name]
    return made


def text_with(path: str, raw: str) -> bytes:
    """The whole event with raw JSON text as one member."""
    return compact(changed(path, "@@@")).replace(b'"@@@"', raw.encode("utf-8", "surrogatepass"))
