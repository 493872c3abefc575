"""The enterprise as `roles.toml` has it: names of people, kinds of resources, and the tasks of each role of agents."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from typing import Any

from .behaviour_model import AgentRole, AgentTask, ResourceKind, TaskStep

_TABLES = tomllib.loads(files(__package__).joinpath("roles.toml").read_text(encoding="utf-8"))

FIRST_NAMES, LAST_NAMES = _TABLES["first_names"], _TABLES["last_names"]
RESOURCES = {name: ResourceKind(name, **members) for name, members in _TABLES["resources"].items()}
"""Kinds of resources by name."""


def make_step(action: str, effect: str, kind: str, scope: str, **more: Any) -> TaskStep:
    """A step in one line; `kind` is a name of `RESOURCES`, `more` as in `TaskStep`."""
    return TaskStep(action=action, effect=effect, kind=RESOURCES[kind], scope=scope, **more)


def _make_task(steps: list[dict[str, Any]], **members: Any) -> AgentTask:
    return AgentTask(steps=tuple(make_step(**step) for step in steps), **members)


def _make_role(tasks: list[dict[str, Any]], **members: Any) -> AgentRole:
    return AgentRole(tasks=tuple(_make_task(**task) for task in tasks), **members)


ROLES = tuple(_make_role(**role) for role in _TABLES["roles"])
ROLES_BY_NAME = {role.name: role for role in ROLES}
