"""The enterprise of the demo and of the notebooks' example: its settings, its agents, and a day with two attacks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from trustwatch.ingest.log.event_log import EventLog

from .event_stream import simulate
from .labelled_events import SimulatedEvent
from .settings import Attack, SimulationSettings

AGENTS = 40
EVENTS_PER_AGENT_DAY = 120.0
DAY = timedelta(days=1)

_SETTINGS = """\
# Written by `{command}`: a local issuer, one caller that may do everything, two tenants.
settings_version: 2
data_dir: data
model_dir: model
issuers:
  - {{issuer: "urn:trustwatch:local", jwks_file: data/local-jwks.json, audiences: [trustwatch]}}
callers:
  - {{name: demo, client_id: demo, tenants: ["*"], issuers: ["*"], agents: ["*"], sources: ["*"], trusted: true}}
tenants:
  acme-corp: {{domains: [acme-corp.example], mode: enforce}}
  globex: {{domains: [globex.example], mode: enforce}}
"""


def local_settings(command: str, *sections: str) -> str:
    """A settings file for this machine alone, with further *sections*; its first line names the *command*."""
    return _SETTINGS.format(command=command) + "".join(section + "\n" for section in sections)


def is_written_by(command: str, settings: Path) -> bool:
    """True if a settings file was written by `local_settings`."""
    return settings.is_file() and settings.read_bytes().startswith(f"# Written by `{command}`".encode())


def simulate_history_and_day(
    start: datetime, history: timedelta, seed: int
) -> tuple[list[SimulatedEvent], list[SimulatedEvent]]:
    """Events of a *history* without attacks, and of the day after it, on which two agents are attacked."""
    plan = SimulationSettings(
        start=start,
        duration=history + DAY,
        seed=seed,
        agents=AGENTS,
        attacks=(
            Attack("scope_creep", at=history + timedelta(hours=10)),
            Attack("stolen_credential", at=history + timedelta(hours=16)),
        ),
        events_per_agent_day=EVENTS_PER_AGENT_DAY,
    )
    day_start_ms = (start + history).timestamp() * 1000
    before: list[SimulatedEvent] = []
    day: list[SimulatedEvent] = []
    for event in simulate(plan):
        (before if event.at_ms < day_start_ms else day).append(event)
    return before, day


def clear_made_directory(directory: Path, is_ours: Callable[[Path], bool]) -> bool:
    """Remove what an earlier run made; nothing else, and not while a service works there.

    Raises:
        LogInUse: a service works there.
    """
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return True
    if not is_ours(directory):
        return False
    log = directory / "data" / "log"
    if log.exists():
        EventLog(log).close()
    shutil.rmtree(directory)
    return True
