""""""

from __future__ import annotations

from typing import Any

from ..records.decisions import Decision
from .book import PolicyBook


def policy_members(book: PolicyBook, decision: Decision) -> dict[str, Any]:
    """Token policy that holds from a decision on, as plain data."""
    agent = decision.agent
    value = book.policy(agent.tenant, agent.issuer, agent.agent_id, decision.agent_type, decision.level)
    return {name: getattr(value, name) for name in value.__struct_fields__}
