"""What people said of decisions, as labels for training: which events of which agent were an attack, or were not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ..records import AgentName
from .values import FeedbackVerdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..store.base import FeedbackStore, Tenants

_LABEL_PAGE_SIZE = 500


class FeedbackLabel(msgspec.Struct, frozen=True):
    """One verdict about the events of an agent from *from_ms* until *until_ms*, UTC milliseconds of event time.

    A `true_positive` keeps these events out of training. A `false_positive` says that they were honest: training may
    take them as normal.
    """

    feedback_id: str
    verdict: FeedbackVerdict
    agent: AgentName
    event_id: str  # of the marked decision; "" = a tick
    from_ms: int
    until_ms: int
    author: str


def feedback_labels(store: FeedbackStore, tenants: Tenants = None, since_ms: int = 0) -> Iterator[FeedbackLabel]:
    """Every label that was not revoked and whose window ends after *since_ms*, newest first. Raises Unavailable.

    A false positive goes on being a label after its rule has expired.
    """
    cursor: str | None = None
    while True:
        page = store.list_feedback(tenants, limit=_LABEL_PAGE_SIZE, cursor=cursor)
        for one in page.items:
            if one.status not in ("revoking", "revoked") and one.until_ms > since_ms:
                yield FeedbackLabel(
                    one.feedback_id, one.verdict, one.agent, one.event_id, one.from_ms, one.until_ms, one.author
                )
        cursor = page.next_cursor
        if cursor is None:
            return
