"""The boundary that an agent declares: one rule for events (`columns.CAPABILITY`) and for verdicts before a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache

import msgspec

PROTOCOL_METHODS = frozenset(
    {
        "initialize",
        "server/discover",
        "ping",
        "logging/setLevel",
        "completion/complete",
        "tools/list",
        "resources/list",
        "resources/templates/list",
        "prompts/list",
        "tasks/list",
        "tasks/get",
        "tasks/result",
        "tasks/cancel",
    }
)
"""Methods of MCP that serve every client and have no effect on their own: they are within every boundary."""

NOTHING_DECLARED = b""

_decode = msgspec.json.Decoder(tuple[str, ...]).decode


@lru_cache(maxsize=16_384)
def covers(capabilities: tuple[str, ...], action: str) -> bool:
    """True if one of *capabilities* is the action, or a glob that fits its name, or if every agent may do it."""
    return (
        action in capabilities
        or action in PROTOCOL_METHODS
        or any(fnmatchcase(action, capability) for capability in capabilities)
    )


def scope_capabilities(scopes: Sequence[str], scope_actions: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Returns the capabilities that *scopes* grant by the table of the settings; an unlisted scope grants none."""
    return tuple(dict.fromkeys(action for scope in scopes for action in scope_actions.get(scope, ())))


def encode_capabilities(capabilities: Sequence[str]) -> bytes:
    """Declared capabilities as they are stored and published; `NOTHING_DECLARED` means that none are declared."""
    return msgspec.json.encode(capabilities)


@lru_cache(maxsize=16_384)
def decode_capabilities(kept: bytes) -> tuple[str, ...] | None:
    """Capabilities of `encode_capabilities`; None = the agent declares nothing."""
    return _decode(kept) if kept else None


def capability_text(capabilities: Sequence[str] | None) -> str:
    """One text for a list of capabilities; "" = the agent declares nothing."""
    return "" if capabilities is None else "\x1f" + "\x1f".join(capabilities)
