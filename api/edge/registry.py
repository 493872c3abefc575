"""What the operator knows of agents: their role and what they are meant to do."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable

from ..settings import RegisteredAgent

MAX_CACHED_AGENTS = 65_536
"""Agents whose match is remembered; when full all are forgotten, which costs time and nothing else."""

MAX_CACHED_NAME_LENGTH = 500
"""Characters of a name worth remembering: long ids, which senders choose, must not make the memory large."""


class AgentRegistry:
    """Finds the entry of an agent; the first that fits wins.

    Args:
        entries: `registry` of the settings, in order.
    """

    def __init__(self, entries: Iterable[RegisteredAgent]) -> None:
        self._entries: dict[tuple[str, str], list[tuple[re.Pattern[str], RegisteredAgent]]] = {}
        for entry in entries:
            pattern = re.compile(fnmatch.translate(entry.agent))
            self._entries.setdefault((entry.tenant, entry.issuer), []).append((pattern, entry))
        self._cache: dict[tuple[str, str, str], RegisteredAgent | None] = {}

    def find(self, tenant: str, issuer: str, agent_id: str) -> RegisteredAgent | None:
        """The entry of that agent; None where the operator has said nothing."""
        if not self._entries:
            return None
        key = (tenant, issuer, agent_id)
        try:
            return self._cache[key]
        except KeyError:
            return self._find_and_cache(key)

    def _find_and_cache(self, key: tuple[str, str, str]) -> RegisteredAgent | None:
        tenant, issuer, agent_id = key
        fitting = self._entries.get((tenant, issuer), ())
        found = next((entry for pattern, entry in fitting if pattern.match(agent_id)), None)
        if sum(map(len, key)) <= MAX_CACHED_NAME_LENGTH:
            if len(self._cache) >= MAX_CACHED_AGENTS:
                self._cache.clear()
            self._cache[key] = found
        return found
