"""Approvals for one use: which of them a request needs, spent in the store before it is judged.

Judging itself never waits. So what a request needs is found out and spent first, and rides on it
(`AccessRequest.spent`): approvals of one use that were not spent for a request do not count in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from trustwatch.scoring.records.agents import AgentIdentity
from trustwatch.scoring.records.containment import Intervention

from .approval_workflow import ApprovalWorkflow


class Outcome(NamedTuple):
    """The answer that a request would get: `scopes` are those left of a token; None = all."""

    permitted: bool
    scopes: tuple[str, ...] | None = None


async def spend_needed(
    workflow: ApprovalWorkflow,
    identities: Iterable[AgentIdentity],
    judge: Callable[[tuple[Intervention, ...]], Outcome],
) -> tuple[Intervention, ...]:
    """The approvals that were spent for a request; none if it is permitted without, or is not with all of them."""
    unspent = tuple(one for identity in identities for one in workflow.one_use_approvals(identity))
    if not unspent:
        return ()
    best = judge(unspent)
    if not best.permitted or judge(()) == best:
        return ()
    for approval in unspent:
        others = tuple(one for one in unspent if one is not approval)
        if judge(others) == best:
            unspent = others
    return tuple([approval for approval in unspent if await workflow.spend(approval)])
