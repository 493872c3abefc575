"""Convert payloads to columns: kernels for plain records, the reference path for all others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trustwatch_client.events import Argument

from ..argument_columns import may_tell_origins, read_arguments, scanned_arguments
from ..columns import UNTRUSTED_RESULT, ColumnEncoder, EventColumns, LazyEvents, untrusted_result_code
from ..compilation import KernelGate, KernelPart, allocation_free
from ..errors import MalformedEvent
from ..events import NativeEvent, decode_event
from . import text_buffer
from .column_writer import NEEDS_DECODING, ColumnRows, WriterTools, allocate_rows, write_arguments, write_row
from .json_scanner import Bytes
from .record_scanner import MemberSpans, allocate_member_spans, joined_records, read_plain_record
from .scan_schema import SCAN_SCHEMA, ScanSchema
from .text_buffer import TEXT_BUFFER_BYTES

_TABLE_SLOTS = 1 << 17
"""Slots of the memory: 40 bytes each. At most half are used; when they are used up, the memory is emptied."""

EventDecoder = Callable[[bytes], NativeEvent]


class EncodedBatch(NamedTuple):
    columns: EventColumns
    positions: npt.NDArray[np.int64]  # of the rows of `columns` among the payloads
    refused: list[tuple[int, MalformedEvent]]  # positions of all other payloads, and why


class RawEncoder:
    """Returns the columns of `encoder.encode([decode(payload) ...])`, bit for bit, mostly without decoding anything."""

    def __init__(
        self,
        encoder: ColumnEncoder,
        decode: EventDecoder = decode_event,
        places: int = _TABLE_SLOTS,
        *,
        compiled_elsewhere: bool = False,
    ) -> None:
        self._encoder = encoder
        self._decode = decode
        self._tools = WriterTools(
            encoder.hash.key,
            np.zeros(TEXT_BUFFER_BYTES, np.uint8),
            text_buffer.allocate_fingerprint_table(encoder.salt, b"recall", places, 3),
        )
        self._members = allocate_member_spans()
        self._remembered = 0
        self._gate = KernelGate(KernelPart.READING, compiled_elsewhere=compiled_elsewhere)

    @staticmethod
    def slots_for(agents: int) -> int:
        """Return the number of slots for the keys of this many agents: 2 to 4 for each, that is 112 to 224 bytes."""
        return max(_TABLE_SLOTS, 1 << (2 * agents - 1).bit_length())

    def encode(self, payloads: Sequence[bytes]) -> EncodedBatch:
        """Return the columns of the payloads that are events, in their order."""
        n = len(payloads)
        data, starts = joined_records(payloads)
        out = allocate_rows(n, len(data))
        if self._gate.is_open():
            scan_records(data, starts, SCAN_SCHEMA, self._members, self._tools, out)
        else:
            out.state[:] = NEEDS_DECODING
        decoded: dict[int, NativeEvent] = {}
        refused: list[tuple[int, MalformedEvent]] = []
        for position in np.flatnonzero(out.state).tolist():
            try:
                decoded[position] = self._decode(payloads[position])
            except MalformedEvent as error:
                refused.append((position, error))
        if decoded:
            self._fill(out, decoded)
        given_arguments = self._read_attributes(out, payloads, decoded)
        given_arguments.update((position, read_arguments(event) or ()) for position, event in decoded.items())
        arguments = scanned_arguments(out.argument_counts, out.arguments, given_arguments, self._encoder.hash.hash_many)
        columns = EventColumns(LazyEvents(payloads, decoded), out.names, out.numbers, out.codes, out.time_ms, arguments)
        positions = np.arange(n)
        if refused:
            positions = np.delete(positions, [position for position, _ in refused])
            columns = columns.take(positions)
        return EncodedBatch(columns, positions, refused)

    def _read_attributes(
        self, out: ColumnRows, payloads: Sequence[bytes], decoded: dict[int, NativeEvent]
    ) -> dict[int, Sequence[Argument]]:
        given_arguments: dict[int, Sequence[Argument]] = {}
        spans = out.attributes.tolist()
        for position in np.flatnonzero((out.attributes[:, 1] > 0) & (out.state == 0)).tolist():
            begin, length = spans[position]
            if position in decoded or not may_tell_origins(payloads[position][begin : begin + length]):
                continue
            event = self._decode(payloads[position])
            out.codes[position, UNTRUSTED_RESULT] = untrusted_result_code(event)
            given_arguments[position] = read_arguments(event) or ()
        return given_arguments

    def _fill(self, out: ColumnRows, decoded: dict[int, NativeEvent]) -> None:
        """Write the rows of decoded events, and remember the entries that the kernel lacked for them."""
        at, encoded = np.fromiter(decoded, np.int64, len(decoded)), self._encoder.encode(list(decoded.values()))
        out.names[at], out.numbers[at], out.codes[at], out.time_ms[at] = encoded[1:5]
        state = np.where(out.state[at] == NEEDS_DECODING, np.uint8(0), out.state[at])
        if self._remembered + text_buffer.ENTRY_KINDS * len(at) > len(self._tools.memory.values) // 2:
            self._tools.memory.fingerprints[:] = 0
            self._remembered = 0
        self._remembered += text_buffer.store_missing(
            self._tools.memory, state, out.fingerprints[at], encoded.names, encoded.numbers, encoded.codes
        )


@allocation_free
def scan_records(
    data: Bytes,
    starts: npt.NDArray[np.int64],
    schema: ScanSchema,
    spans: MemberSpans,
    tools: WriterTools,
    out: ColumnRows,
) -> None:
    """Read the records at *starts* (the last one is the end) and write their rows; each is followed by a zero byte."""
    arguments = 0
    for row in range(len(starts) - 1):
        start, end = starts[row], starts[row + 1] - 1
        out.state[row] = NEEDS_DECODING
        if not read_plain_record(data, start, end, schema, spans):
            continue
        out.state[row] = write_row(data, spans, tools, out, row)
        arguments = write_arguments(data, start, spans, tools, out, row, arguments)
