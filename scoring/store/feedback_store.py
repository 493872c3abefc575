"""Feedback: judgements of people, their steps, the rules in each partition, previews."""

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
from .database import Database, Page, Tenants, visible, with_values
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
"""Columns of feedback that change in its life; the others are the judgement, and stay."""
_encode = msgspec.json.Encoder().encode
_scope_decoder = msgspec.json.Decoder(dict[str, Any])
_rule_decoder = msgspec.json.Decoder(FeedbackRule)


class FeedbackStore:
    """Feedback of people on decisions, the rules that follow from it in each partition, and previews."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, feedback: Feedback, step: FeedbackStep) -> bool:
        """Write new feedback with its first step; False = its id is known, and nothing is written."""
        with self._database.write() as connection:
            if not _INSERT_FEEDBACK.adds(connection, _feedback_params(feedback)):
                return False
            _INSERT_STEP.execute(connection, _STEP_ROWS.params(step))
        return True

    def update(self, feedback: Feedback, was: str, step: FeedbackStep | None = None) -> bool:
        """Write status and revocation of feedback whose status still is *was*, with a step; whether it was.

        What was said is never overwritten; a step that is written stays as it is.
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
        """One feedback."""
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
        """Feedback, newest first. Raises BadCursor."""
        query = visible(select(FEEDBACK), FEEDBACK.c.tenant, tenants)
        query = with_values(
            query, {FEEDBACK.c.status: status, FEEDBACK.c.verdict: verdict, FEEDBACK.c.decision_id: decision_id}
        )
        if agent is not None:
            query = query.where(codec.is_about(FEEDBACK, agent))
        order = (FEEDBACK.c.created_ms, FEEDBACK.c.feedback_id)
        return self._database.newest(query, order, limit, cursor, _to_feedback)

    def list_open(self, tenants: Tenants = None) -> list[Feedback]:
        """Feedback whose rule is active, or is being added or removed; oldest first."""
        query = visible(select(FEEDBACK), FEEDBACK.c.tenant, tenants)
        query = query.where(FEEDBACK.c.status.in_(sorted(OPEN_FEEDBACK_STATES))).order_by(FEEDBACK.c.created_ms)
        return self._database.fetch_all(query, _to_feedback)

    def list_steps(self, feedback_id: str, tenants: Tenants = None) -> list[FeedbackStep]:
        """Steps of one feedback, oldest first."""
        query = select(FEEDBACK_STEPS).where(FEEDBACK_STEPS.c.feedback_id == feedback_id)
        query = _visible_part(query, FEEDBACK_STEPS.c.feedback_id, tenants)
        return self._database.fetch_all(
            query.order_by(FEEDBACK_STEPS.c.at_ms, FEEDBACK_STEPS.c.action), _STEP_ROWS.read
        )

    def rules_of_partition(self, partition: int) -> list[PartitionRule]:
        """Rules of one partition as of its stored position, those that ended included."""
        table = FEEDBACK_HOLDINGS
        query = select(table).where(table.c.partition == partition).order_by(table.c.from_offset, table.c.rule_id)
        return self._database.fetch_all(query, _to_partition_rule)

    def rules_of_feedback(self, feedback_ids: Collection[str], tenants: Tenants = None) -> list[PartitionRule]:
        """Rules that follow from those feedbacks, in every partition that took them over."""
        table = FEEDBACK_HOLDINGS
        query = _visible_part(select(table).order_by(table.c.rule_id, table.c.partition), table.c.rule_id, tenants)
        return self._database.fetch_among(query, table.c.rule_id, feedback_ids, _to_partition_rule)

    def orphaned_rules(self) -> list[PartitionRule]:
        """Rules that hold in a partition although their feedback is gone (an erasure removes it)."""
        table = FEEDBACK_HOLDINGS
        query = select(table).where(table.c.until_offset < 0, table.c.rule_id.not_in(select(FEEDBACK.c.feedback_id)))
        return self._database.fetch_all(query.order_by(table.c.rule_id, table.c.partition), _to_partition_rule)

    def save_preview(self, row: FeedbackPreview) -> None:
        """Write a preview, over an earlier one of the same id."""
        with self._database.write() as connection:
            _UPSERT_PREVIEW.execute(connection, _PREVIEW_ROWS.params(row))

    def get_preview(self, preview_id: str, tenants: Tenants = None) -> FeedbackPreview | None:
        """One preview."""
        table = FEEDBACK_PREVIEWS
        query = select(table).where(table.c.preview_id == preview_id)
        return self._database.fetch_one(visible(query, table.c.tenant, tenants), _PREVIEW_ROWS.read)


def _visible_part(query: AnySelect, feedback_id: Column[str], tenants: Tenants) -> AnySelect:
    """Restrict *query* to what belongs to feedback of the tenants."""
    if tenants is None:
        return query
    return query.where(feedback_id.in_(visible(select(FEEDBACK.c.feedback_id), FEEDBACK.c.tenant, tenants)))


def write_partition_rules(connection: Connection, rules: Sequence[PartitionRule]) -> None:
    """Write rules of partitions as they are now."""
    rows = [
        {
            "rule_id": partition_rule.rule.rule_id,
            "partition": partition_rule.partition,
            "epoch": partition_rule.epoch,
            "from_offset": partition_rule.from_offset,
            "until_offset": partition_rule.until_offset,
            "matched": partition_rule.matched,
            "last_ms": partition_rule.last_ms,
            "expires_ms": partition_rule.rule.expires_ms,
            "rule": _encode(partition_rule.rule),
        }
        for partition_rule in rules
    ]
    _UPSERT_PARTITION_RULE.execute(connection, rows)


def copy_rules_to_partitions(connection: Connection, partitions: Sequence[int]) -> None:
    """Copy every rule to all *partitions*, from their stored positions on: agents have moved."""
    table = FEEDBACK_HOLDINGS
    query = select(table).where(table.c.until_offset < 0)
    in_force = [_to_partition_rule(row) for row in connection.execute(query)]
    taken_over = {(partition_rule.rule.rule_id, partition_rule.partition) for partition_rule in in_force}
    rules = {partition_rule.rule.rule_id: partition_rule.rule for partition_rule in in_force}
    new = [
        PartitionRule(rule, partition, 0, 0, -1, 0, 0)
        for rule in rules.values()
        for partition in partitions
        if (rule.rule_id, partition) not in taken_over
    ]
    write_partition_rules(connection, new)


def _feedback_params(feedback: Feedback) -> dict[str, Any]:
    scope = _encode({"features": feedback.features, "resource": feedback.resource})
    return _ROWS.params(feedback) | {"resource": feedback.resource or "", "scope": scope}


def _to_feedback(row: AnyRow) -> Feedback:
    scope = _scope_decoder.decode(row.scope)
    features = None if scope["features"] is None else tuple(scope["features"])
    return msgspec.structs.replace(_ROWS.read(row), features=features, resource=scope["resource"])


def _to_partition_rule(row: AnyRow) -> PartitionRule:
    _, partition, epoch, from_offset, until_offset, matched, last_ms, _, rule = row
    return PartitionRule(_rule_decoder.decode(rule), partition, epoch, from_offset, until_offset, matched, last_ms)
