"""Forgetting in the pipeline: an order in the log, met by who owns the partition, so that nothing is written back."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from ...ingest.erasing import NameEraser, Subject
from .key import PrivacyKey

MOST_ERASERS = 100
"""Erasures since the start of a process whose names are kept out of what is loaded later; older ones are long done."""


class Forget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Payload of a FORGET record. The record itself is erased with the rest."""

    erasure_id: str
    kind: str
    tenant: str
    issuer: str
    name: str
    pseudonym: str

    @property
    def subject(self) -> Subject:
        """Who is meant."""
        return Subject(self.kind, self.tenant, self.issuer, self.name, self.pseudonym)


class Forgotten:
    """Agents that must not come back from a model's history, known by keyed marks.

    Args:
        key: makes the marks; None = nobody was ever erased here.
        marks: of those that were.
    """

    def __init__(self, key: PrivacyKey | None = None, marks: Collection[str] = ()) -> None:
        self._key = key
        self._marks = set(marks)
        self._keys: set[int] = set()

    def add(self, agent_key: int) -> None:
        """One more; its mark is in the store already."""
        self._keys.add(agent_key)

    def among(self, keys: Iterable[int]) -> set[int]:
        """Those of *keys* that were forgotten."""
        if not self._marks:
            return self._keys.intersection(keys)
        key = self._key
        return {one for one in keys if one in self._keys or (key is not None and key.mark(one) in self._marks)}


class Erasers:
    """Keeps names out of what is loaded after they were forgotten, until the store is rid of them."""

    def __init__(self) -> None:
        self._made: list[tuple[str, NameEraser]] = []

    def add(self, subject: Subject) -> NameEraser:
        """One more."""
        eraser = NameEraser(subject.name, subject.pseudonym)
        self._made = [*self._made[1 - MOST_ERASERS :], (subject.tenant, eraser)]
        return eraser

    def json(self, tenant: str, raw: bytes) -> bytes:
        """Reasons of an agent of *tenant*; the same object where nothing is to be done."""
        for of, eraser in self._made:
            if of == tenant:
                raw = eraser.json(raw)
        return raw

    def text(self, tenant: str, text: str) -> str:
        """A sentence about an agent of *tenant*."""
        for of, eraser in self._made:
            if of == tenant:
                text = eraser.text(text)
        return text
