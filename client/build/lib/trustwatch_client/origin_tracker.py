"""Conversations whose arguments are traced: a bounded number of them, each with its tenant's key."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from .argument_origins import (
    ORIGIN_COUNTERS,
    ArgumentOrigins,
    Fingerprint,
    OriginLimits,
    exact_hash,
    keyed_fingerprint,
)
from .caller import Caller
from .counters import Counted, Counters
from .timing import Clock, SystemClock

USES_BETWEEN_SUMS = 16
"""The characters of all conversations are summed once in so many uses."""

ConversationKey = tuple[str | None, str | None, str | None, str]


class KeySource(Protocol):
    """Keys by tenant: `OriginKeys`, or a stand-in for it."""

    def current(self, tenant: str | None) -> bytes | None: ...


class OriginTracker(Counted):
    """Memories of conversations; the one not used longest makes room. Safe from any thread.

    Args:
        keys: gives the keys; while there is none for a tenant, its events tell no arguments.
        limits: bounds, of each conversation and of all together.
        clock: for tests.
    """

    def __init__(self, keys: KeySource, limits: OriginLimits | None = None, *, clock: Clock | None = None) -> None:
        self._keys = keys
        self._limits = limits or OriginLimits()
        self._clock = clock or SystemClock()
        self._conversations: OrderedDict[ConversationKey, ArgumentOrigins] = OrderedDict()
        self._lock = threading.Lock()
        self._uses = 0
        self._counters = Counters(*ORIGIN_COUNTERS)

    @property
    def conversations(self) -> int:
        """Conversations that are kept."""
        return len(self._conversations)

    def conversation(
        self, session: str, *, tenant: str | None = None, issuer: str | None = None, agent_id: str | None = None
    ) -> ArgumentOrigins:
        """The memory of a conversation, a new one where it is not known.

        Args:
            session: `session` of its events.
            tenant: whose key hashes its values; None = the only one that this client sends for.
            issuer, agent_id: of the agent, where sessions of several agents may have one name.
        """
        key = (tenant, issuer, agent_id, session)
        with self._lock:
            conversation = self._conversations.get(key)
            if conversation is None:
                conversation = ArgumentOrigins(self._fingerprints(tenant), self._limits, self._counters)
                self._conversations[key] = conversation
            self._conversations.move_to_end(key)
            self._make_room()
            return conversation

    def conversation_of(self, caller: Caller, session: str | None) -> ArgumentOrigins | None:
        """The memory of a caller's conversation; None, and counted, where it names no session: values of different
        conversations must not meet."""
        session = session or caller.session
        if not session:
            self._counters.increment("no_session")
            return None
        return self.conversation(session, tenant=caller.tenant, issuer=caller.issuer, agent_id=caller.agent_id)

    def hash_arguments(self, caller: Caller, arguments: object) -> str | None:
        """Hash of all arguments of a call, whatever its session; None where there is no key."""
        key = self._keys.current(caller.tenant)
        return None if key is None else exact_hash(arguments, keyed_fingerprint(key))

    def forget(
        self, session: str, *, tenant: str | None = None, issuer: str | None = None, agent_id: str | None = None
    ) -> None:
        """Drop the memory of a conversation that has ended."""
        with self._lock:
            self._conversations.pop((tenant, issuer, agent_id, session), None)

    def count_failure(self) -> None:
        """Count a call that could not be traced because of an error of ours."""
        self._counters.increment("failed")

    def _make_room(self) -> None:
        limits, kept = self._limits, self._conversations
        self._uses += 1
        over = 0
        if self._uses % USES_BETWEEN_SUMS == 0:
            over = sum(conversation.characters for conversation in kept.values()) - limits.total_characters
        while len(kept) > 1 and (over > 0 or len(kept) > limits.conversations):
            _, oldest = kept.popitem(last=False)
            over -= oldest.characters
            self._counters.increment("forgotten")

    def _fingerprints(self, tenant: str | None) -> Callable[[], Fingerprint | None]:
        """Hash function of one conversation: under the same key for `key_s`, so that its hashes stay comparable."""
        fingerprint: Fingerprint | None = None
        expires_at = 0.0

        def current() -> Fingerprint | None:
            nonlocal fingerprint, expires_at
            now = self._clock.steady()
            if fingerprint is None or now >= expires_at:
                key = self._keys.current(tenant)
                if key is not None:
                    fingerprint, expires_at = keyed_fingerprint(key), now + self._limits.key_s
            return fingerprint

        return current
