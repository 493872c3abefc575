"""Texts that an agent has seen in one conversation, and which of them contains a value first. Kept only in memory."""

from __future__ import annotations

import base64
import binascii
import html
import re
import string
import unicodedata
from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from operator import attrgetter
from typing import Literal
from urllib.parse import unquote

import msgspec

# A text in memory and a value looked up in it are normalized by the same functions, so that spelling does not matter.

MIN_TEXT_CHARACTERS = 4
"""Shorter texts occur everywhere."""
MIN_NUMBER_DIGITS = 3
MAX_DECODED_CHARACTERS = 4096
PLACES_PER_ADDRESS = 4
"""Maximum number of `@` signs checked per mail address."""
MAX_DECODED_PARTS = 16
"""Maximum number of encoded parts decoded per text."""
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
"""Characters around a digit that are searched for numbers; more if there are more digits."""
_ENCODED_RUN = b"1" * 16
_DIGIT_RUN = b"1" * 3
_MAX_WINDOWS = 64
"""Maximum number of digits of a text checked for long numbers."""
MIN_LONG_NUMBER_DIGITS = 6


def _class_table(members: str) -> bytes:
    """Return a table for `bytes.translate` with a 1 for *members*; it scans a text ten times faster than a pattern."""
    return bytes(ord("1" if chr(code) in members else " ") for code in range(256))


_ALPHANUMERIC = string.ascii_letters + string.digits
_WORD_TABLE = bytes(code if chr(code) in _ALPHANUMERIC + "_" else ord(" ") for code in range(256))
_DIGIT_TABLE = _class_table(string.digits)
_ENCODED_TABLE = _class_table(_ALPHANUMERIC + "+/_-")


def words_of(text: str) -> list[str]:
    """Return the words of a normalized text, without separators."""
    if text.isascii():
        return text.encode().translate(_WORD_TABLE).decode().split()
    return _WORD_PATTERN.findall(text)


def _classes(text: str, table: bytes) -> bytes:
    return text.encode("latin-1", "replace").translate(table)


def normal_text(text: str) -> str:
    """Normalize a text: lowercase, single blanks, nothing invisible; percent signs, entities, escapes resolved."""
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
    """Yield the spellings of a short text to search for, the plain one first, since most are found by it."""
    plain = normal_text(value)
    yield plain
    if plain[:1] in _EDGES or plain[-1:] in _EDGES:
        yield plain.strip(_EDGES)
    if "@" in plain and (address := _MAIL_PATTERN.search(plain)) is not None and _is_whole_mail(plain, address):
        yield address.group()
    elif " " not in plain and ("://" in plain or plain.startswith("www.")):
        yield url_without_scheme(plain)
    if _DIGIT_PATTERN.search(plain) is not None:
        if (amount := _AMOUNT_PATTERN.fullmatch(plain)) is not None:
            yield from _amount_keys(amount.group(1).replace(" ", ""))
        grouped = plain.strip("+() ")
        if grouped.isalnum() or _GROUPS_PATTERN.fullmatch(grouped) is not None:
            yield from _group_keys(grouped)
    if " " not in plain:
        for decoded in _decoded_value(value.strip()):
            yield normal_text(decoded)


def _is_whole_mail(text: str, address: re.Match[str]) -> bool:
    rest = text[: address.start()] + text[address.end() :]
    return not rest.strip(_EDGES) or rest.strip() == "mailto:" or (text[address.start() - 1 : address.start()] == "<")


def number_form(value: float) -> str | None:
    """Return the key of a number, or None if it is too short."""
    if value != value or value in (float("inf"), float("-inf")):
        return None
    text = str(int(value)) if value == int(value) else repr(value)
    text = text.removeprefix("-")
    return NUMBER_MARK + text if _digits(text) >= MIN_NUMBER_DIGITS else None


def number_keys(text: str) -> list[str]:
    """Return the keys of numbers and grouped digits (accounts, telephones, dates) in a normalized text."""
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
    """Return the keys of numbers of six or more digits, grouped or not."""
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
    """Return whether a text has so many digits; searching each digit is faster than a table if there are few."""
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


