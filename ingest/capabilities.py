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
    """Return whether a capability is the action or a glob that matches it, or every agent may do it."""
    return (
        action in capabilities
        or action in PROTOCOL_METHODS
        or any(fnmatchcase(action, capability) for capability in capabilities)
    )


def scope_capabilities(scopes: Sequence[str], scope_actions: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the capabilities that *scopes* grant by the table in the settings; an unlisted scope grants none."""
    return tuple(dict.fromkeys(action for scope in scopes for action in scope_actions.get(scope, ())))


def encode_capabilities(capabilities: Sequence[str]) -> bytes:
    """Encode declared capabilities as they are stored and published; see `NOTHING_DECLARED`."""
    return msgspec.json.encode(capabilities)


@lru_cache(maxsize=16_384)
def decode_capabilities(kept: bytes) -> tuple[str, ...] | None:
    """Decode what `encode_capabilities` returned; None if the agent declares nothing."""
    return _decode(kept) if kept else None


def capability_text(capabilities: Sequence[str] | None) -> str:
    """Join capabilities to one text; "" if the agent declares nothing."""
    return "" if capabilities is None else "\x1f" + "\x1f".join(capabilities)
