"""The chain of decisions: each one carries a digest over its content and over the digest of the one before it.

There is one chain per partition, written by whoever owns it, in the transaction that writes the decision::

    content = SHA-256("tw-decision-1" | salt | canonical JSON of the decision)
    digest  = SHA-256("tw-chain-1" | partition | sequence | digest before | content)

The salt is random and lies beside the decision. Where a decision is erased, content and salt go and the digest of the
content stays: the chain still verifies, and nobody can find out by guessing what the decision said. The digests have no
key: whoever may write to the database can build another chain from some place on. What holds against that is a head
that was noted elsewhere (each proof of erasure is signed and has the heads).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

GENESIS_DIGEST = ""
"""What stands before the first decision of a chain."""

SALT_BYTES = 16
MAX_BREAKS = 20
"""Breaks that a report names; more are counted."""

DIGESTED_COLUMNS = (
    "decision_id",
    "agent_key",
    "tenant",
    "issuer",
    "agent_id",
    "agent_type",
    "decided_ms",
    "event_id",
    "event_time_ms",
    "previous_level",
    "level",
    "risk_score",
    "confidence",
    "anomaly_score",
    "p_value",
    "counterfactual",
    "model_version",
    "baseline_version",
    "policy_version",
    "mode",
    "cause",
    "partition",
    "reasons",
    "feature_vector",
    "evidence",
)
"""Columns of a decision that its digest covers. Not `offset`: it is set to -1 where a partition gets another topic."""


class ChainHead(NamedTuple):
    """Where a chain ends, and from where on all of it must be there.

    Decisions up to `anchor_sequence` may have been removed by retention; those that are kept are checked by
    themselves.
    """

    partition: int
    sequence: int = 0
    digest: str = GENESIS_DIGEST
    anchor_sequence: int = 0
    anchor_digest: str = GENESIS_DIGEST


class ChainLink(NamedTuple):
    """One stored decision as the chain sees it.

    Attributes:
        values: the columns of `DIGESTED_COLUMNS`.
        content: salted digest that the chain was built with.
        erasure_id: the erasure that removed or changed its content; "" = it is whole.
        redacted: salted digest of what an erasure left of the content; "" = nothing was changed, or all is gone.
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


class ChainBreak(NamedTuple):
    """A place where the chain does not hold."""

    partition: int
    sequence: int
    problem: str


class ChainVerification(NamedTuple):
    """What a verification found.

    Attributes:
        heads: ends of the chains when it began.
        checked: decisions whose content fits their digest.
        erased: tombstones of decisions.
        redacted: decisions that an erasure changed, and that are as it left them.
        before: decisions from before there was a chain; nothing is known of them.
        breaks: where it does not hold, at most `MAX_BREAKS`.
        broken: number of breaks.
    """

    heads: tuple[ChainHead, ...]
    checked: int
    erased: int
    redacted: int
    before: int
    breaks: tuple[ChainBreak, ...]
    broken: int

    @property
    def intact(self) -> bool:
        """Whether every chain holds."""
        return self.broken == 0


class ChainStore(Protocol):
    """The part of a store that a verification reads."""

    def chain_heads(self) -> list[ChainHead]:
        """Of every partition that has a chain, by number."""

    def chain_links(self, partition: int, after: int, limit: int = 500) -> list[ChainLink]:
        """Decisions of a chain behind a sequence number, in order."""

    def unchained_decisions(self) -> int:
        """Decisions that were written before there was a chain."""

    def erasure_ids(self) -> set[str]:
        """Every erasure that the store knows."""