def _amount_keys(number: str) -> Iterator[str]:
    """Return the readings of a number whose separators may be those of thousands or of decimals."""
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
    """Return a URL without scheme, user, `www.`, default port and closing slash. Other texts are unchanged."""
    match = _URL_PATTERN.fullmatch(text)
    if match is None:
        return text
    return _DEFAULT_PORT_PATTERN.sub("", match.group(1)) + (match.group(2) or "").rstrip("/")


def url_host(text: str) -> str | None:
    """Return the host of a normalized URL, or None for another text."""
    match = _URL_PATTERN.fullmatch(text) if "://" in text or text.startswith("www.") else None
    return None if match is None else _DEFAULT_PORT_PATTERN.sub("", match.group(1))


def decoded_parts(text: str) -> Iterator[str]:
    """Return texts that are encoded in a text as base64 or hexadecimal digits."""
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
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return
    if len(text) >= MIN_TEXT_CHARACTERS and all(part.isprintable() for part in text.split()):
        yield text


def mail_addresses(text: str, most: int) -> list[str]:
    """Return the mail addresses in a lowercase text. Only the text around an `@` is scanned."""
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
    """Return the URLs in a lowercase text, without scheme. Only the text around a `://` is scanned."""
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


SeenKind = Literal["prompt", "system", "tool"]
_RANK: dict[SeenKind, int] = {"prompt": 0, "system": 1, "tool": 2}
MAX_TEXTS = 256
"""Maximum number of texts kept. The index has the texts of a word as bits of one number."""
TOOL_SHARE = 0.75
"""Maximum share of characters for tool results, which must not push the prompt out."""
MAX_OCCURRENCES = 100
"""Maximum number of matches checked per value and text, which may repeat it in thousands of longer words."""
MIN_WORDS_OF_MIDDLE = 2
EDGE_CHARACTERS = 4
CHARACTERS_PER_WORD = 8
"""Characters per distinct word, so that an index of short words cannot fill the memory."""


