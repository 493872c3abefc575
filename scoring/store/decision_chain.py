"""The chain of decisions: each decision has a digest of its content and of the previous decision's digest.

Each partition has one chain, which its owner writes in the transaction that writes the decision::

    content = SHA-256("tw-decision-1" | salt | canonical JSON of the decision)
    digest  = SHA-256("tw-chain-1" | partition | sequence | digest before | content)

The random salt is stored with the decision. If a decision is erased, content and salt are deleted and the digest of
the content stays: the chain still verifies, and the content cannot be found by guessing. The digests have no key:
a writer of the database can build another chain from some decision on. A head that was recorded elsewhere proves that
(each proof of erasure is signed and has the heads).
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isfinite
from operator import itemgetter
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Raw
from sqlalchemy import Connection, select, update

from trustwatch.ingest.described import member
from trustwatch.ingest.identities import unkeyed_agent_key

from .codec import to_signed
from .dialects.statements import find_stored, insert_or_skip, upsert
from .sql_schema import AGENT_NAME_COLUMNS, CHAINS, DECISIONS

GENESIS_DIGEST = ""
"""Digest before the first decision of a chain."""

SALT_BYTES = 16

DIGESTED_COLUMNS = (
    *("decision_id", "agent_key", "tenant", "issuer", "agent_id", "agent_type", "decided_ms", "event_id"),
    *("event_time_ms", "previous_level", "level", "risk_score", "confidence", "anomaly_score", "p_value"),
    *("counterfactual", "model_version", "baseline_version", "policy_version", "mode", "cause", "partition"),
    *("reasons", "feature_vector", "evidence"),
)
"""Columns of a decision that its digest covers, without `offset`, which becomes -1 if a partition gets another
topic."""

_encode_json = msgspec.json.Encoder().encode
_digested_values = itemgetter(*DIGESTED_COLUMNS)
_INSERT_CHAIN = insert_or_skip(CHAINS, "partition")
_UPSERT_CHAIN_HEAD = upsert(CHAINS, ("partition",), keep=("anchor_sequence", "anchor_digest"))


class ChainHead(NamedTuple):
    """The end of a chain, and the anchor after which the chain must be complete.

    Retention may have removed decisions up to `anchor_sequence`; those that are kept are checked individually.
    """

    partition: Annotated[int, member("partition of the event log", 0)]
    sequence: Annotated[int, member("place in the chain", 1204)] = 0
    digest: Annotated[str, member("SHA-256, hexadecimal", "9f86d081884c7d65")] = GENESIS_DIGEST
    anchor_sequence: Annotated[int, member("decisions up to it were purged", 0)] = 0
    anchor_digest: str = GENESIS_DIGEST


class ChainLink(NamedTuple):
    """One stored decision as a link of the chain.

    Attributes:
        values: the columns of `DIGESTED_COLUMNS`.
        content: salted digest that the chain was built with.
        erasure_id: the erasure that removed or changed its content, if any.
        redacted: salted digest of the content that an erasure changed; "" = nothing was changed, or all was removed.
    """

    partition: int
    sequence: int
    salt: str
    content: str
    previous: str
    digest: str
    erasure_id: str
    redacted: str
    values: Mapping[str, Any]


def content_digest(salt: str, values: Mapping[str, Any]) -> str:
    """Return the salted digest of a decision's content, hexadecimal."""
    covered = dict(zip(DIGESTED_COLUMNS, _digested_values(values), strict=True))
    # The stored key differs between deployments; a digest must not.
    covered["agent_key"] = to_signed(unkeyed_agent_key(*(values[name] for name in AGENT_NAME_COLUMNS)))
    return hashlib.sha256(b"tw-decision-1\0" + salt.encode() + b"\0" + canonical_json(covered)).hexdigest()


def canonical_json(covered: Mapping[str, Any]) -> bytes:
    """Encode columns as JSON, a list of pairs as `json` writes it. Raises ValueError if a float is not finite."""
    # msgspec takes a fifth of the time, but writes floats and characters outside printable ASCII differently.
    pairs = covered.items()
    quick = _encode_json([(name, it if type(it) is str or type(it) is int else _quick_value(it)) for name, it in pairs])
    if quick.isascii() and b"\x7f" not in quick:
        return quick
    plain = [(name, _canonical_value(value)) for name, value in pairs]
    return json.dumps(plain, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def _quick_value(value: Any) -> Any:
    if isinstance(value, float):
        if not isfinite(value):
            raise ValueError(f"JSON has no number {value}")
        return Raw(float.__repr__(value + 0.0))
    return _canonical_value(value)


def _canonical_value(value: Any) -> Any:
    """Write a number the same way for every database: SQLite returns -0.0 as 0.0."""
    if isinstance(value, bytes):
        return value.decode()
    return value + 0.0 if isinstance(value, float) else value


def link_digest(partition: int, sequence: int, previous: str, content: str) -> str:
    """Return the digest of one link, hexadecimal."""
    parts = ("tw-chain-1", str(partition), str(sequence), previous, content)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def link_decisions(
    connection: Connection, rows: Sequence[dict[str, Any]], new_salt: Callable[[], bytes]
) -> list[dict[str, Any]]:
    """Return parameters of decisions with their links, omitting decisions that are already stored and linked.

    Writes the new heads of the chains in this transaction; other writers of the same chains wait for it.
    """
    stored = find_stored(connection, DECISIONS.c.decision_id, [row["decision_id"] for row in rows])
    fresh = list({row["decision_id"]: row for row in rows if row["decision_id"] not in stored}.values())
    by_partition: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in fresh:
        by_partition[row["partition"]].append(row)
    for partition in sorted(by_partition):
        _append_to_chain(connection, partition, by_partition[partition], new_salt)
    return fresh


def _append_to_chain(
    connection: Connection, partition: int, rows: list[dict[str, Any]], new_salt: Callable[[], bytes]
) -> None:
    query = select(CHAINS.c.sequence, CHAINS.c.digest).where(CHAINS.c.partition == partition).with_for_update()
    head = connection.execute(query).one_or_none()
    if head is None:
        _INSERT_CHAIN.execute(connection, ChainHead(partition)._asdict())
        head = connection.execute(query).one()
    sequence, digest = head
    for row in rows:
        sequence += 1
        salt = new_salt().hex()
        content = content_digest(salt, row)
        previous, digest = digest, link_digest(partition, sequence, digest, content)
        row.update(
            chain_sequence=sequence,
            chain_salt=salt,
            chain_content=content,
            chain_previous=previous,
            chain_digest=digest,
            erasure_id="",
            redacted="",
        )
    # The statement leaves the anchor as it is.
    _UPSERT_CHAIN_HEAD.execute(connection, ChainHead(partition, sequence, digest)._asdict())


def advance_anchors(connection: Connection, removed: Iterable[tuple[int, int, str]]) -> None:
    """Move the anchors of chains to the last decisions that retention removes."""
    last: dict[int, tuple[int, str]] = {}
    for partition, sequence, digest in removed:
        if sequence > last.get(partition, (0, ""))[0]:
            last[partition] = sequence, digest
    for partition, (sequence, digest) in sorted(last.items()):
        older = (CHAINS.c.partition == partition, CHAINS.c.anchor_sequence < sequence)
        connection.execute(update(CHAINS).where(*older).values(anchor_sequence=sequence, anchor_digest=digest))


def chain_heads_document(heads: Sequence[ChainHead]) -> list[dict[str, Any]]:
    """Return chain heads as plain data, for proofs and answers."""
    return [{"partition": head.partition, "sequence": head.sequence, "digest": head.digest} for head in heads]