def content_digest(salt: str, values: Mapping[str, Any]) -> str:
    """Salted digest of a decision's content, hexadecimal.

    Args:
        salt: hexadecimal.
        values: columns of the table of decisions, at least those of `DIGESTED_COLUMNS`; others are left out.
    """
    plain = [[name, _canonical_value(values[name])] for name in DIGESTED_COLUMNS]
    body = json.dumps(plain, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()
    return hashlib.sha256(b"tw-decision-1\0" + salt.encode() + b"\0" + body).hexdigest()


def _canonical_value(value: Any) -> Any:
    """The same number whichever database kept it: -0.0 comes back from SQLite as 0.0."""
    if isinstance(value, bytes):
        return value.decode()
    return value + 0.0 if isinstance(value, float) else value


def link_digest(partition: int, sequence: int, previous: str, content: str) -> str:
    """Digest of one link, hexadecimal."""
    parts = ("tw-chain-1", str(partition), str(sequence), previous, content)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def verify_chains(store: ChainStore) -> ChainVerification:
    """Walk over every chain up to where it ended when the walk began; memory is bounded by a page.

    Takes some 30 µs a decision and the reading of it. Raises Unavailable.
    """
    heads, known = store.chain_heads(), store.erasure_ids()
    walk = _ChainVerifier(store, known)
    for head in heads:
        walk.verify_chain(head)
    return ChainVerification(
        tuple(heads),
        walk.checked,
        walk.erased,
        walk.redacted,
        store.unchained_decisions(),
        tuple(walk.breaks),
        walk.broken,
    )


class _ChainVerifier:
    """Counts of one verification."""

    def __init__(self, store: ChainStore, known: set[str]) -> None:
        self._store = store
        self._erasure_ids = known
        self.checked = self.erased = self.redacted = self.broken = 0
        self.breaks: list[ChainBreak] = []

    def verify_chain(self, head: ChainHead) -> None:
        """One chain: what retention may have left by themselves first, then every link."""
        expected, previous = head.anchor_sequence + 1, head.anchor_digest
        for link in self._links(head):
            self._verify_link(link)
            if link.sequence < expected:  # at or before the anchor
                continue
            if link.sequence > expected:
                self._report_missing(head, expected, link.sequence)
            elif link.previous != previous:
                self._report_break(link.partition, link.sequence, "does not continue the decision before it")
            expected, previous = link.sequence + 1, link.digest
        if expected <= head.sequence:
            self._report_missing(head, expected, head.sequence + 1)
        elif expected == head.sequence + 1 and previous != head.digest:
            self._report_break(head.partition, head.sequence, "is not the one that the chain ended with")

    def _links(self, head: ChainHead) -> Iterator[ChainLink]:
        after = 0
        while after < head.sequence:
            page = self._store.chain_links(head.partition, after)
            for link in page:
                if link.sequence > head.sequence:
                    return
                yield link
                after = link.sequence
            if not page:
                return

    def _report_missing(self, head: ChainHead, first: int, end: int) -> None:
        """Unless retention has removed them since the walk began."""
        now = next((one for one in self._store.chain_heads() if one.partition == head.partition), head)
        if end - 1 > now.anchor_sequence:
            gone = max(first, now.anchor_sequence + 1)
            self._report_break(head.partition, gone, f"{end - gone} decisions are missing from here on")

    def _verify_link(self, link: ChainLink) -> None:
        """A link by itself."""
        if link_digest(link.partition, link.sequence, link.previous, link.content) != link.digest:
            self._report_break(link.partition, link.sequence, "its digests do not fit each other")
        elif link.erasure_id:
            self._verify_erased_link(link)
        elif content_digest(link.salt, link.values) != link.content:
            self._report_break(link.partition, link.sequence, "its content was changed")
        else:
            self.checked += 1

    def _verify_erased_link(self, link: ChainLink) -> None:
        if link.erasure_id not in self._erasure_ids:
            self._report_break(link.partition, link.sequence, "is a tombstone of an erasure that never was")
        elif not link.redacted:
            self.erased += 1
        elif content_digest(link.salt, link.values) != link.redacted:
            self._report_break(link.partition, link.sequence, "its content was changed after an erasure")
        else:
            self.redacted += 1

    def _report_break(self, partition: int, sequence: int, what: str) -> None:
        self.broken += 1
        if len(self.breaks) < MAX_BREAKS:
            self.breaks.append(ChainBreak(partition, sequence, what))


def chain_heads_document(heads: Sequence[ChainHead]) -> list[dict[str, Any]]:
    """Heads as plain data, for proofs and answers."""
    return [{"partition": one.partition, "sequence": one.sequence, "digest": one.digest} for one in heads]
