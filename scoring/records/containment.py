"""Plain values of containment: interventions of people and actuations. Times are UTC milliseconds."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from trustwatch.ingest.described import Level, member

from .agents import AgentName

InterventionKind = Literal["pin", "approval"]
InterventionStatus = Literal["active", "pending", "approved", "approved_once", "rejected", "ended", "expired", "used"]
OPEN_INTERVENTION_STATUSES: frozenset[str] = frozenset({"active", "pending", "approved", "approved_once"})
"""States that have an effect, or still may get one."""


class Intervention(msgspec.Struct, frozen=True):
    """An order by a person, or a request for one. Its history is in the audit events of its decisions.

    A *pin* (active, then ended or expired) fixes the level that policy acts on. An *approval* (pending, then approved
    or rejected, or expired from either) lets scopes pass that need a person. An approval for one use is
    `approved_once`, and `used` before the one permit that it gives leaves.
    """

    intervention_id: Annotated[str, member("id of the pin or approval", "01KAW4CD1JQ4V1S0Z3Y8M4C2QK")]
    kind: Annotated[InterventionKind, member("pin or approval")]
    status: Annotated[InterventionStatus, member("status of the pin or approval")]
    agent: AgentName
    level: Annotated[Level, member("level that policy acts on; of an approval: when it was requested", "high")]
    scopes: Annotated[tuple[str, ...], member("for an approval: patterns of scopes; `*` for all")]
    asked_why: Annotated[str, member("code of the verdict's reason, or the person's words", "unusual_call")]
    asked_by: Annotated[str, member("caller; of an approval `hydra`, `ext_authz`, …", "ext_authz")]
    asked_ms: Annotated[int, member("when it was requested")]
    decided_by: Annotated[str, member("who approved, rejected or ended it; null until then", "analyst", null=True)]
    decided_ms: Annotated[int, member("when it was decided; null until then", null=True)]
    why: Annotated[str, member("reason for the decision; null until then", "planned migration, CHG-1234", null=True)]
    expires_ms: Annotated[int, member("when it expires")]
    updated_ms: int


ActuationStatus = Literal["wanted", "applied", "confirmed", "restored", "failed"]


class Actuation(msgspec.Struct, frozen=True):
    """Desired and confirmed state of one agent at the server of one actuator.

    Attributes:
        desired: JSON of `trustwatch.scoring.delivery.actuators.desired_state.DesiredState`.
    """

    target: Annotated[str, member("name of the authorization server in the settings", "hydra-eu")]
    agent: AgentName
    version: Annotated[int, member("version of the desired state; higher versions replace lower ones", 3)]
    desired: bytes
    original: Annotated[bytes, member("what the server had before; null if nothing is restricted", null=True)]
    status: Annotated[ActuationStatus, member("status; `applied` means accepted by a receiver that cannot be queried")]
    caused_ms: Annotated[int, member("time of the event that led to it; null if time or a person did", null=True)]
    wanted_ms: Annotated[int, member("when it was decided")]
    confirmed_ms: Annotated[int, member("when the server confirmed it; null until then", null=True)]
    updated_ms: Annotated[int, member("time of the last change")]
    error: Annotated[str, member("error of the last attempt, if any", "the server answered 503", null=True)]
