"""Token policy: what a risk level means for an agent's tokens, for whom, and how strictly."""

from .book import PolicyBook, PolicyRule, Standing
from .live import LivePolicy
from .table import DEFAULT_POLICY, WRITE_SCOPES, PolicyTable, TokenPolicy
from .verdict import ALLOWED, Question, Verdict, denied, judge

__all__ = [
    "ALLOWED",
    "DEFAULT_POLICY",
    "WRITE_SCOPES",
    "LivePolicy",
    "PolicyBook",
    "PolicyRule",
    "PolicyTable",
    "Question",
    "Standing",
    "TokenPolicy",
    "Verdict",
    "denied",
    "judge",
]
