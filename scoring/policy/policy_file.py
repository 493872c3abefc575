"""The token policy as a separate file: re-read while the service runs, per tenant and agent type, in stages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.settings import Name, SettingsPart, setting
from trustwatch.ingest.settings_reading import error_hint, read_yaml

from ..records.agents import LevelName, RiskLevel
from .book import EnforcementMode, LevelPolicies, PolicyBook, PolicyRule, PolicyTable

_LEVEL_NAMES = tuple(level.label for level in RiskLevel)


class PolicyFile(SettingsPart, frozen=True):
    """The whole file."""

    version: Annotated[Name, setting("`policy_version` of answers and decisions; raise it with every change")]
    mode: Annotated[EnforcementMode, setting("mode of tenants that are not named")] = "shadow"
    tenants: Annotated[Mapping[Name, EnforcementMode], setting("mode by tenant")] = {}
    descendants: Annotated[
        LevelName, setting("agents that a `critical` agent delegated to are treated as at least at this level")
    ] = "low"
    levels: Annotated[LevelPolicies | None, setting("policies by level; members not given keep their default")] = None
    rules: Annotated[tuple[PolicyRule, ...], setting("first match wins")] = ()

    def __post_init__(self) -> None:
        names = [rule.name for rule in self.rules]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise ValueError(f"`name` must be unique; `{name}` is twice - at `$.rules[{index}].name`")
        if self.descendants == "unknown":
            raise ValueError("`descendants` is a level to be treated at least as; `low` leaves descendants alone")

    def book(self) -> PolicyBook:
        """The policy book of the file."""
        table = PolicyTable((self.levels or LevelPolicies()).by_level(), self.version)
        return PolicyBook(table, self.rules, self.tenants, self.mode, RiskLevel[self.descendants.upper()])


def read_policy_book(path: Path) -> PolicyBook:
    """Token policies of a policy file. Raises ConfigError if it is invalid."""
    return read_policy_file(path).book()


def read_policy_file(path: Path) -> PolicyFile:
    """Read and check. Raises ConfigError: file, path of the wrong member, and what it may be."""
    raw = read_yaml(path)
    _fill_levels(raw)
    try:
        return msgspec.convert(raw, PolicyFile)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}{error_hint(PolicyFile, str(error))}") from None


def _fill_levels(raw: dict[str, Any]) -> None:
    """Fill in members of a level that are not given: a rule's from the file, the file's from the level's defaults."""
    defaults = msgspec.to_builtins(LevelPolicies())
    given = raw.get("levels")
    base = {
        name: _merge_level(defaults[name], given.get(name) if isinstance(given, dict) else None)
        for name in _LEVEL_NAMES
    }
    if isinstance(given, dict):
        raw["levels"] = {**given, **{name: base[name] for name in _LEVEL_NAMES if isinstance(given.get(name), dict)}}
    rules = raw.get("rules")
    for rule in rules if isinstance(rules, list) else ():
        levels = rule.get("levels") if isinstance(rule, dict) else None
        if isinstance(levels, dict):
            rule["levels"] = {
                name: _merge_level(base[name], value) if name in base and isinstance(value, dict) else value
                for name, value in levels.items()
            }


def _merge_level(base: Any, given: Any) -> Any:
    """*given* over *base*; where scopes are given, they alone say what needs a person."""
    if not isinstance(given, dict):
        return base
    kept = dict(base)
    if "step_up_scopes" in given and "step_up" not in given:
        kept["step_up"] = False
    return {**kept, **given}
