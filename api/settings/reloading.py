"""Reloading: the settings that become active while the service runs, and those that need a restart.

A member is reloadable if the objects built from it read it again or are replaced as a whole. All others keep the value
of the start, and are reported, so that the operator knows when the file differs from the active settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from ..settings.access_settings import CallerSettings
from .root import Settings
from .service_settings import TenantSettings

RELOADABLE: Final = frozenset(
    {
        "logs",
        "callers",
        "tenants.NAME.mode",
        "webhooks",
    }
)
"""Members that are reloadable, with all below them; reference/settings.md marks them. `callers` with a condition."""


class ReloadStatus:
    """Outcomes of one process's reloads.

    Attributes:
        reloads: times that the settings were read again and found right.
        errors: times that they were wrong, and nothing changed.
        restart_needed: members of the file that differ from what holds, and need a restart.
    """

    def __init__(self) -> None:
        self.reloads = self.errors = 0
        self.restart_needed: tuple[str, ...] = ()


class SettingsChange(NamedTuple):
    """Meaning of another file for a running service.

    Attributes:
        settings: that are to hold now: those before, with what is reloadable of the new ones.
        applied: members that come into force.
        restart: members that differ, and need a restart.
    """

    settings: Settings
    applied: tuple[str, ...]
    restart: tuple[str, ...]

    @property
    def changes_policy(self) -> bool:
        """True if tokens may get something else than before."""
        return any(member.startswith("tenants") for member in self.applied)


def change_of_settings(before: Settings, after: Settings) -> SettingsChange:
    """Split the difference between the settings active settings and those of the file."""
    taken: dict[str, Any] = {name: getattr(after, name) for name in ("logs", "webhooks")}
    taken["tenants"] = _tenants_with_modes(before.tenants, after.tenants)
    if _are_callers_reloadable(before, after):
        taken["callers"] = after.callers
    settings = msgspec.structs.replace(before, **taken)
    return SettingsChange(settings, tuple(_differing(before, settings)), tuple(_differing(settings, after)))


def _tenants_with_modes(
    before: Mapping[str, TenantSettings], after: Mapping[str, TenantSettings]
) -> dict[str, TenantSettings]:
    """Tenants as the new file names them, with the domains that were there before: features are made of those."""
    return {
        name: msgspec.structs.replace(tenant, domains=before[name].domains if name in before else ())
        for name, tenant in after.items()
    }


def _are_callers_reloadable(before: Settings, after: Settings) -> bool:
    """Tell whether only tokens are bound to what changed: certificates, silence and streams are bound at start."""
    if before.shared_signals.enabled and before.callers != after.callers:
        return False
    kept = [caller for caller in before.callers if caller in after.callers]
    changed = [caller for caller in (*before.callers, *after.callers) if caller not in kept]
    issuers = {issuer.issuer for issuer in before.issuers}
    return all(_is_bound_by_token(caller) and caller.authenticated_by in {None, *issuers} for caller in changed)


def _is_bound_by_token(caller: CallerSettings) -> bool:
    return caller.certificate is None and caller.silence_s is None


def _differing(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Paths of the members that differ; lists and mappings as a whole, down to parts of the settings alone."""
    names: tuple[str, ...] = one.__struct_fields__
    value_of: Callable[[Any, str], Any] = getattr
    for name in names:
        ours, theirs = value_of(one, name), value_of(other, name)
        if ours == theirs:
            continue
        if isinstance(ours, msgspec.Struct) and type(ours) is type(theirs):
            yield from _differing(ours, theirs, f"{path}{name}.")
        else:
            yield f"{path}{name}"
