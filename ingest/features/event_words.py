"""What people call the things of an event, as they stand in it: for reasons, which shorten and clean them."""

from __future__ import annotations

from datetime import UTC

from ..events import NativeEvent


def resource_of(event: NativeEvent) -> str:
    """What an event calls the resource."""
    return (event.resource and (event.resource.id or event.resource.type)) or "no resource"


def target_of(event: NativeEvent) -> str:
    """Where a call goes."""
    return (event.resource and (event.resource.target or event.resource.id)) or "no target"


def audience_of(event: NativeEvent) -> str:
    """Whom a token is for."""
    return (event.resource and event.resource.audience) or "no audience"


def principal_of(event: NativeEvent) -> str:
    """On whose behalf."""
    return (event.principal and event.principal.id) or "no principal"


def network_of(event: NativeEvent) -> str:
    """Where a call came from."""
    if event.client is None:
        return "unknown network"
    return f"AS{event.client.asn}" if event.client.asn is not None else (event.client.ip or "unknown network")


def credential_of(event: NativeEvent) -> str:
    """How the agent authenticated."""
    login = event.credential
    return "no credential" if login is None else f"{login.method or 'unknown method'} {login.thumbprint or ''}".strip()


def scopes_of(event: NativeEvent) -> str:
    """The scopes asked for, or else given."""
    return " ".join((event.scopes and (event.scopes.requested or event.scopes.granted)) or []) or "no scopes"


def hour_of(event: NativeEvent) -> str:
    """When, on a weekly clock."""
    return event.time.astimezone(UTC).strftime("%A %H:%M UTC")


def argument_of(event: NativeEvent) -> str:
    """Where the argument of an action comes from."""
    return f"{(event.resource and event.resource.provenance) or 'unknown'} argument of {event.action}"
