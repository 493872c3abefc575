"""Erasure in the pipeline: whoever owns a partition meets the order in its log, so that nothing is written back."""

from __future__ import annotations

from collections.abc import Collection

from trustwatch.ingest.identities import unkeyed_agent_key
from trustwatch.ingest.pseudonyms import PrivacyKey
from trustwatch.ingest.record_erasure import ErasureSubject, NameEraser

from ..records.agents import AgentIdentity

MAX_NAME_ERASERS = 100
"""Most erasures whose names are kept out of what a process loads later; older ones are long done."""


class ErasedAgents:
    """Agents that must not come back from a model's history, known by keyed marks."""

    def __init__(self, key: PrivacyKey | None = None, marks: Collection[str] = ()) -> None:
        self._key = key
        self._marks = set(marks)
        self._names: set[AgentIdentity] = set()

    def add(self, name: AgentIdentity) -> None:
        """One more; its mark is in the store already."""
        self._names.add(name)

    def __bool__(self) -> bool:
        """True if anybody was erased."""
        return bool(self._names or self._marks)

    def __contains__(self, name: AgentIdentity) -> bool:
        """True for an agent that was erased."""
        key = self._key
        return name in self._names or (key is not None and key.erasure_mark(unkeyed_agent_key(*name)) in self._marks)


class NameErasers:
    """Keeps erased names out of reasons that are loaded later, until the store is rid of them."""

    def __init__(self) -> None:
        self._erasers: list[tuple[str, NameEraser]] = []

    def __bool__(self) -> bool:
        """True if there is a name to keep out."""
        return bool(self._erasers)

    def add(self, subject: ErasureSubject) -> NameEraser:
        """One more."""
        eraser = NameEraser(subject.name, subject.pseudonym)
        self._erasers = [*self._erasers[1 - MAX_NAME_ERASERS :], (subject.tenant, eraser)]
        return eraser

    def erase_in_json(self, tenant: str, raw: bytes) -> bytes:
        """Reasons of an agent of *tenant*; the same object where nothing is to be done."""
        for of, eraser in self._erasers:
            if of == tenant:
                raw = eraser.erase_in_json(raw, keep_members=True)
        return raw

    def erase_in_text(self, tenant: str, text: str) -> str:
        """A sentence about an agent of *tenant*."""
        for of, eraser in self._erasers:
            if of == tenant:
                text = eraser.erase_in_text(text)
        return text
