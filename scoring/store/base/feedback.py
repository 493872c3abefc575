"""What feedback asks: what people said, the rules of it, previews."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from ...feedback.values import Feedback, FeedbackPreview, FeedbackStep, PartitionRule
from .paging import Page, Tenants


class FeedbackStore(Protocol):
    """What people said of decisions, and the rules that follow from it."""

    def add_feedback(self, made: Feedback, step: FeedbackStep) -> bool:
        """Write new feedback with its first step; False = its id is known, and nothing is written."""

    def change_feedback(self, made: Feedback, was: str, step: FeedbackStep | None = None) -> bool:
        """Write status and revocation of feedback whose status still is *was*, with a step; whether it was.

        What was said is never overwritten; a step that is written stays as it is.
        """

    def feedback(self, feedback_id: str, tenants: Tenants = None) -> Feedback | None:
        """One."""

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
        """Feedback, newest first. Raises BadCursor."""

    def open_feedback(self) -> list[Feedback]:
        """All whose rule is in force, or is on its way in or out; oldest first."""

    def feedback_steps(self, feedback_id: str) -> list[FeedbackStep]:
        """Its steps, oldest first."""

    def holdings(self, partition: int) -> list[PartitionRule]:
        """Rules of one partition as of its stored position, those that ended included."""

    def holdings_of(self, feedback_ids: Collection[str]) -> list[PartitionRule]:
        """Those rules in every partition that took them over."""

    def orphaned_holdings(self) -> list[PartitionRule]:
        """Rules that hold in a partition although what was said is gone (an erasure removes it)."""

    def put_preview(self, row: FeedbackPreview) -> None:
        """Write a preview, over an earlier one of the same id."""

    def preview(self, preview_id: str, tenants: Tenants = None) -> FeedbackPreview | None:
        """One preview."""

    def purge_feedback(self, before_ms: int) -> int:
        """Remove previews made before, and what partitions held of rules that ended before; feedback itself stays.

        Returns the number of rows.
        """

    def purge_labels(self, before_ms: int) -> int:
        """Remove feedback that is over (noted, revoked, expired) and whose window, end and last change lie before.

        With its steps, and not while a partition holds to its rule: whose feedback is gone could not be revoked.
        Returns the number of labels.
        """
