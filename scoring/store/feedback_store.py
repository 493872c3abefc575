"""Feedback: judgements of people, their steps, the rules in each partition, and previews."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import Column, Connection, select, update

from ..records.agents import AgentName
from ..records.feedback import (
    OPEN_FEEDBACK_STATES,
    Feedback,
    FeedbackPreview,
    FeedbackRule,
    FeedbackStep,
    PartitionRule,
)
from . import codec
from .codec import RowCodec
from .database import Page, TableStore, Tenants, visible, with_values
from .dialects.statements import insert_or_skip, upsert
from .sql_schema import FEEDBACK, FEEDBACK_HOLDINGS, FEEDBACK_PREVIEWS, FEEDBACK_STEPS

if TYPE_CHECKING:
    from .codec import AnyRow
    from .database import AnySelect

_INSERT_FEEDBACK = insert_or_skip(FEEDBACK, "feedback_id")
_INSERT_STEP = insert_or_skip(FEEDBACK_STEPS, "feedback_id", "action")
_UPSERT_PARTITION_RULE = upsert(FEEDBACK_HOLDINGS, ("rule_id", "partition"))
_UPSERT_PREVIEW = upsert(FEEDBACK_PREVIEWS, ("preview_id",), keep=("created_ms",))
_ROWS = RowCodec(Feedback, FEEDBACK, without=("features", "resource"))
_STEP_ROWS = RowCodec(FeedbackStep, FEEDBACK_STEPS)
_PREVIEW_ROWS = RowCodec(FeedbackPreview, FEEDBACK_PREVIEWS)
_MUTABLE_COLUMNS = ("status", "revoked_by", "revoked_ms", "revoked_why", "updated_ms")
"""Columns of feedback that change; the others are the judgement, which stays as it is."""
_encode = msgspec.json.Encoder().encode
_scope_decoder = msgspec.json.Decoder(dict[str, Any])
_rule_decoder = msgspec.json.Decoder(FeedbackRule)


class FeedbackStore(TableStore):
    """Reads and writes feedback on decisions, the rules that follow from it in each partition, and previews."""

    def add(self, feedback: Feedback, step: FeedbackStep) -> bool:
        """Write new feedback with its first step; return False and write nothing if its id exists."""
        scope = _encode({"features": feedback.features, "resource": feedback.resource})
        row = _ROWS.params(feedback) | {"resource": feedback.resource or "", "scope": scope}
        with self._database.write() as connection:
            if not _INSERT_FEEDBACK.adds(connection, row):
                return False
            _INSERT_STEP.execute(connection, _STEP_ROWS.params(step))
        return True

    def update(self, feedback: Feedback, was: str, step: FeedbackStep | None = None) -> bool:
        """Write status and revocation, with a step, if the status is still *was*; return whether it was.

        The judgement itself and an existing step are never overwritten.
        """
        mine = (FEEDBACK.c.feedback_id == feedback.feedback_id, FEEDBACK.c.status == was)
        values = {name: getattr(feedback, name) for name in _MUTABLE_COLUMNS}
        with self._database.write() as connection:
            if connection.execute(update(FEEDBACK).where(*mine).values(values)).rowcount == 0:
                return False
            if step is not None:
                _INSERT_STEP.execute(connection, _STEP_ROWS.params(step))
        return True

    def get(self, feedback_id: str, tenants: Tenants = None) -> Feedback | None:
        """Return one feedback."""
        query = visible(select(FEEDBACK).where(FEEDBACK.c.feedback_id == feedback_id), FEEDBACK.c.tenant, tenants)
        return self._database.fetch_one(query, _to_feedback)

    def page(
        self,
        tenants: Tenants = None,
        status: str | None = None,
        verdict: str | None = None,
        agent: AgentName | None = None,
        decision_id: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Feedback]:
        """List feedback, newest first. Raises BadCursor."""
        values = {FEEDBACK.c.status: status, FEEDBACK.c.verdict: verdict, FEEDBACK.c.decision_id: decision_id}
        query = with_values(visible(select(FEEDBACK), FEEDBACK.c.tenant, tenants), values)
        if agent is not None:
            query = query.where(codec.is_about(FEEDBACK, agent))
        order = (FEEDBACK.c.created_ms, FEEDBACK.c.feedback_id)
        return self._database.newest(query, order, limit, cursor, _to_feedback)

    def list_open(self, tenants: Tenants = None) -> list[Feedback]:
        """List feedback whose rule is active, or is being added or removed, oldest first."""
        query = visible(select(FEEDBACK), FEEDBACK.c.tenant, tenants)
        query = query.where(FEEDBACK.c.status.in_(sorted(OPEN_FEEDBACK_STATES))).order_by(FEEDBACK.c.created_ms)
        return self._database.fetch_all(query, _to_feedback)

    def list_steps(self, feedback_id: str, tenants: Tenants = None) -> list[FeedbackStep]:
        """List the steps of one feedback, oldest first."""
        key = FEEDBACK_STEPS.c.feedback_id
        query = _visible_part(_STEP_ROWS.select(None, key == feedback_id), key, tenants)
        ordered = query.order_by(FEEDBACK_STEPS.c.at_ms, FEEDBACK_STEPS.c.action)
        return self._database.fetch_all(ordered, _STEP_ROWS.read)

    def rules_of_partition(self, partition: int) -> list[PartitionRule]:
        """List the rules of one partition as of its stored position, including ended ones."""
        table = FEEDBACK_HOLDINGS
        query = select(table).where(table.c.partition == partition).order_by(table.c.from_offset, table.c.rule_id)
        return self._database.fetch_all(query, _to_partition_rule)

    def rules_of_feedback(self, feedback_ids: Collection[str], tenants: Tenants = None) -> list[PartitionRule]:
        """List the rules that follow from the feedback, in every partition that has adopted them."""
        table = FEEDBACK_HOLDINGS
        query = _visible_part(select(table).order_by(table.c.rule_id, table.c.partition), table.c.rule_id, tenants)
        return self._database.fetch_among(query, table.c.rule_id, feedback_ids, _to_partition_rule)

    def orphaned_rules(self) -> list[PartitionRule]:
        """List active rules whose feedback was deleted, as an erasure does."""
        table = FEEDBACK_HOLDINGS
        query = select(table).where(table.c.until_offset < 0, table.c.rule_id.not_in(select(FEEDBACK.c.feedback_id)))
        return self._database.fetch_all(query.order_by(table.c.rule_id, table.c.partition), _to_partition_rule)

    def save_preview(self, row: FeedbackPreview) -> None:
        """Insert or overwrite a preview."""
        with self._database.write() as connection:
            _UPSERT_PREVIEW.execute(connection, _PREVIEW_ROWS.params(row))

    def get_preview(self, preview_id: str, tenants: Tenants = None) -> FeedbackPreview | None:
        """Return one preview."""
        return self._database.get(_PREVIEW_ROWS, FEEDBACK_PREVIEWS.c.preview_id == preview_id, tenants=tenants)


def _visible_part(query: AnySelect, feedback_id: Column[str], tenants: Tenants) -> AnySelect:
    if tenants is None:
        return query
    return query.where(feedback_id.in_(visible(select(FEEDBACK.c.feedback_id), FEEDBACK.c.tenant, tenants)))


def write_partition_rules(connection: Connection, rules: Sequence[PartitionRule]) -> None:
    """Insert or overwrite rules of partitions."""
    rows = [
        msgspec.structs.asdict(held)
        | {"rule_id": held.rule.rule_id, "expires_ms": held.rule.expires_ms, "rule": _encode(held.rule)}
        for held in rules
    ]
    _UPSERT_PARTITION_RULE.execute(connection, rows)


def copy_rules_to_partitions(connection: Connection, partitions: Sequence[int]) -> None:
    """Copy every active rule to all *partitions*, starting at their stored positions, after agents have moved."""
    query = select(FEEDBACK_HOLDINGS).where(FEEDBACK_HOLDINGS.c.until_offset < 0)
    active = [_to_partition_rule(row) for row in connection.execute(query)]
    adopted = {(held.rule.rule_id, held.partition) for held in active}
    new = [
        PartitionRule(rule, partition, 0, 0, -1, 0, 0)
        for rule in {held.rule.rule_id: held.rule for held in active}.values()
        for partition in partitions
        if (rule.rule_id, partition) not in adopted
    ]
    write_partition_rules(connection, new)


def _to_feedback(row: AnyRow) -> Feedback:
    scope = _scope_decoder.decode(row.scope)
    features = None if scope["features"] is None else tuple(scope["features"])
    return msgspec.structs.replace(_ROWS.read(row), features=features, resource=scope["resource"])


def _to_partition_rule(row: AnyRow) -> PartitionRule:
    _, partition, epoch, from_offset, until_offset, matched, last_ms, _, rule = row
    return PartitionRule(_rule_decoder.decode(rule), partition, epoch, from_offset, until_offset, matched, last_ms)
