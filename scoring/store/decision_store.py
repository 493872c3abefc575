"""Decisions: lists, counts, those that topics do not have yet, and the verification of their chains."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from sqlalchemy import func, or_, select

from trustwatch.ingest.described import member
from trustwatch.ingest.timestamps import DAY_MS

from ..records.agents import ALERTING_LEVELS, AgentName, RiskLevel
from ..records.decisions import Decision
from ..records.models import DailyAlertCount
from . import codec
from .database import Page, TableStore, Tenants, between, day_of, visible
from .decision_chain import DIGESTED_COLUMNS, ChainHead, ChainLink, content_digest, link_digest
from .dialects.statements import leading_code
from .erasure_store import ErasureStore
from .sql_schema import CHAINS, DECISIONS

if TYPE_CHECKING:
    from .codec import AnyRow

MAX_CLOCK_SKEW_MS = 600_000
"""A decision is made when its event arrives: at most some minutes before the time of an event whose clock is ahead."""
IS_READABLE = or_(DECISIONS.c.erasure_id == "", DECISIONS.c.redacted != "")
"""Condition that an erasure has not emptied the decision."""


class CountedChanges(NamedTuple):
    """Number of decisions from one level to another with the same leading reason; *code* is "" without a reason."""

    previous_level: int
    level: int
    code: str
    amount: int


class DecisionStore(TableStore):
    """Reads decisions. Lists and look-ups omit decisions that an erasure emptied."""

    def get(self, decision_id: str, tenants: Tenants = None) -> Decision | None:
        """Return one decision."""
        mine = DECISIONS.c.decision_id == decision_id
        return self._database.get(codec.DECISION_ROWS, mine, IS_READABLE, tenants=tenants)

    def get_many(self, decision_ids: Collection[str], tenants: Tenants = None) -> dict[str, Decision]:
        """Return decisions by id; omits those that do not exist or may not be seen."""
        query = codec.DECISION_ROWS.select(tenants, IS_READABLE)
        found = self._database.fetch_among(query, DECISIONS.c.decision_id, set(decision_ids), codec.to_decision)
        return {decision.decision_id: decision for decision in found}

    def page(
        self,
        tenants: Tenants = None,
        agent: AgentName | None = None,
        limit: int = 50,
        cursor: str | None = None,
        *,
        since_ms: int = 0,
        until_ms: int = 0,
    ) -> Page[Decision]:
        """List decisions, newest first, decided since and before the given times (0 = no bound). Raises BadCursor."""
        query = codec.DECISION_ROWS.select(tenants, IS_READABLE)
        query = between(query, DECISIONS.c.decided_ms, since_ms, until_ms)
        if agent is not None:
            query = query.where(codec.is_about(DECISIONS, agent))
        order = (DECISIONS.c.decided_ms, DECISIONS.c.decision_id)
        return self._database.newest(query, order, limit, cursor, codec.to_decision)

    def iterate_unpublished(self, partition: int, after: int, chunk: int = 1_000) -> Iterator[Decision]:
        """Iterate over decisions that commits of *partition* above the offset *after* wrote, in record order."""
        # A commit's offset is the one after its last record; a decision has its record's offset, which is lower.
        order = (DECISIONS.c.offset, DECISIONS.c.decision_id)
        query = codec.DECISION_ROWS.select(None, DECISIONS.c.partition == partition)
        rows = self._database.iterate(query, order, chunk, start=DECISIONS.c.offset >= after)
        return map(codec.to_decision, rows)

    def count_alerts(self, from_day: int, tenants: Tenants = None) -> list[DailyAlertCount]:
        """Count decisions that raised an agent to medium or above since *from_day*, by day of the event."""
        group = (day_of(DECISIONS.c.event_time_ms), DECISIONS.c.tenant, DECISIONS.c.agent_type)
        counts = [
            func.count().filter(DECISIONS.c.level >= level, DECISIONS.c.previous_level < level)
            for level in ALERTING_LEVELS
        ]
        first = from_day * DAY_MS
        since = (
            DECISIONS.c.decided_ms >= first - MAX_CLOCK_SKEW_MS,  # for the index
            DECISIONS.c.event_time_ms >= first,
            DECISIONS.c.level > DECISIONS.c.previous_level,
        )
        query = select(*group, *counts).where(*since, DECISIONS.c.level >= RiskLevel.MEDIUM).group_by(*group)
        query = visible(query, DECISIONS.c.tenant, tenants)
        counted = self._database.fetch_all(query, lambda row: DailyAlertCount(*row))
        return sorted(counted, key=lambda count: (count.day, count.tenant, count.agent_type))

    def count_changes(self, since_ms: int, until_ms: int, tenants: Tenants = None) -> list[CountedChanges]:
        """Count changes of level decided from *since_ms* and before *until_ms*, by levels and leading reason."""
        code = func.coalesce(leading_code(DECISIONS.c.reasons), "")
        kinds = (DECISIONS.c.previous_level, DECISIONS.c.level, code)
        within = (DECISIONS.c.decided_ms >= since_ms, DECISIONS.c.decided_ms < until_ms, IS_READABLE)
        query = visible(select(*kinds, func.count()).where(*within), DECISIONS.c.tenant, tenants).group_by(*kinds)
        return self._database.fetch_all(query, lambda row: CountedChanges(*row))

    def last_before(self, until_ms: int, tenants: Tenants = None) -> int:
        """Return the time of the newest decision before *until_ms*; 0 if there is none."""
        query = select(func.max(DECISIONS.c.decided_ms)).where(DECISIONS.c.decided_ms < until_ms)
        return self._database.scalar(visible(query, DECISIONS.c.tenant, tenants)) or 0

    def chain_heads(self) -> list[ChainHead]:
        """List the ends of the chains, by partition."""
        return self._database.fetch_all(select(CHAINS).order_by(CHAINS.c.partition), lambda row: ChainHead(*row))

    def chain_links(self, partition: int, after: int, limit: int = 500) -> list[ChainLink]:
        """List the links of a chain after a sequence number, in order, including erased decisions."""
        query = select(DECISIONS).where(DECISIONS.c.partition == partition, DECISIONS.c.chain_sequence > after)
        return self._database.fetch_all(query.order_by(DECISIONS.c.chain_sequence).limit(limit), _to_link)

    def count_unchained(self) -> int:
        """Count the decisions that were written before the chain existed."""
        query = select(func.count()).select_from(DECISIONS).where(DECISIONS.c.chain_sequence == 0)
        return int(self._database.scalar(query))


def _to_link(stored: AnyRow) -> ChainLink:
    row: Mapping[Any, Any] = stored._mapping
    chain = (row[f"chain_{name}"] for name in ("sequence", "salt", "content", "previous", "digest"))
    values = {name: row[name] for name in DIGESTED_COLUMNS}
    return ChainLink._make([row["partition"], *chain, row["erasure_id"], row["redacted"], values])


# Verification of the chains (`decision_chain.py`): every link is valid, and none is missing.

MAX_BREAKS = 20
"""Number of breaks that a report lists; further ones are counted."""


class ChainBreak(NamedTuple):
    """An invalid or missing link of a chain."""

    partition: Annotated[int, member("partition of the event log", 0)]
    sequence: Annotated[int, member("place in the chain", 1204)]
    problem: Annotated[str, member("how the chain is broken", "digest differs")]


class ChainVerification(NamedTuple):
    """Result of verifying the chains."""

    heads: Annotated[tuple[ChainHead, ...], member("end of the chain of each partition")]
    checked: Annotated[int, member("decisions whose content fits their digest")]
    erased: Annotated[int, member("erased decisions (tombstones)")]
    redacted: Annotated[int, member("decisions that an erasure took a name out of, and that are as it left them")]
    before: Annotated[int, member("decisions older than the chain, which cannot be checked")]
    breaks: Annotated[tuple[ChainBreak, ...], member("breaks of the chains, at most 20")]
    broken: Annotated[int, member("number of breaks", 0)]

    @property
    def intact(self) -> Annotated[bool, member("whether every chain is intact", True)]:
        return self.broken == 0


def verify_chains(decisions: DecisionStore, erasures: ErasureStore) -> ChainVerification:
    """Verify every chain up to its current end, a page at a time. Takes about 30 µs per decision, plus reading it.

    Raises Unavailable.
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
    def __init__(self, decisions: DecisionStore, erasure_ids: set[str]) -> None:
        self._decisions = decisions
        self._erasure_ids = erasure_ids
        self.checked = self.erased = self.redacted = self.broken = 0
        self.breaks: list[ChainBreak] = []

    def verify_chain(self, head: ChainHead) -> None:
        """Verify one chain: first the decisions that retention kept, then every link."""
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
        """Report missing links, unless retention has removed them since the verification began."""
        heads = self._decisions.chain_heads()
        now = next((current for current in heads if current.partition == head.partition), head)
        if end - 1 > now.anchor_sequence:
            gone = max(first, now.anchor_sequence + 1)
            self._report_break(head.partition, gone, f"{end - gone} decisions are missing from here on")

    def _verify_link(self, link: ChainLink) -> None:
        if link_digest(link.partition, link.sequence, link.previous, link.content) != link.digest:
            self._report_break(link.partition, link.sequence, "its digests do not fit each other")
        elif not link.erasure_id:
            if content_digest(link.salt, link.values) == link.content:
                self.checked += 1
            else:
                self._report_break(link.partition, link.sequence, "its content was changed")
        elif link.erasure_id not in self._erasure_ids:
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
