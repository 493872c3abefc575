"""Return names of things in an event, as the event states them. Reasons shorten and clean them."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC

from ..argument_columns import arguments_with_values, read_arguments
from ..events import NativeEvent


def resource_of(event: NativeEvent) -> str:
    """Return the id of the resource, or else its type."""
    return (event.resource and (event.resource.id or event.resource.type)) or "no resource"


def target_of(event: NativeEvent) -> str:
    """Return the destination of a call."""
    return (event.resource and (event.resource.target or event.resource.id)) or "no target"


def audience_of(event: NativeEvent) -> str:
    """Return the audience of a token."""
    return (event.resource and event.resource.audience) or "no audience"


def principal_of(event: NativeEvent) -> str:
    """Return the id of the principal on whose behalf the agent acts."""
    return (event.principal and event.principal.id) or "no principal"


def network_of(event: NativeEvent) -> str:
    """Return the autonomous system of the caller, or else its address."""
    if event.client is None:
        return "unknown network"
    return f"AS{event.client.asn}" if event.client.asn is not None else (event.client.ip or "unknown network")


def credential_of(event: NativeEvent) -> str:
    """Return authentication method and key thumbprint."""
    login = event.credential
    return "no credential" if login is None else f"{login.method or 'unknown method'} {login.thumbprint or ''}".strip()


_MAX_PART_LENGTH = 40


def caller_of(event: NativeEvent) -> str:
    """Return the address, software, instance and session of an event, as far as it states them."""
    client = event.client
    parts = (
        ("from", client and client.ip),
        ("with", client and client.user_agent),
        ("by instance", event.agent.instance),
        ("in session", event.session),
    )
    said = (f"{word} {_shortened(name)}" for word, name in parts if name)
    return " ".join(said) or "from an unknown address"


def _shortened(name: str) -> str:
    return name if len(name) <= _MAX_PART_LENGTH else f"{name[: _MAX_PART_LENGTH - 1]}…"


def scopes_of(event: NativeEvent) -> str:
    """Return the requested scopes, or else the granted ones."""
    return " ".join((event.scopes and (event.scopes.requested or event.scopes.granted)) or []) or "no scopes"


def hour_of(event: NativeEvent) -> str:
    """Return weekday and time of day, UTC."""
    return event.time.astimezone(UTC).strftime("%A %H:%M UTC")


def argument_of(event: NativeEvent) -> str:
    """Return the provenance of an action's argument."""
    return f"{(event.resource and event.resource.provenance) or 'unknown'} argument of {event.action}"


_SHOWN_ARGUMENTS = 3


def foreign_arguments_of(event: NativeEvent, places: Collection[int]) -> str:
    """Return the arguments at *places* with the calls whose answers held them; the first ones by name."""
    kept = arguments_with_values(read_arguments(event) or ())
    foreign = [value for place, value in enumerate(kept) if place in places]
    said = list(dict.fromkeys(f"{value.name} out of {value.from_action or 'an earlier answer'}" for value in foreign))
    more = [f"{len(said) - _SHOWN_ARGUMENTS} more"] if len(said) > _SHOWN_ARGUMENTS else []
    return ", ".join([*said[:_SHOWN_ARGUMENTS], *more]) or "an argument"
