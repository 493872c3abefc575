"""Verification of the chains of decisions (`decision_chain.py`): every link is sound, and none is missing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, NamedTuple

from trustwatch.ingest.described import member

from .decision_chain import ChainHead, ChainLink, content_digest, link_digest
from .decision_store import DecisionStore
from .erasure_store import ErasureStore

MAX_BREAKS = 20
"""Breaks that a report names; more are counted."""


class ChainBreak(NamedTuple):
    """Break of a chain: a link that does not hold."""

    partition: Annotated[int, member("partition of the event log", 0)]
    sequence: Annotated[int, member("place in the chain", 1204)]
    problem: Annotated[str, member("how it is broken", "digest differs")]


class ChainVerification(NamedTuple):
    """Result of a verification."""

    heads: Annotated[tuple[ChainHead, ...], member("end of the chain of each partition")]
    checked: Annotated[int, member("decisions whose content fits their digest")]
    erased: Annotated[int, member("tombstones")]
    redacted: Annotated[int, member("decisions that an erasure took a name out of, and that are as it left them")]
    before: Annotated[int, member("decisions older than the chain; nothing is known of them")]
    breaks: Annotated[tuple[ChainBreak, ...], member("breaks of the chains, at most 20")]
    broken: Annotated[int, member("number of breaks", 0)]

    @property
    def intact(self) -> Annotated[bool, member("whether every chain holds", True)]:
        """True if every chain holds."""
        return self.broken == 0


def verify_chains(decisions: DecisionStore, erasures: ErasureStore) -> ChainVerification:
    """Walk over every chain up to where it ended when the walk began; memory is bounded by a page.

    Takes some 30 µs a decision and the reading of it. Raises Unavailable.
    """
    heads = decisions.chain_heads()
    verifier = _ChainVerifier(decisions, erasures.list_ids())
    for head in heads:
        verifier.verify_chain(head)
    return ChainVerification(
        tuple(heads),
        verifier.checked,
        verifier.erased,
        verifier.redacted,
        decisions.count_unchained(),
        tuple(verifier.breaks),
        verifier.broken,
    )


class _ChainVerifier:
    """Counts of one verification."""

    def __init__(self, decisions: DecisionStore, erasure_ids: set[str]) -> None:
        self._decisions = decisions
        self._erasure_ids = erasure_ids
        self.checked = self.erased = self.redacted = self.broken = 0
        self.breaks: list[ChainBreak] = []

    def verify_chain(self, head: ChainHead) -> None:
        """Verify one chain: first the decisions that retention may have left alone, then every link."""
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
            page = self._decisions.chain_links(head.partition, after)
            for link in page:
                if link.sequence > head.sequence:
                    return
                yield link
                after = link.sequence
            if not page:
                return

    def _report_missing(self, head: ChainHead, first: int, end: int) -> None:
        """Report missing links, unless retention has removed them since the walk began."""
        heads = self._decisions.chain_heads()
        now = next((current for current in heads if current.partition == head.partition), head)
        if end - 1 > now.anchor_sequence:
            gone = max(first, now.anchor_sequence + 1)
            self._report_break(head.partition, gone, f"{end - gone} decisions are missing from here on")

    def _verify_link(self, link: ChainLink) -> None:
        """Verify a link by itself."""
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

    def _report_break(self, partition: int, sequence: int, problem: str) -> None:
        self.broken += 1
        if len(self.breaks) < MAX_BREAKS:
            self.breaks.append(ChainBreak(partition, sequence, problem))
