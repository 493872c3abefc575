"""A decision in sentences, as a notebook shows it. Names come from outside: everything is escaped."""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape

from ...scoring.records import Decision, RiskLevel


class DecisionExplanation:
    """Why a decision was made.

    Args:
        decision: as it was recorded.
    """

    def __init__(self, decision: Decision) -> None:
        self._decision = decision

    @property
    def headline(self) -> str:
        """What happened."""
        one = self._decision
        at = datetime.fromtimestamp(one.event_time_ms / 1000, UTC)
        before, after = (RiskLevel(level).label for level in (one.previous_level, one.level))
        return (
            f"{one.agent.agent_id} ({one.agent.tenant or 'no tenant'}) went from {before} to {after} on "
            f"{at:%A, %d %B %Y, %H:%M:%S} UTC, by {one.cause}; risk {one.risk_score:.2f}, confidence "
            f"{one.confidence:.2f}"
        )

    @property
    def sentences(self) -> list[str]:
        """The reasons, the strongest first, and what would have kept the level lower."""
        told = [reason.text for reason in self._decision.reasons]
        return [
            *told,
            *([f"It would have been {self._decision.counterfactual}"] if self._decision.counterfactual else []),
        ]

    def __repr__(self) -> str:
        return "\n".join([self.headline, *(f"- {sentence}" for sentence in self.sentences)])

    def _repr_html_(self) -> str:
        items = "".join(f"<li>{escape(sentence)}</li>" for sentence in self.sentences)
        return f"<p><strong>{escape(self.headline)}</strong></p><ol>{items}</ol>"
