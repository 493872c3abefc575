"""Forms in which one value may be spelled: capitals, blanks, URLs, mail addresses, numbers, encodings.

A text in memory and a value that is looked up in it go through the same functions, so that spelling does not matter.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
import string
import unicodedata
from collections.abc import Iterator
from urllib.parse import unquote

MIN_TEXT_CHARACTERS = 4
"""Shorter texts are found everywhere and tell nothing."""
MIN_NUMBER_DIGITS = 3
MAX_DECODED_CHARACTERS = 4096
PLACES_PER_ADDRESS = 4
"""Places with an `@` that are looked at for each mail address that is wanted."""
MAX_DECODED_PARTS = 16
"""Encoded parts of one text that are decoded."""
NUMBER_MARK = "#"
"""Begins the keys of numbers and of grouped digits, which no word holds."""

_WORD_PATTERN = re.compile(r"\w+")
_PERCENT_PATTERN = re.compile(r"%[0-9a-fA-F]{2}")
_ESCAPE_PATTERN = re.compile(r"\\(?:u([0-9a-fA-F]{4})|([nrtfb])|([\"/\\]))")
_INVISIBLE = dict.fromkeys(
    (0xAD, 0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
)
_ENCODED_PATTERN = re.compile(r"[A-Za-z0-9+/_-]{16,}+={0,2}")
_ENCODED_VALUE_PATTERN = re.compile(r"[A-Za-z0-9+/_-]{8,}+={0,2}")
_HEX_PATTERN = re.compile(r"(?:[0-9a-fA-F]{2}){4,}+")
_DIGIT_PATTERN = re.compile(r"[0-9]")
_NUMBER_PATTERN = re.compile(r"(?<![^\W_])[0-9][0-9.,']{0,30}+")
_AMOUNT_PATTERN = re.compile(
    r"(?:[a-z]{3} )?[^\w.,'-]{0,3}-?[^\w.,'-]{0,3}([0-9](?:[0-9.,' ]{0,30}[0-9])?)[^\w.,']{0,3}(?:[a-z]{3})?"
)
_GROUPS_PATTERN = re.compile(r"\b[a-z]{0,4}[0-9][0-9a-z]{0,40}+(?:[ ./()-]{1,2}[a-z]{0,4}[0-9][0-9a-z]{0,40}+){0,12}+")
_BETWEEN_GROUPS_PATTERN = re.compile(r"[^\da-z]+")
_URL_PATTERN = re.compile(r"(?:[a-z][a-z0-9+.-]{0,20}://)?(?:[^/@\s]{0,200}@)?(?:www\.)?([^\s/?#@]{1,253})([/?#]\S*)?")
_DEFAULT_PORT_PATTERN = re.compile(r":(?:80|443)$")
_MAIL_PATTERN = re.compile(r"[\w.+%-]{1,64}@[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63}){1,8}")
_URL_END_PATTERN = re.compile(r"[\"'<>)\]}|\\]")
_EDGES = " \t.,;:!?'\"`()[]{}<>"


_WINDOW = 64
"""Characters around a digit that are looked at for numbers; more where there are more digits."""
_ENCODED_RUN = b"1" * 16
_DIGIT_RUN = b"1" * 3
_MAX_WINDOWS = 64
"""Digits of a text that are looked at for long numbers."""
MIN_LONG_NUMBER_DIGITS = 6


def _class_table(members: str, other: str = " ") -> bytes:
    """Table for `bytes.translate`: a 1 for *members*. It looks a text over ten times faster than a pattern does."""
    return bytes(ord("1") if chr(code) in members else ord(other) for code in range(256))


_ALPHANUMERIC = string.ascii_letters + string.digits
_WORD_TABLE = bytes(code if chr(code) in _ALPHANUMERIC + "_" else ord(" ") for code in range(256))
_DIGIT_TABLE = _class_table(string.digits)
_ENCODED_TABLE = _class_table(_ALPHANUMERIC + "+/_-")


def words_of(text: str) -> list[str]:
    """Words of a normal text, without what stands between them."""
    if text.isascii():
        return text.encode().translate(_WORD_TABLE).decode().split()
    return _WORD_PATTERN.findall(text)


def _classes(text: str, table: bytes) -> bytes:
    """One byte for each character of a text, by the table."""
    return text.encode("latin-1", "replace").translate(table)


def normal_text(text: str) -> str:
    """Small letters, single blanks, nothing invisible; percent signs, entities and escapes are resolved."""
    for _ in range(2):  # what was encoded twice
        if "%" in text and _PERCENT_PATTERN.search(text):
            text = unquote(text)
    if "&" in text:
        text = html.unescape(text)
    if "\\" in text:
        text = _ESCAPE_PATTERN.sub(_unescaped, text)
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.translate(_INVISIBLE))
    return " ".join(text.casefold().split())


def _unescaped(match: re.Match[str]) -> str:
    code, _, same = match.groups()
    if code is not None:
        return chr(int(code, 16))
    return same or " "


def value_forms(value: str) -> Iterator[str]:
    """Spellings under which a short text is looked for, the plain one first; one by one, as most are found by that."""
    plain = normal_text(value)
    yield plain
    if plain[:1] in _EDGES or plain[-1:] in _EDGES:
        yield plain.strip(_EDGES)
    if "@" in plain and (address := _MAIL_PATTERN.search(plain)) is not None and _is_whole_mail(plain, address):
        yield address.group()
    elif " " not in plain and ("://" in plain or plain.startswith("www.")):
        yield url_without_scheme(plain)
    if _DIGIT_PATTERN.search(plain) is not None:
        yield from _whole_number_keys(plain)
    if " " not in plain:
        for decoded in _decoded_value(value.strip()):
            yield normal_text(decoded)


def _is_whole_mail(text: str, address: re.Match[str]) -> bool:
    """True for a text that is a mail address with at most a name or `mailto:` beside it."""
    rest = text[: address.start()] + text[address.end() :]
    return not rest.strip(_EDGES) or rest.strip() == "mailto:" or (text[address.start() - 1 : address.start()] == "<")


def number_form(value: float) -> str | None:
    """Key of a number; None for one that is too short to tell anything."""
    if value != value or value in (float("inf"), float("-inf")):
        return None
    text = str(int(value)) if value == int(value) else repr(value)
    text = text.removeprefix("-")
    return NUMBER_MARK + text if _digits(text) >= MIN_NUMBER_DIGITS else None


def number_keys(text: str) -> list[str]:
    """Keys of the numbers and of the grouped digits (accounts, telephones, dates) that stand in a normal text."""
    classes = _classes(text, _DIGIT_TABLE)
    keys: list[str] = []
    at = classes.find(b"1")
    while at >= 0:
        end = at + _WINDOW
        while end < len(text) and classes.find(b"1", end - 8, end) >= 0:
            end += _WINDOW
        keys += _keys_of_numbers(text[max(0, at - 6) : end])
        at = classes.find(b"1", end)
    return keys


def long_number_keys(text: str, most: int) -> list[str]:
    """Keys of the numbers of six and more digits, grouped or not."""
    if not _has_digits(text, MIN_LONG_NUMBER_DIGITS):
        return []
    classes = _classes(text, _DIGIT_TABLE)
    keys: list[str] = []
    at = classes.find(b"1")
    for _ in range(_MAX_WINDOWS):
        if at < 0 or len(keys) >= most:
            break
        if not classes.startswith(_DIGIT_RUN, at):
            at = classes.find(b"1", at + 1)
            continue
        begin = text.rfind(" ", max(0, at - 6), at) + 1 or at
        window_keys = _keys_of_numbers(text[begin : at + _WINDOW])
        keys += [key for key in window_keys if _digits(key) >= MIN_LONG_NUMBER_DIGITS]
        at = classes.find(b"1", at + _WINDOW)
    return keys[:most]


def _has_digits(text: str, least: int) -> bool:
    """True if a text has so many digits; a look for each digit is quicker than a table where there are few."""
    for digit in string.digits:
        at = text.find(digit)
        while at >= 0:
            least -= 1
            if least == 0:
                return True
            at = text.find(digit, at + 1)
    return False


def _digits(text: str) -> int:
    return sum(map(str.isdigit, text))


def _keys_of_numbers(text: str) -> list[str]:
    numbers = (number for number in _NUMBER_PATTERN.findall(text) if len(number) >= MIN_NUMBER_DIGITS)
    groups = [key for group in _GROUPS_PATTERN.findall(text) for key in _group_keys(group)]
    return groups + [key for number in numbers for key in _amount_keys(number)]


def _group_keys(group: str) -> Iterator[str]:
    compact = _BETWEEN_GROUPS_PATTERN.sub("", group)
    if len(compact) >= MIN_TEXT_CHARACTERS:
        yield NUMBER_MARK + compact


def _whole_number_keys(text: str) -> Iterator[str]:
    """Keys of a text that is nothing but a number or grouped digits."""
    amount = _AMOUNT_PATTERN.fullmatch(text)
    if amount is not None:
        yield from _amount_keys(amount.group(1).replace(" ", ""))
    grouped = text.strip("+() ")
    if grouped.isalnum() or _GROUPS_PATTERN.fullmatch(grouped) is not None:
        yield from _group_keys(grouped)


def _amount_keys(number: str) -> Iterator[str]:
    """Readings of a number whose separators may be those of thousands or of decimals."""
    number = number.rstrip(".,'").replace("'", "")
    head, mark, tail = number, "", ""
    at = max(number.rfind("."), number.rfind(","))
    if at > 0:
        head, mark, tail = number[:at], number[at], number[at + 1 :]
    digits = re.sub(r"\D", "", head)
    if mark and not (len(tail) == 3 and number.count(mark) > 1):
        whole, fraction = digits.lstrip("0") or "0", tail.rstrip("0")
        if len(digits) + len(tail) >= MIN_NUMBER_DIGITS:
            yield NUMBER_MARK + (f"{whole}.{fraction}" if fraction else whole)
    if not mark or len(tail) == 3:
        joined = (digits + tail).lstrip("0")
        if len(joined) >= MIN_NUMBER_DIGITS:
            yield NUMBER_MARK + joined


def url_without_scheme(text: str) -> str:
    """A URL without scheme, user, `www.`, usual port and closing slash; another text as it is."""
    match = _URL_PATTERN.fullmatch(text)
    if match is None:
        return text
    return _DEFAULT_PORT_PATTERN.sub("", match.group(1)) + (match.group(2) or "").rstrip("/")


def url_host(text: str) -> str | None:
    """The host of a normal URL; None for another text."""
    match = _URL_PATTERN.fullmatch(text) if "://" in text or text.startswith("www.") else None
    return None if match is None else _DEFAULT_PORT_PATTERN.sub("", match.group(1))


def decoded_parts(text: str) -> Iterator[str]:
    """Texts that are hidden in a text as base64 or hexadecimal digits."""
    classes, parts = _classes(text, _ENCODED_TABLE), 0
    at = classes.find(_ENCODED_RUN)
    while at >= 0 and parts < MAX_DECODED_PARTS:
        match = _ENCODED_PATTERN.match(text, at)
        if match is None:
            break
        for decoded in _decoded_value(match.group()):
            yield decoded
            parts += 1
        at = classes.find(_ENCODED_RUN, match.end())


def _decoded_value(value: str) -> Iterator[str]:
    value = value[: 2 * MAX_DECODED_CHARACTERS]
    if _HEX_PATTERN.fullmatch(value):
        yield from _printable(bytes.fromhex(value))
    if _ENCODED_VALUE_PATTERN.fullmatch(value) and not value.isdigit():
        bare = value.rstrip("=").replace("-", "+").replace("_", "/")
        try:
            yield from _printable(base64.b64decode(bare + "=" * (-len(bare) % 4)))
        except (binascii.Error, ValueError):
            return


def _printable(raw: bytes) -> Iterator[str]:
    """The text of *raw*, where it is one."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return
    if len(text) >= MIN_TEXT_CHARACTERS and all(part.isprintable() for part in text.split()):
        yield text


def mail_addresses(text: str, most: int) -> list[str]:
    """Mail addresses in a text in small letters; only what is around an `@` is looked at."""
    addresses: list[str] = []
    at = text.find("@")
    for _ in range(PLACES_PER_ADDRESS * most):
        if at < 0 or len(addresses) >= most:
            break
        begin = max(0, at - 64)
        for match in _MAIL_PATTERN.finditer(text, begin, at + 256):
            if match.start() < at < match.end():
                addresses.append(match.group())
                break
        at = text.find("@", at + 1)
    return addresses


def urls(text: str, most: int) -> list[str]:
    """URLs in a text in small letters, without scheme; only what is around a `://` is looked at."""
    addresses: list[str] = []
    at = text.find("://") if ":" in text else -1
    while at >= 0 and len(addresses) < most:
        behind = text[at + 3 : at + 515].split(None, 1)
        if behind:
            addresses.append(
                url_without_scheme("x://" + _URL_END_PATTERN.split(behind[0], maxsplit=1)[0].rstrip(_EDGES))
            )
        at = text.find("://", at + 3)
    return [url for url in addresses if url]
