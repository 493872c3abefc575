"""JSON of any size, cut into its records: arrays, objects behind each other, objects that wrap records.

Only brackets and strings are examined: a record with invalid JSON inside is cut out like any other, and its decoder
refuses it. Memory holds one record at a time, and an object that wraps records as a whole only if it is no larger than
a record may be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ..errors import MalformedEvent
from ..file_source import BLOCK_BYTES
from ..formats.wrapped_records import WRAPPER_MEMBERS, unwrap_value

MAX_RECORD_BYTES = 16 * 1024 * 1024

_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|["{}\[\]]', re.DOTALL)
_SPACE = re.compile(rb"[ \t\r\n]*")
_CUT_OFF = "the file ends in the middle of it: is it whole?"
_SCALAR_END = re.compile(rb"[,}\]\s]")


class Wrapper(NamedTuple):
    """Frame around records, if a mapping names one."""

    members: tuple[str, ...]  # names of those that hold them
    unwrap: Callable[[bytes], list[bytes]]  # gives the records of an object; itself if it is one


NO_WRAPPER = Wrapper((), lambda value: [value])
"""Each object is a record."""


class BrokenJson(Exception):
    """The text is not JSON from here on; the message states what was found."""


class JsonCutter:
    """Cuts one stream."""

    def __init__(self, stream: Any, wrapper: Wrapper | None = None) -> None:
        self._stream = stream
        self._members = WRAPPER_MEMBERS if wrapper is None else wrapper.members
        self._unwrap = unwrap_value if wrapper is None else wrapper.unwrap
        self._text = b""
        self._at = 0
        self._ended = False
        self._records = 0

    def records(self) -> Iterator[bytes]:
        """The records in order. Raises BrokenJson."""
        while start := self._next_sign():
            if start == b"[":
                yield from self._elements()
            elif start == b"{":
                yield from self._object()
            else:
                raise self._broken("JSON begins with `{` or `[`")

    def _object(self) -> Iterator[bytes]:
        whole = self._composite()
        if whole is None:
            yield from self._large_wrapper()
            return
        try:
            records = self._unwrap(whole)
        except MalformedEvent:
            records = [whole]
        for record in records:
            self._records += 1
            yield record

    def _large_wrapper(self) -> Iterator[bytes]:
        """Records of an object that is too large to be one."""
        self._at += 1
        has_records = False
        while (sign := self._sign_within()) != b"}":
            if sign == b",":
                self._at += 1
                continue
            name = self._string()
            if self._sign_within() != b":":
                raise self._broken("a member has no `:`")
            self._at += 1
            if name in self._members and self._sign_within() == b"[":
                has_records = True
                yield from self._elements()
            else:
                self._skip_value()
        self._at += 1
        if not has_records:
            names = f", and none of the members that hold records: {', '.join(self._members)}" if self._members else ""
            raise self._broken(f"it has more than {MAX_RECORD_BYTES} bytes{names}")

    def _elements(self) -> Iterator[bytes]:
        """Elements of an array, one after the other."""
        self._at += 1
        while (sign := self._sign_within()) != b"]":
            if sign == b",":
                self._at += 1
                continue
            if sign not in (b"{", b"["):
                raise self._broken("records are objects")
            record = self._composite()
            if record is None:
                raise self._broken(f"it has more than {MAX_RECORD_BYTES} bytes")
            self._records += 1
            yield record
        self._at += 1

    def _composite(self) -> bytes | None:
        """Take the object or array that begins here; None, with nothing taken, if it is larger than a record may be."""
        depth, scanned = 0, self._at
        while True:
            for token in _TOKEN.finditer(self._text, scanned):
                sign = token[0]
                if sign == b'"':  # of a string whose end is not here yet
                    scanned = token.start()
                    break
                depth += (sign in (b"{", b"[")) - (sign in (b"}", b"]"))
                scanned = token.end()
                if depth == 0:
                    if scanned - self._at > MAX_RECORD_BYTES:
                        return None
                    taken, self._at = self._text[self._at : scanned], scanned
                    return taken
            else:
                scanned = len(self._text)
            if len(self._text) - self._at > MAX_RECORD_BYTES:
                return None
            scanned -= self._at
            if not self._read_on():
                raise self._broken(_CUT_OFF)

    def _string(self) -> str:
        while True:
            token = _TOKEN.match(self._text, self._at)
            if token is None:
                raise self._broken("a member has no name")
            end = token.end() if len(token[0]) > 1 else len(self._text)
            if end - self._at > MAX_RECORD_BYTES:
                raise self._broken(f"a member has more than {MAX_RECORD_BYTES} bytes")
            if len(token[0]) > 1:
                self._at = end
                return token[0][1:-1].decode(errors="replace")
            if not self._read_on():
                raise self._broken(_CUT_OFF)

    def _skip_value(self) -> None:
        sign = self._sign_within()
        if sign == b'"':
            self._string()
        elif sign in (b"{", b"["):
            if self._composite() is None:
                raise self._broken(f"a member has more than {MAX_RECORD_BYTES} bytes")
        else:
            while (end := _SCALAR_END.search(self._text, self._at)) is None:
                if not self._read_on():
                    raise self._broken(_CUT_OFF)
            self._at = end.start()

    def _next_sign(self) -> bytes:
        """Return the next byte that is not a space; empty at the end of the file."""
        while True:
            space = _SPACE.match(self._text, self._at)
            assert space is not None
            self._at = space.end()
            if self._at < len(self._text):
                return self._text[self._at : self._at + 1]
            if not self._read_on():
                return b""

    def _sign_within(self) -> bytes:
        """Return the next byte that is not a space, where the file may not end."""
        sign = self._next_sign()
        if not sign:
            raise self._broken(_CUT_OFF)
        return sign

    def _read_on(self) -> bool:
        """Read more after what is left, as much again if that is long; False at the end of the file."""
        if self._ended:
            return False
        left = self._text[self._at :]
        block = self._stream.read(max(BLOCK_BYTES, len(left)))
        self._ended = not block
        self._text, self._at = left + block, 0
        return not self._ended

    def _broken(self, what: str) -> BrokenJson:
        return BrokenJson(f"record {self._records + 1}: {what}")
