"""Plain values of containment: interventions of people and actuations. Times are UTC milliseconds."""

from __future__ import annotations

from typing import Literal

import msgspec

from .agents import AgentName

InterventionKind = Literal["pin", "approval"]
InterventionStatus = Literal["active", "pending", "approved", "approved_once", "rejected", "ended", "expired", "used"]
OPEN_INTERVENTION_STATUSES: frozenset[str] = frozenset({"active", "pending", "approved", "approved_once"})
"""States that have an effect, or still may get one."""


class Intervention(msgspec.Struct, frozen=True):
    """Order of a person, or request for one. Its history is its decisions' audit events.

    A *pin* (active, then ended or expired) fixes the level that policy acts on. An *approval* (pending, then approved
    or rejected, or expired from either) lets scopes pass that need a person. An approval for one use is
    `approved_once`, and `used` before the one permit that it gives leaves.

    Attributes:
        level: of a pin: the level to act on; of an approval: the agent's level when it was asked for.
        scopes: of an approval: scope patterns; `*` is all.
        asked_why: why it is asked for, a reason code of the verdict or a person's words.
        asked_by: caller that made it; for an approval the way it was asked (`hydra`, `ext_authz`, …).
        decided_by, decided_ms, why: the person that approved, rejected or ended it; "" and 0 = nobody yet.
        expires_ms: it ends by itself then.
        updated_ms: rises with every change; followers ask for what changed since.
    """

    intervention_id: str
    kind: InterventionKind
    status: InterventionStatus
    agent: AgentName
    level: int
    scopes: tuple[str, ...]
    asked_why: str
    asked_by: str
    asked_ms: int
    decided_by: str
    decided_ms: int
    why: str
    expires_ms: int
    updated_ms: int


ActuationStatus = Literal["wanted", "applied", "confirmed", "restored", "failed"]


class Actuation(msgspec.Struct, frozen=True):
    """Desired and confirmed state of one agent at the server of one actuator.

    Attributes:
        version: of `desired`: the outbox row that asked for it; a newer one replaces an older one.
        desired: JSON of `trustwatch.scoring.delivery.actuators.desired_state.DesiredState`.
        original: what the server had before anything was lowered, as the actuator wrote it; b"" = nothing is lowered.
        caused_ms: time of the event that led to it; 0 = none (a tick, a person).
        wanted_ms: when it was decided.
        confirmed_ms: when the server said that it is so; 0 = not yet.
        error: of the last attempt; "" = none.
    """

    target: str
    agent: AgentName
    version: int
    desired: bytes
    original: bytes
    status: ActuationStatus
    caused_ms: int
    wanted_ms: int
    confirmed_ms: int
    updated_ms: int
    error: str
