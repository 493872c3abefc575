"""The part of a name that decides: the network of an address, the beginning of a URL."""

from __future__ import annotations

from ..compiled import allocation_free, as_int
from .text import AT, COLON, DOT, SLASH, ZERO, Bytes, is_digit

_FIRST_LETTER, _LAST_LETTER, _QUERY, _FRAGMENT = b"az?#"


@allocation_free
def ipv4_prefix(data: Bytes, at: int, end: int) -> int:
    """Bytes of the first three numbers of a dotted IPv4 address, without the dot behind; 0 for any other text."""
    begin, kept = at, 0
    for part in range(4):
        start, value = at, 0
        while at < end and is_digit(data[at]):
            value = value * 10 + as_int(data[at] - ZERO)
            at += 1
        digits = at - start
        if not 1 <= digits <= 3 or value > 255 or (digits > 1 and data[start] == ZERO):
            return 0
        if part == 2:
            kept = at - begin
        if part < 3:
            if at >= end or data[at] != DOT:
                return 0
            at += 1
    return kept if at == end else 0


@allocation_free
def deciding(data: Bytes, begin: int, end: int) -> int:
    """How many bytes of a name decide its canonical target; -1 where no look-up is needed.

    Of a URL with a plain scheme these are the ones until its path, as only its host counts.
    """
    scheme, mail = -1, False
    for at in range(begin, end):
        mail = mail or data[at] == AT
        if data[at] == COLON and at + 2 < end and data[at + 1] == SLASH and data[at + 2] == SLASH:
            scheme = at
            break
    if scheme < 0:
        return end - begin if mail else -1
    for at in range(begin, scheme):
        if not _FIRST_LETTER <= data[at] <= _LAST_LETTER:
            return end - begin
    at = scheme + 3
    while at < end and data[at] not in (SLASH, _QUERY, _FRAGMENT):
        at += 1
    return at - begin
