"""A seeded enterprise of agents with attacks laid over it: drives the demo, load tests and documentation."""

from __future__ import annotations

from .output import encode_label, write_jsonl
from .planner import PlannedAttack, plan_attacks
from .population import Enterprise, SimulatedAgent, SimulatedTenant
from .retime import retime
from .rows import CLEAN_LABEL, SimulatedEvent, SimulatedLabel
from .scenarios import SCENARIOS
from .settings import Attack, SimulationSettings
from .stream import simulate

__all__ = [
    "CLEAN_LABEL",
    "SCENARIOS",
    "Attack",
    "Enterprise",
    "PlannedAttack",
    "SimulatedAgent",
    "SimulatedEvent",
    "SimulatedLabel",
    "SimulatedTenant",
    "SimulationSettings",
    "encode_label",
    "plan_attacks",
    "retime",
    "simulate",
    "write_jsonl",
]
