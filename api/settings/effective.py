"""The active settings: as YAML, as JSON Schema for editors, and which of them change while the service runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from trustwatch.ingest.settings import Secret

from .root import Settings

# A member is reloadable if the objects built from it read it again or are replaced as a whole. All others keep their
# value, and are reported, so that the operator knows when the file differs from the active settings.

RELOADABLE: Final = frozenset({"logs", "callers", "tenants.NAME.mode", "webhooks"})
"""Members that are reloadable, with all below them; reference/settings.md marks them. `callers` with a condition."""


@dataclass
class ReloadStatus:
    """Outcomes of one process's reloads."""

    reloads: int = 0  # valid settings that were read
    errors: int = 0  # invalid settings, which changed nothing
    restart_needed: tuple[str, ...] = ()  # members of the file that differ from the active ones, and need a restart


class SettingsChange(NamedTuple):
    """Effect of a changed file on a running service."""

    settings: Settings  # the next active ones: those before, with reloadable members of the new ones
    applied: tuple[str, ...]  # members that become active
    restart: tuple[str, ...]  # members that differ, and need a restart

    @property
    def changes_policy(self) -> bool:
        """True if tokens may get something else than before."""
        return any(member.startswith("tenants") for member in self.applied)


def change_of_settings(before: Settings, after: Settings) -> SettingsChange:
    """Split the difference between the active settings and those of the file."""
    taken: dict[str, Any] = {"logs": after.logs, "webhooks": after.webhooks}
    taken["tenants"] = {  # with their previous domains: features are computed from those
        name: msgspec.structs.replace(tenant, domains=before.tenants[name].domains if name in before.tenants else ())
        for name, tenant in after.tenants.items()
    }
    if _are_callers_reloadable(before, after):
        taken["callers"] = after.callers
    settings = msgspec.structs.replace(before, **taken)
    return SettingsChange(settings, tuple(_differing(before, settings)), tuple(_differing(settings, after)))


def _are_callers_reloadable(before: Settings, after: Settings) -> bool:
    """Return whether only tokens are bound to what changed: certificates, silence and streams are bound at start."""
    if before.shared_signals.enabled and before.callers != after.callers:
        return False
    kept = [caller for caller in before.callers if caller in after.callers]
    changed = [caller for caller in (*before.callers, *after.callers) if caller not in kept]
    issuers = {None, *(issuer.issuer for issuer in before.issuers)}
    return all(
        caller.certificate is None and caller.silence_s is None and caller.authenticated_by in issuers
        for caller in changed
    )


def _differing(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of members that differ; lists and mappings count as a whole."""
    for name in one.__struct_fields__:
        ours, theirs = getattr(one, name), getattr(other, name)
        if ours != theirs and isinstance(ours, msgspec.Struct) and type(ours) is type(theirs):
            yield from _differing(ours, theirs, f"{path}{name}.")
        elif ours != theirs:
            yield f"{path}{name}"


_SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SECRET_IN_URL = re.compile(r"(://)[^/\s?#]*(?=@)|([?&#][^=&#\s]*=)[^&#\s]+")
"""Parts of a URL that may be a secret: user info, and the values of query and fragment."""
_NAME_OR_PATH = {"type": "string", "minLength": 1}


def settings_yaml(settings: Settings) -> str:
    """Return the effective settings as YAML. Secrets are `***`, including those in URLs."""
    return msgspec.yaml.encode(_without_secrets(msgspec.to_builtins(settings, enc_hook=str))).decode()


def _without_secrets(value: Any) -> Any:
    """
    >>> _without_secrets(["https://ann:hunter2@as.example/?sig=abc&page=2", "https://TOKEN@as.example/a", 3])
    ['https://***@as.example/?sig=***&page=***', 'https://***@as.example/a', 3]
    """
    if isinstance(value, dict):
        return {name: _without_secrets(below) for name, below in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(below) for below in value]
    return _SECRET_IN_URL.sub(lambda found: f"{found[1] or found[2]}***", value) if isinstance(value, str) else value


def settings_schema() -> dict[str, Any]:
    """Return the JSON Schema of the settings file: members, types, limits, meanings and defaults."""
    schema = msgspec.json.schema(Settings, schema_hook=_schema_of)
    members, defaults = schema["$defs"][Settings.__name__]["properties"], Settings()
    members["data_dir"]["default"] = str(defaults.data_dir)
    members["model_dir"]["default"] = str(defaults.model_dir)
    return {"$schema": _SCHEMA_DIALECT, "title": "Settings of Trustwatch", **schema}


def _schema_of(kind: type) -> dict[str, Any]:
    if kind is Path:
        return dict(_NAME_OR_PATH)
    if kind is Secret:
        kept = [
            {"type": "object", "properties": {key: _NAME_OR_PATH}, "required": [key], "additionalProperties": False}
            for key in ("env", "file")
        ]
        return {"anyOf": [*kept, dict(_NAME_OR_PATH)]}
    raise NotImplementedError(f"no schema for {kind.__name__}")