class SeenText(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A text that the agent has seen.

    Attributes:
        kind: where it came from.
        text: normal form; decoded parts are at its end.
        bit: its place among the texts.
        order: rank of its kind, then its number.
        call: index of the call whose result it is, from 0; -1 for none.
        action: of that call.
        untrusted: whether others may have written it, or chosen its content.
    """

    kind: SeenKind
    text: str
    bit: int
    order: tuple[int, int]
    call: int = -1
    action: str = ""
    untrusted: bool = False


_ORDER = attrgetter("order")


class ConversationMemory:
    """Keeps texts in normal form, and an index from words to texts."""

    def __init__(self, characters: int) -> None:
        for_tools = int(characters * TOOL_SHARE)
        self._most = {"tool": for_tools, "given": characters - for_tools}
        self._most_words = max(2, characters // CHARACTERS_PER_WORD)
        self._used = {"tool": 0, "given": 0}
        self._texts: dict[str, OrderedDict[int, SeenText]] = {"tool": OrderedDict(), "given": OrderedDict()}
        self._by_bit: dict[int, SeenText] = {}
        self._free = list(range(MAX_TEXTS))
        self._masks: dict[str, int] = {}
        self._number = 0
        self.evicted = 0
        """Texts that made room."""
        self.cut = 0
        """Texts whose end did not fit."""

    @property
    def characters(self) -> int:
        """Number of characters kept."""
        return sum(self._used.values())

    @property
    def words(self) -> int:
        """Number of entries in the index."""
        return len(self._masks)

    def add(self, kind: SeenKind, text: str, call: int = -1, action: str = "", *, untrusted: bool = False) -> None:
        """Keep a text, cut at its end if it is too long. A text that is already kept is ignored."""
        group = "tool" if kind == "tool" else "given"
        most = self._most[group]
        normal = "\n".join((normal_text(text[:most]), *(normal_text(part) for part in decoded_parts(text[:most]))))
        self.cut += len(text) > most or len(normal) > most
        normal = normal[:most]
        if any(seen.text == normal for seen in self._texts[group].values()):
            return  # the earliest counts
        keys = set(self._keys(normal))
        if len(keys) > self._most_words // 2:  # one text takes at most half of the index
            self.cut += 1
            keys = set(islice(keys, self._most_words // 2))
        # The oldest make room: of the same group for characters, results before prompts for words and places.
        while self._texts[group] and self._used[group] + len(normal) > most:
            self._forget(group)
        while self._by_bit and (len(self._masks) + len(keys) > self._most_words or not self._free):
            self._forget("tool" if self._texts["tool"] else "given")
        self._number += 1
        bit = self._free.pop()
        seen = SeenText(kind, normal, bit, (_RANK[kind], self._number), call, action, untrusted)
        self._texts[group][self._number] = self._by_bit[bit] = seen
        self._used[group] += len(normal)
        for key in keys:
            self._masks[key] = self._masks.get(key, 0) | (1 << bit)

    def find(self, form: str) -> SeenText | None:
        """Return the text that contains a form: prompts before the system's text, then the earliest result."""
        if form.startswith(NUMBER_MARK):
            return self._first(self._masks.get(form, 0))
        words = words_of(form)
        mask = self._texts_with(words)
        if len(words) == 1 and len(words[0]) == len(form):
            return self._first(mask)
        return next((seen for seen in self._ordered(mask) if holds(seen.text, form)), None)

    def holders(self, piece: str) -> list[SeenText]:
        """Return all texts that contain a piece of a text."""
        mask = self._texts_with(words_of(piece))
        return [seen for seen in self._ordered(mask) if piece in seen.text] if mask else []

    def holders_of_middle(self, piece: str) -> list[SeenText]:
        """Return all texts that contain a piece cut out of a longer text, except for the words at its ends."""
        words = words_of(piece)[1:-1]
        if len(words) < MIN_WORDS_OF_MIDDLE:  # a script without spaces has no words to look up
            middle = " ".join(piece.split())[EDGE_CHARACTERS:-EDGE_CHARACTERS]
            return [seen for seen in self._by_bit.values() if middle and middle in seen.text]
        mask = self._texts_with(words)
        if not mask:
            return []
        middle = " ".join(piece.split()[1:-1])
        return [seen for seen in self._ordered(mask) if middle in seen.text]

    def _texts_with(self, words: list[str]) -> int:
        mask = -1 if words else 0
        for word in words:
            mask &= self._masks.get(word, 0)
            if not mask:
                return 0
        return mask

    def _first(self, mask: int) -> SeenText | None:
        return next(iter(self._ordered(mask)), None)

    def _ordered(self, mask: int) -> list[SeenText]:
        texts = []
        while mask:
            low = mask & -mask
            texts.append(self._by_bit[low.bit_length() - 1])
            mask ^= low
        return sorted(texts, key=_ORDER) if len(texts) > 1 else texts

    @staticmethod
    def _keys(normal: str) -> list[str]:
        return words_of(normal) + number_keys(normal)

    def _forget(self, group: str) -> None:
        _, seen = self._texts[group].popitem(last=False)
        self._used[group] -= len(seen.text)
        for key in set(self._keys(seen.text)):
            left = self._masks.get(key, 0) & ~(1 << seen.bit)
            if left:
                self._masks[key] = left
            else:
                self._masks.pop(key, None)
        del self._by_bit[seen.bit]
        self._free.append(seen.bit)
        self.evicted += 1


def holds(text: str, form: str) -> bool:
    """Return whether *text* contains *form* as a whole, not as part of a longer word or number."""
    at = text.find(form)
    for _ in range(MAX_OCCURRENCES):
        if at < 0:
            break
        end = at + len(form)
        begins = at == 0 or not (_joins(text[at - 1]) and _joins(form[0]))
        if begins and (end == len(text) or not (_joins(text[end]) and _joins(form[-1]))):
            return True
        at = text.find(form, at + 1)
    return False


def _joins(character: str) -> bool:
    return character.isalnum() or character == "_"
