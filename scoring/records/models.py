"""Values of the model lifecycle. Times are UTC milliseconds; days are days of UTC since 1970."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec

from trustwatch.ingest.described import AgentType, ModelVersionName, TenantName, member

PeerGroup = tuple[str, str]
"""Tenant and agent type."""
FLEET_PEER_GROUP: PeerGroup = ("*", "*")
"""The fleet, also for groups that are too small, or too many, to be measured separately."""
ModelStatus = Literal["champion", "challenger", "retired", "rejected"]
ModelAction = Literal["installed", "trained", "promoted", "rolled_back", "rejected", "switched", "failed"]


class ModelVersion(msgspec.Struct, frozen=True):
    """A trained version of the model.

    `digest` is of the manifest, and differs between two models of one name. `trained` states what it learned from
    (source, events, agents, sessions, how much was left out and why), `figures` how it performed in shadow.
    """

    version: ModelVersionName
    status: Annotated[ModelStatus, member("status of the version")]
    digest: Annotated[str, member("SHA-256 of its manifest, which contains the digest of every file")]
    from_ms: int
    to_ms: int
    created_ms: Annotated[int, member("when it was trained")]
    promoted_ms: Annotated[int, member("when it last became active, if ever", null=True)] = 0
    changed_ms: Annotated[int, member("when its status last changed, if ever", null=True)] = 0
    counted_from: int = 0  # offset of the log from which shadow counts
    trained: Annotated[dict[str, Any], member("what it learned from, and what was left out; of all tenants")] = {}
    figures: Annotated[dict[str, Any], member("how it performs in shadow against the champion; of all tenants")] = {}


class ModelHistoryEntry(msgspec.Struct, frozen=True):
    """One entry of the history, which is append-only."""

    entry_id: str
    at_ms: Annotated[int, member("when it happened")]
    version: ModelVersionName
    act: Annotated[ModelAction, member("what was done to the version", "promoted")]
    by: Annotated[str, member("who did it", "analyst")]
    why: Annotated[str, member("the reason given", "a better curve")]
    detail: Annotated[dict[str, Any], member("figures and facts of the act", {"from": "2026-11-17.1"})] = {}


class ModelSwitch(msgspec.Struct, frozen=True):
    """The switch of a partition to a model. From `offset` on, `version` is active.

    `installed` is the digest of the model in `model_dir` at that time: a later change of it takes precedence.
    """

    partition: Annotated[int, member("partition of the event log", 0)]
    epoch: Annotated[int, member("generation of the partition's owner", 4)]
    offset: Annotated[int, member("offset in the partition", 154000)]
    version: ModelVersionName
    digest: str
    installed: str
    at_ms: Annotated[int, member("when it happened")]


class PeerGroupDay(msgspec.Struct, frozen=True):
    """One peer group on one day, as the model worker measured it with one version in shadow.

    For `drift` see `drift.py`. `p_values` counts p-values up to each of `P_VALUE_EDGES`.
    """

    version: ModelVersionName
    day: int
    tenant: TenantName
    agent_type: AgentType
    events: Annotated[int, member("number of events", 4210)]
    agent_days: int
    alerts: tuple[int, int, int]  # rises to medium, high, critical or above
    p_values: tuple[int, ...]
    drift: dict[str, Any] = {}


class DailyAlertCount(msgspec.Struct, frozen=True):
    """Decisions that raised an agent of one peer group to a level or above on one day."""

    day: int
    tenant: str
    agent_type: str
    medium: int
    high: int
    critical: int


class AgentLifespans(msgspec.Struct, frozen=True):
    """Number of agents of one peer group first seen on one day and last seen on another."""

    tenant: str
    agent_type: str
    first_day: int
    last_day: int
    agents: int


P_VALUE_EDGES = (0.0001, 0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Upper ends of the bins of p-values: deciles, and the tail that leads to alerts."""


class SwitchModel(msgspec.Struct, tag_field="command", tag="model.switch", forbid_unknown_fields=True):
    """Command: use that version from this record on. Repeating it changes nothing."""

    version: str
    digest: str
    by: str
    why: str = ""


_switch_decoder = msgspec.json.Decoder(SwitchModel)
encode_model_switch: Callable[[SwitchModel], bytes] = msgspec.json.Encoder().encode
"""Encodes the payload of the control record."""


def decode_model_switch(payload: bytes) -> SwitchModel | None:
    """Decode the command; return None if the payload is a different one."""
    try:
        return _switch_decoder.decode(payload)
    except (msgspec.MsgspecError, ValueError):
        return None
