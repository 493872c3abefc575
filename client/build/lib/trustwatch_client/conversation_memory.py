"""Texts that an agent has seen in one conversation, and which of them hold a value first. In memory alone."""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import Literal

import msgspec

from .value_forms import NUMBER_MARK, decoded_parts, normal_text, number_keys, words_of

SeenKind = Literal["prompt", "system", "tool"]
_RANK: dict[SeenKind, int] = {"prompt": 0, "system": 1, "tool": 2}
MAX_TEXTS = 256
"""Texts that are kept; a word knows its texts as the bits of one number."""
TOOL_SHARE = 0.75
"""Share of the characters that results of tools may take: they must not push the prompt out."""
MAX_OCCURRENCES = 100
"""Places in one text that are looked at for one value: a text may be made to hold it in thousands of longer words."""
MIN_WORDS_OF_MIDDLE = 2
EDGE_CHARACTERS = 4
CHARACTERS_PER_WORD = 8
"""Characters that are allowed for each different word, so that short words cannot fill the memory with an index."""


class SeenText(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One text that was seen.

    Attributes:
        kind: where it came from.
        text: normal form; decoded parts stand at its end.
        bit: its place among the texts.
        order: rank of its kind, then its number.
        call: index of the call whose result it is, from 0; -1 for none.
        action: of that call.
        untrusted: whether others may have written it, or chosen what it tells.
    """

    kind: SeenKind
    text: str
    bit: int
    order: tuple[int, int]
    call: int = -1
    action: str = ""
    untrusted: bool = False


class ConversationMemory:
    """Texts in normal form, and an index from words to texts."""

    def __init__(self, characters: int) -> None:
        self._most = {"tool": int(characters * TOOL_SHARE), "told": characters - int(characters * TOOL_SHARE)}
        self._most_words = max(2, characters // CHARACTERS_PER_WORD)
        self._used = {"tool": 0, "told": 0}
        self._texts: dict[str, OrderedDict[int, SeenText]] = {"tool": OrderedDict(), "told": OrderedDict()}
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
        """Characters that are kept."""
        return sum(self._used.values())

    @property
    def words(self) -> int:
        """Entries of the index."""
        return len(self._masks)

    def add(self, kind: SeenKind, text: str, call: int = -1, action: str = "", *, untrusted: bool = False) -> None:
        """Keep a text; one that is too long is kept from its beginning, one that is there already is not kept twice."""
        group = "tool" if kind == "tool" else "told"
        normal = self._normal(text, self._most[group])
        if any(seen.text == normal for seen in self._texts[group].values()):
            return  # the earliest counts
        keys = self._bounded_keys(normal)
        self._make_room(group, len(normal), len(keys))
        self._number += 1
        bit = self._free.pop()
        seen = SeenText(kind, normal, bit, (_RANK[kind], self._number), call, action, untrusted)
        self._texts[group][self._number] = self._by_bit[bit] = seen
        self._used[group] += len(normal)
        for key in keys:
            self._masks[key] = self._masks.get(key, 0) | (1 << bit)

    def _normal(self, text: str, most: int) -> str:
        """Normal form of a text, with what is encoded in it on further lines."""
        normal = "\n".join((normal_text(text[:most]), *(normal_text(part) for part in decoded_parts(text[:most]))))
        self.cut += len(text) > most or len(normal) > most
        return normal[:most]

    def _bounded_keys(self, normal: str) -> set[str]:
        """Keys of a text; one text takes at most half of the index."""
        keys = set(self._keys(normal))
        if len(keys) > self._most_words // 2:
            self.cut += 1
            keys = set(islice(keys, self._most_words // 2))
        return keys

    def _make_room(self, group: str, characters: int, words: int) -> None:
        """Drop the oldest texts: of the same group for characters, results before prompts for words and places."""
        while self._texts[group] and self._used[group] + characters > self._most[group]:
            self._forget(group)
        while self._by_bit and (len(self._masks) + words > self._most_words or not self._free):
            self._forget("tool" if self._texts["tool"] else "told")

    def find(self, form: str) -> SeenText | None:
        """The text that holds a form of a value: a prompt before the system's text before the earliest result."""
        if form.startswith(NUMBER_MARK):
            return self._first(self._masks.get(form, 0))
        words = words_of(form)
        mask = self._texts_with(words)
        if len(words) == 1 and len(words[0]) == len(form):
            return self._first(mask)
        return next((seen for seen in self._ordered(mask) if holds(seen.text, form)), None)

    def holders(self, piece: str) -> list[SeenText]:
        """All texts that hold a piece of a text."""
        mask = self._texts_with(words_of(piece))
        return [seen for seen in self._ordered(mask) if piece in seen.text] if mask else []

    def holders_of_middle(self, piece: str) -> list[SeenText]:
        """All texts that hold a piece cut out of a longer text, without the words that the cut may have hit."""
        words = words_of(piece)[1:-1]
        if len(words) < MIN_WORDS_OF_MIDDLE:  # a script without blanks: there are no words to look up
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
        return sorted(texts, key=_order_of) if len(texts) > 1 else texts

    @staticmethod
    def _keys(normal: str) -> list[str]:
        return words_of(normal) + number_keys(normal)

    def _forget(self, group: str) -> None:
        """Drop the oldest text of a group."""
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


def _order_of(seen: SeenText) -> tuple[int, int]:
    return seen.order


def holds(text: str, form: str) -> bool:
    """True if *form* stands in *text* as a whole: not as a part of a longer word or number."""
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
