"""Many records at the door at once: what is plain goes by compiled code, everything else by `Admission`, one by one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, repeat
from typing import NamedTuple

import numpy as np

from ...ingest.errors import MalformedEvent, SourceNotAllowed
from ...ingest.scan.claims import KNOWN, NEW, PLACES, ClaimReader, Claims, Sender
from ...ingest.source import Kind, Record
from ..callers import SourceBinding
from .admission import FUTURE_S, Admission, caller_source
from .bodies import Parcel

MOST_SENDERS = 1024
"""Bindings whose number is remembered; numbers are never used again."""

Outcome = Record | MalformedEvent | SourceNotAllowed


class Judged(NamedTuple):
    """Outcomes of a batch, in its order; `clean`: all of them are records; `left`: how many were not plain."""

    outcomes: list[Outcome]
    clean: bool
    left: int


class BatchAdmission:
    """Gives what `Admission.admit` gives for each parcel. For one thread.

    What decides about a plain record, besides its time, is its claim: the sender, and what the event says of tenant,
    issuer, source and agent. Where `Admission` once took a record with that claim as it was sent, it would take every
    other one too, so those are not decoded. What is refused, changed or unusual is judged by `Admission` every time.

    Args:
        admission: the reference.
        salt: 1 to 64 bytes that no sender knows.
        places: of the memory of claims.
    """

    def __init__(self, admission: Admission, salt: bytes, places: int = PLACES) -> None:
        self._admission = admission
        self._reader = ClaimReader(salt, places)
        self._senders: dict[SourceBinding, Sender] = {}
        self._numbers = count()
        self._reader.read([b"{}"], Sender(-1, ""), 0, aliased=False)  # compiled now, or loaded, not in a request

    def admit(self, parcels: Sequence[Parcel], binding: SourceBinding, now_ms: int) -> Judged:
        """Judge records of one body.

        Args:
            parcels: as received.
            binding: what their sender may speak for.
            now_ms: arrival, UTC milliseconds.
        """
        if len(parcels) == 1:  # the compiled way begins to pay at two
            return self._one(parcels[0], binding, now_ms)
        payloads, wrong = _natives(parcels)
        latest_ms = now_ms + 1000 * FUTURE_S
        claims = self._reader.read(payloads, self._sender(binding), latest_ms, aliased=self._admission.aliases)
        outcomes = self._known(payloads, claims, now_ms)
        left = np.flatnonzero(claims.state != KNOWN).tolist()
        clean = True
        for position in left:
            outcome = wrong.get(position) or self._left(
                payloads[position], parcels[position].prefix, binding, now_ms, claims, position
            )
            outcomes[position] = outcome
            clean = clean and isinstance(outcome, Record)
        return Judged(outcomes, clean, len(left))

    def _one(self, parcel: Parcel, binding: SourceBinding, now_ms: int) -> Judged:
        try:
            return Judged([self._admission.admit(parcel, binding, now_ms)], clean=True, left=1)
        except (MalformedEvent, SourceNotAllowed) as error:
            return Judged([error], clean=False, left=1)

    def _sender(self, binding: SourceBinding) -> Sender:
        sender = self._senders.get(binding)
        if sender is None:
            if len(self._senders) >= MOST_SENDERS:
                self._senders.clear()
            sender = self._senders[binding] = Sender(next(self._numbers), caller_source(binding))
        return sender

    def _known(self, payloads: list[bytes], claims: Claims, now_ms: int) -> list[Outcome]:
        """Records of all that is known; what stands at the places of the others is to be replaced."""
        known = claims.state == KNOWN
        if not known.any():
            return [_NOTHING] * len(payloads)
        places = np.where(known, claims.places, 0).tolist()
        routes = map(self._reader.routes.__getitem__, places)
        return list(map(Record._make, zip(repeat(Kind.EVENT), claims.ids.tolist(), repeat(now_ms), payloads, routes)))

    def _left(
        self, payload: bytes, prefix: str, binding: SourceBinding, now_ms: int, claims: Claims, position: int
    ) -> Outcome:
        try:
            record = self._admission.admit_native(payload, binding, now_ms, prefix)
        except (MalformedEvent, SourceNotAllowed) as error:
            return error
        if claims.state[position] == NEW and record.payload is payload:
            self._reader.remember(claims.prints[position], record.key)
        return record


_NOTHING = Record(Kind.EVENT, 0, 0, b"")


def _natives(parcels: Sequence[Parcel]) -> tuple[list[bytes], dict[int, MalformedEvent]]:
    """Native JSON of each parcel, and what is wrong with those of which none can be made, by position."""
    payloads: list[bytes] = []
    wrong: dict[int, MalformedEvent] = {}
    for position, (raw, native, _) in enumerate(parcels):
        if native is not None:
            try:
                raw = native()
            except MalformedEvent as error:
                wrong[position], raw = error, b""
        payloads.append(raw)
    return payloads, wrong
