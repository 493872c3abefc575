"""Boundaries that agents declare, and what holds of an action outside of them. Answered from memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from trustwatch.ingest.capabilities import covers, decode_capabilities, scope_capabilities

from ..records.agents import AgentIdentity
from .risk_view import RiskViewEntry

OutsideBoundary = Literal["record", "step_up", "deny"]

RegisteredCapabilities = Callable[[str, str, str], tuple[str, ...] | None]
"""Capabilities that the operator registered for an agent (tenant, issuer, id); None = none."""


class DeclaredBoundary:
    """Actions that lie outside of what an agent declares. An agent that declares nothing has no boundary.

    Args:
        registered: wins over what trusted sources declared, which the risk view holds.
        outside: what holds of an action outside of a boundary.
        scope_actions: globs of the actions that a scope covers.
    """

    def __init__(
        self,
        registered: RegisteredCapabilities = lambda *_: None,
        outside: OutsideBoundary = "record",
        scope_actions: Mapping[str, tuple[str, ...]] = {},
    ) -> None:
        self._registered = registered
        self._scope_actions = scope_actions
        self.outside = outside

    def find_outside(
        self, identity: AgentIdentity, entry: RiskViewEntry | None, actions: Sequence[str], scopes: Sequence[str]
    ) -> tuple[str, ...]:
        """Those of *actions* that neither the agent's capabilities nor *scopes*, which it is known to have, cover."""
        declared = self._registered(*identity)
        if declared is None and entry is not None:
            declared = decode_capabilities(entry.summary.capabilities)
        if declared is None:
            return ()
        of_scopes = scope_capabilities(scopes, self._scope_actions) if self._scope_actions else ()
        return tuple(
            action for action in actions if not (covers(declared, action) or (of_scopes and covers(of_scopes, action)))
        )
