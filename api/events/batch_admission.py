"""Admission of many records at once: plain ones by compiled code, all others one by one by `Admission`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, repeat
from typing import NamedTuple

import numpy as np

from trustwatch.ingest.compilation import KernelGate
from trustwatch.ingest.errors import MalformedEvent, SourceNotAllowed
from trustwatch.ingest.formats.raw_records import RawRecord
from trustwatch.ingest.scan.claim_reader import (
    CLAIM_KNOWN,
    CLAIM_NEW,
    CLAIM_SLOTS,
    CLAIM_UNREADABLE,
    BatchClaims,
    BatchSender,
    ClaimReader,
    read_claims,
    unread_claims,
)
from trustwatch.ingest.source import Record, RecordKind

from ..http.auth.callers import SourceBinding
from .admission import MAX_CLOCK_AHEAD_S, Admission, is_text

MAX_SENDERS = 1024  # Bindings whose number is remembered; numbers are never used again

AdmissionOutcome = Record | MalformedEvent | SourceNotAllowed


class BatchOutcome(NamedTuple):
    """Outcomes of a batch."""

    outcomes: list[AdmissionOutcome]  # in the batch's order
    all_admitted: bool  # all of them are records
    slow_path_records: int  # how many the compiled path left to the slow path


class BatchAdmission:
    """Admits records with the outcomes that `Admission.admit` has for each. For one thread.

    What decides about a plain record, besides its time, is its claim: the sender, and what the event says of tenant,
    issuer, source and agent; if the sender is authorized for some agents only, also the others that the event names.
    Where `Admission` once took a record with that claim as it was sent, it would take every other one too, so those are
    not decoded. What is refused, changed or unusual is judged by `Admission` every time.
    """

    def __init__(
        self, admission: Admission, salt: bytes, claim_slots: int = CLAIM_SLOTS, *, compiled_elsewhere: bool = False
    ) -> None:
        self._admission = admission
        self._reader = ClaimReader(salt, admission.identities, claim_slots)
        self._senders: dict[SourceBinding, BatchSender] = {}
        self._next_sender_number = count()
        self._gate = KernelGate(read_claims, compiled_elsewhere=compiled_elsewhere)
        if self._gate.is_open():
            self._reader.read([b"{}"], BatchSender(-1, ""), 0, aliased=False)  # compiled or loaded now, in no request

    def admit(self, raw_records: Sequence[RawRecord], binding: SourceBinding, now_ms: int) -> BatchOutcome:
        """Judge records of one body."""
        if len(raw_records) == 1:  # the compiled path begins to pay at two
            return self._admit_one(raw_records[0], binding, now_ms)
        payloads, wrong = _native_payloads(raw_records)
        latest_ms = now_ms + 1000 * MAX_CLOCK_AHEAD_S
        claims = self._read_claims(payloads, binding, latest_ms)
        # The kernel passes over what it does not know, which may be no text at all: `Admission` refuses it.
        claims.state[[at for at, payload in enumerate(payloads) if not is_text(payload)]] = CLAIM_UNREADABLE
        outcomes = self._fast_path_records(payloads, claims, now_ms)
        slow_positions = np.flatnonzero(claims.state != CLAIM_KNOWN).tolist()
        all_admitted = True
        for position in slow_positions:
            outcome = wrong.get(position) or self._admit_on_slow_path(
                payloads[position], raw_records[position].path_prefix, binding, now_ms, claims, position
            )
            outcomes[position] = outcome
            all_admitted = all_admitted and isinstance(outcome, Record)
        return BatchOutcome(outcomes, all_admitted, len(slow_positions))

    def _read_claims(self, payloads: list[bytes], binding: SourceBinding, latest_ms: int) -> BatchClaims:
        if not self._gate.is_open():
            return unread_claims(len(payloads))
        return self._reader.read(
            payloads, self._sender_of(binding), latest_ms, aliased=self._admission.replaces_principals
        )

    def _admit_one(self, raw_record: RawRecord, binding: SourceBinding, now_ms: int) -> BatchOutcome:
        try:
            return BatchOutcome(
                [self._admission.admit(raw_record, binding, now_ms)], all_admitted=True, slow_path_records=1
            )
        except (MalformedEvent, SourceNotAllowed) as error:
            return BatchOutcome([error], all_admitted=False, slow_path_records=1)

    def _sender_of(self, binding: SourceBinding) -> BatchSender:
        sender = self._senders.get(binding)
        if sender is None:
            if len(self._senders) >= MAX_SENDERS:
                self._senders.clear()
            number, caller = next(self._next_sender_number), binding.source_without_name
            sender = self._senders[binding] = BatchSender(number, caller, binding.is_bounded)
        return sender

    def _fast_path_records(self, payloads: list[bytes], claims: BatchClaims, now_ms: int) -> list[AdmissionOutcome]:
        """Records of all that is known; at the positions of the others stands what is to be replaced."""
        is_known = claims.state == CLAIM_KNOWN
        if not is_known.any():
            return [_PLACEHOLDER] * len(payloads)
        key_numbers = np.where(is_known, claims.key_numbers, 0).tolist()
        partition_keys = map(self._reader.partition_keys.__getitem__, key_numbers)
        return list(
            map(
                Record._make,
                zip(repeat(RecordKind.EVENT), claims.ids.tolist(), repeat(now_ms), payloads, partition_keys),
            )
        )

    def _admit_on_slow_path(
        self, payload: bytes, prefix: str, binding: SourceBinding, now_ms: int, claims: BatchClaims, position: int
    ) -> AdmissionOutcome:
        try:
            record = self._admission.admit_native(payload, binding, now_ms, prefix)
        except (MalformedEvent, SourceNotAllowed) as error:
            return error
        by_scopes = bool(self._admission.scope_actions) and b'"capabilities"' in payload
        if claims.state[position] == CLAIM_NEW and record.payload is payload and not by_scopes:
            self._reader.remember(claims.fingerprints[position], record.key)
        return record


_PLACEHOLDER = Record(RecordKind.EVENT, 0, 0, b"")


def _native_payloads(raw_records: Sequence[RawRecord]) -> tuple[list[bytes], dict[int, MalformedEvent]]:
    """Native JSON of each record, and what is wrong with those of which none can be made, by position."""
    payloads: list[bytes] = []
    wrong: dict[int, MalformedEvent] = {}
    for position, (raw, native, *_) in enumerate(raw_records):
        if native is not None:
            try:
                raw = native()
            except MalformedEvent as error:
                wrong[position], raw = error, b""
        payloads.append(raw)
    return payloads, wrong
