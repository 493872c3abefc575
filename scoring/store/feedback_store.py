"""Feedback's side: what people said, the steps of it, the rules in each partition, previews."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import Connection, delete, select, update

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
from .database import Paged, visible
from .dialects.statements import MAX_IN_LIST, chunked, insert_or_skip, upsert
from .interface import Page, Tenants
from .sql_schema import FEEDBACK, FEEDBACK_HOLDINGS, FEEDBACK_PREVIEWS, FEEDBACK_STEPS

if TYPE_CHECKING:
    from .database import AnyRow

_ADD_FEEDBACK = insert_or_skip(FEEDBACK, "feedback_id")
_ADD_STEP = insert_or_skip(FEEDBACK_STEPS, "feedback_id", "action")
_UPSERT_PARTITION_RULE = upsert(FEEDBACK_HOLDINGS, ("rule_id", "partition"))
_UPSERT_PREVIEW = upsert(FEEDBACK_PREVIEWS, ("preview_id",), keep=("created_ms",))
_PLAIN_COLUMNS = tuple(
    name for name in Feedback.__struct_fields__ if name not in ("agent", "features", "resource", "unseen")
)
_NAMES = ("tenant", "issuer", "agent_id")
_encode = msgspec.json.Encoder().encode
_scope_decoder = msgspec.json.Decoder(dict[str, Any])
_rule_decoder = msgspec.json.Decoder(FeedbackRule)


class FeedbackStore(Paged):
    """Part of the store that feedback uses; `trustwatch.scoring.store.interface` says what each method promises."""

    def add_feedback(self, made: Feedback, step: FeedbackStep) -> bool:
        with self.write() as connection:
            add = _ADD_FEEDBACK.for_connection(connection).returning(FEEDBACK.c.feedback_id)
            if connection.execute(add, _feedback_params(made)).first() is None:
                return False
            connection.execute(_ADD_STEP.for_connection(connection), msgspec.structs.asdict(step))
        return True

    def change_feedback(self, made: Feedback, was: str, step: FeedbackStep | None = None) -> bool:
        mine = (FEEDBACK.c.feedback_id == made.feedback_id, FEEDBACK.c.status == was)
        values = {name: getattr(made, name) for name in _MUTABLE_COLUMNS}
        with self.write() as connection:
            if connection.execute(update(FEEDBACK).where(*mine).values(values)).rowcount == 0:
                return False
            if step is not None:
                connection.execute(_ADD_STEP.for_connection(connection), msgspec.structs.asdict(step))
        return True

    def feedback(self, feedback_id: str, tenants: Tenants = None) -> Feedback | None:
        query = visible(select(FEEDBACK).where(FEEDBACK.c.feedback_id == feedback_id), FEEDBACK.c.tenant, tenants)
        with self.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _to_feedback(row)

    def list_feedback(
        self,
        tenants: Tenants = None,
        status: str | None = None,
        verdict: str | None = None,
        agent_key: int | None = None,
        decision_id: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Feedback]:
        query = visible(select(FEEDBACK), FEEDBACK.c.tenant, tenants)
        wanted = ((FEEDBACK.c.status, status), (FEEDBACK.c.verdict, verdict), (FEEDBACK.c.decision_id, decision_id))
        for column, value in wanted:
            if value is not None:
                query = query.where(column == value)
        if agent_key is not None:
            query = query.where(FEEDBACK.c.agent_key == codec.to_signed(agent_key))
        order = (FEEDBACK.c.created_ms, FEEDBACK.c.feedback_id)
        return self.newest(query, order, limit, cursor, _to_feedback)

    def open_feedback(self) -> list[Feedback]:
        query = (
            select(FEEDBACK).where(FEEDBACK.c.status.in_(sorted(OPEN_FEEDBACK_STATES))).order_by(FEEDBACK.c.created_ms)
        )
        with self.read() as connection:
            return [_to_feedback(row) for row in connection.execute(query)]

    def feedback_steps(self, feedback_id: str) -> list[FeedbackStep]:
        query = select(FEEDBACK_STEPS).where(FEEDBACK_STEPS.c.feedback_id == feedback_id)
        with self.read() as connection:
            rows = connection.execute(query.order_by(FEEDBACK_STEPS.c.at_ms, FEEDBACK_STEPS.c.action)).all()
        return [FeedbackStep(**{name: row._mapping[name] for name in FeedbackStep.__struct_fields__}) for row in rows]

    def holdings(self, partition: int) -> list[PartitionRule]:
        table = FEEDBACK_HOLDINGS
        query = select(table).where(table.c.partition == partition).order_by(table.c.from_offset, table.c.rule_id)
        with self.read() as connection:
            return [_to_partition_rule(row) for row in connection.execute(query)]

    def holdings_of(self, feedback_ids: Collection[str]) -> list[PartitionRule]:
        table = FEEDBACK_HOLDINGS
        found: list[PartitionRule] = []
        with self.read() as connection:
            for part in chunked(sorted(feedback_ids), MAX_IN_LIST):
                query = select(table).where(table.c.rule_id.in_(part)).order_by(table.c.rule_id, table.c.partition)
                found += [_to_partition_rule(row) for row in connection.execute(query)]
        return found

    def orphaned_holdings(self) -> list[PartitionRule]:
        table = FEEDBACK_HOLDINGS
        query = select(table).where(table.c.until_offset < 0, table.c.rule_id.not_in(select(FEEDBACK.c.feedback_id)))
        with self.read() as connection:
            return [
                _to_partition_rule(row)
                for row in connection.execute(query.order_by(table.c.rule_id, table.c.partition))
            ]

    def put_preview(self, row: FeedbackPreview) -> None:
        with self.write() as connection:
            connection.execute(_UPSERT_PREVIEW.for_connection(connection), msgspec.structs.asdict(row))

    def preview(self, preview_id: str, tenants: Tenants = None) -> FeedbackPreview | None:
        table = FEEDBACK_PREVIEWS
        query = select(table).where(table.c.preview_id == preview_id)
        with self.read() as connection:
            row = connection.execute(visible(query, table.c.tenant, tenants)).one_or_none()
        if row is None:
            return None
        return FeedbackPreview(**{name: row._mapping[name] for name in FeedbackPreview.__struct_fields__})

    def purge_feedback(self, before_ms: int) -> int:
        """Previews that old, and what each partition held of rules that ended that long ago."""
        held = FEEDBACK_HOLDINGS.c
        over = (held.until_offset >= 0, held.expires_ms < before_ms)
        with self.write() as connection:
            ended = connection.execute(delete(FEEDBACK_HOLDINGS).where(*over)).rowcount
            old = FEEDBACK_PREVIEWS.c.created_ms < before_ms
            return ended + connection.execute(delete(FEEDBACK_PREVIEWS).where(old)).rowcount

    def purge_labels(self, before_ms: int) -> int:
        """Feedback that is over, with its steps; not while a partition still holds to its rule."""
        made, held = FEEDBACK.c, FEEDBACK_HOLDINGS.c
        old = (made.until_ms < before_ms, made.updated_ms < before_ms, made.expires_ms < before_ms)
        in_force = select(held.rule_id).where(held.until_offset < 0)
        over = (made.status.not_in(sorted(OPEN_FEEDBACK_STATES)), made.feedback_id.not_in(in_force), *old)
        with self.write() as connection:
            steps = FEEDBACK_STEPS.c.feedback_id.in_(select(made.feedback_id).where(*over))
            connection.execute(delete(FEEDBACK_STEPS).where(steps))
            return connection.execute(delete(FEEDBACK).where(*over)).rowcount


_MUTABLE_COLUMNS = ("status", "revoked_by", "revoked_ms", "revoked_why", "updated_ms")
"""What of feedback changes in its life; the rest is what was said, and stays."""


def write_partition_rules(connection: Connection, holdings: Sequence[PartitionRule]) -> None:
    """Write rules of partitions as they are now."""
    rows = [
        {
            "rule_id": one.rule.rule_id,
            "partition": one.partition,
            "epoch": one.epoch,
            "from_offset": one.from_offset,
            "until_offset": one.until_offset,
            "matched": one.matched,
            "last_ms": one.last_ms,
            "expires_ms": one.rule.expires_ms,
            "rule": _encode(one.rule),
        }
        for one in holdings
    ]
    connection.execute(_UPSERT_PARTITION_RULE.for_connection(connection), rows)


def copy_rules_to_partitions(connection: Connection, partitions: Sequence[int]) -> None:
    """Every rule that holds somewhere holds in all *partitions*, from their stored positions on: agents have moved."""
    table = FEEDBACK_HOLDINGS
    held = [_to_partition_rule(row) for row in connection.execute(select(table).where(table.c.until_offset < 0))]
    known = {(one.rule.rule_id, one.partition) for one in held}
    rules = {one.rule.rule_id: one for one in held}
    new = [
        PartitionRule(one.rule, partition, 0, 0, -1, 0, 0)
        for one in rules.values()
        for partition in partitions
        if (one.rule.rule_id, partition) not in known
    ]
    if new:
        write_partition_rules(connection, new)


def _feedback_params(made: Feedback) -> dict[str, Any]:
    plain = {name: getattr(made, name) for name in _PLAIN_COLUMNS}
    names = {name: getattr(made.agent, name) for name in _NAMES}
    scope = _encode({"features": made.features, "resource": made.resource})  # null and "" are different things
    more = {"agent_key": codec.to_signed(made.agent.key), "resource": made.resource or "", "unseen": int(made.unseen)}
    return {**plain, **names, **more, "scope": scope}


def _to_feedback(row: AnyRow) -> Feedback:
    found = row._mapping
    agent = AgentName(codec.to_unsigned(found["agent_key"]), *(found[name] for name in _NAMES))
    scope = _scope_decoder.decode(found["scope"])
    features = scope["features"]
    return Feedback(
        **{name: found[name] for name in _PLAIN_COLUMNS},
        agent=agent,
        unseen=bool(found["unseen"]),
        features=None if features is None else tuple(features),
        resource=scope["resource"],
    )


def _to_partition_rule(row: AnyRow) -> PartitionRule:
    found = row._mapping
    plain = ("partition", "epoch", "from_offset", "until_offset", "matched", "last_ms")
    return PartitionRule(_rule_decoder.decode(found["rule"]), *(found[name] for name in plain))
