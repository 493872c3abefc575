"""A seeded enterprise of agents with attacks laid over it: drives the demo, load tests and documentation."""

from __future__ import annotations

from .output import encode_label, write_jsonl
from .planner import PlannedAttack, plan_attacks
from .population import Enterprise, SimulatedAgent, Tenant
from .retime import retime
from .rows import CLEAN, Label, SimulatedEvent
from .scenarios import SCENARIOS
from .settings import Attack, SimulationSettings
from .stream import simulate

__all__ = [
    "CLEAN",
    "SCENARIOS",
    "Attack",
    "Enterprise",
    "Label",
    "PlannedAttack",
    "SimulatedAgent",
    "SimulatedEvent",
    "SimulationSettings",
    "Tenant",
    "encode_label",
    "plan_attacks",
    "retime",
    "simulate",
    "write_jsonl",
]
