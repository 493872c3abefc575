"""Token policy: what a risk level means for an agent's tokens, for whom, and how strictly."""

from .book import EffectivePolicy, PolicyBook, PolicyRule
from .live import LivePolicy
from .table import DEFAULT_LEVEL_POLICIES, WRITE_SCOPE_PATTERNS, LevelTokenPolicy, PolicyTable
from .verdict import ALLOWED, AccessRequest, Verdict, deny, evaluate_policy

__all__ = [
    "ALLOWED",
    "DEFAULT_LEVEL_POLICIES",
    "WRITE_SCOPE_PATTERNS",
    "AccessRequest",
    "EffectivePolicy",
    "LevelTokenPolicy",
    "LivePolicy",
    "PolicyBook",
    "PolicyRule",
    "PolicyTable",
    "Verdict",
    "deny",
    "evaluate_policy",
]
