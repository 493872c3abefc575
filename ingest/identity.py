"""The identity of an event, as 64 bits, for the duplicate window."""

from __future__ import annotations

import hashlib

import msgspec


class _Named(msgspec.Struct, gc=False):
    tenant: str | None = None
    source: str | None = None
    id: str | None = None


_decoder = msgspec.json.Decoder(_Named)


def event_id_hash(tenant: str | None, source: str | None, event_id: str | None, raw: bytes | memoryview) -> int:
    """Identity of an event: unsigned 64 bits, never 0, the same everywhere and for ever.

    An id is unique within its tenant and source, as CloudEvents says for `source` + `id`. Without an id the record's
    own bytes are its identity.

    Args:
        raw: the record as it is logged; read only where *event_id* is missing or empty.
    """
    if event_id:
        tenant, source = tenant or "", source or ""
        data: bytes | memoryview = f"{len(tenant)}:{len(source)}:{tenant}{source}{event_id}".encode()
        person = b"tw-event-id"
    else:
        data, person = raw, b"tw-event-raw"
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, person=person).digest(), "little") or 1


def raw_id_hash(raw: bytes | memoryview) -> int:
    """Identity of an event that is not decoded yet; a record that cannot be decoded is identified by its bytes."""
    try:
        named = _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return event_id_hash(None, None, None, raw)
    return event_id_hash(named.tenant, named.source, named.id, raw)
