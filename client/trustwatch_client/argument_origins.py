"""Origins of the arguments of an agent's calls: from the prompt, the system's text, an earlier result, or nowhere.

Everything is computed in memory. Events get the origin, names of arguments and actions, and a keyed hash of each value;
never a value.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, pairwise

import msgspec

from .conversation_memory import (
    MIN_TEXT_CHARACTERS,
    ConversationMemory,
    SeenKind,
    SeenText,
    long_number_keys,
    mail_addresses,
    number_form,
    url_host,
    urls,
    value_forms,
)
from .events import MAX_LABEL_LENGTH, EventArgument
from .service_connection import Counters, require_positive

HASH_DIGITS = 12
PARTS_OF_EXACT_HASH = 3
"""Keyed hashes of 48 bits in one: with the key, two values with the same single hash are found in seconds."""
ORIGIN_COUNTERS = ("traced", "no_key", "no_session", "cut", "evicted", "forgotten", "failed")
LONG_TEXT_CHARACTERS = 400
"""Longer texts are not searched for as a whole, but by pieces."""
PIECES_OF_TEXT = 5
PIECE_CHARACTERS = 50
"""Length of a piece of a long text; words cut at its ends are left out, so that about six are compared."""
WORDS_OF_SHORT_PIECE = 3
COPIED_SHARE = 0.5
"""A text counts as copied if another one contains more than this share of its pieces."""
MAX_INNER_VALUES = 8
"""Maximum number of addresses, hosts and numbers searched for in one text."""
MAX_DEPTH = 8
INNER_MARK = "~"
OTHER_NAME = "other"
"""Replaces a name that is not one of a parameter: keys of objects may be content."""

_NAME_PATTERN = re.compile(r"[A-Za-z_][\w.-]{0,62}", re.ASCII)

Fingerprint = Callable[[bytes], str]


class OriginLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of memory and work.

    Attributes:
        characters: size of the texts of one conversation; a quarter is reserved for prompts.
        made_up: number of values that the agent made up, kept to detect their echoes; the oldest are dropped.
        argument_values: number of values examined per call.
        argument_characters: number of characters examined per call.
        sent: number of arguments per event, at most 256; those from prompts are dropped first, from results last.
        conversations: number of conversations kept; the least recently used is dropped.
        total_characters: size of the texts of all conversations.
        key_s: s, for which a conversation keeps its key, so that its hashes stay comparable.
    """

    characters: int = 262_144
    made_up: int = 4_096
    argument_values: int = 512
    argument_characters: int = 131_072
    sent: int = 64
    conversations: int = 256
    total_characters: int = 8_388_608
    key_s: float = 86_400.0

    def __post_init__(self) -> None:
        require_positive(self, *self.__struct_fields__)
        if self.sent > 256:
            raise ValueError(f"sent is {self.sent}; the service takes at most 256 arguments of one event")


class TracedCall(msgspec.Struct, frozen=True):
    """One call whose arguments were looked up.

    Attributes:
        index: among the calls of the conversation, from 0.
        action: the tool.
        arguments: for the event; None if there is no key.
        derived: whether an argument came from an untrusted result, so that others chose the content of the answer.
    """

    index: int
    action: str
    arguments: list[EventArgument] | None
    derived: bool


class _Traced(msgspec.Struct, frozen=True, gc=False):
    name: str
    form: str
    seen: SeenText | None
    part: bool = False


class ArgumentOrigins:
    """Holds the memory of one conversation, and finds the origins of call arguments. Thread-safe.

    Args:
        fingerprint: returns the current keyed hash, or None while there is no key.
        limits: bounds.
        counters: shared with other conversations.
    """

    def __init__(
        self,
        fingerprint: Callable[[], Fingerprint | None],
        limits: OriginLimits | None = None,
        counters: Counters | None = None,
    ) -> None:
        self._fingerprint = fingerprint
        self._limits = limits or OriginLimits()
        self._counters = counters or Counters(*ORIGIN_COUNTERS)
        self._memory = ConversationMemory(self._limits.characters)
        self._made_up: OrderedDict[int, None] = OrderedDict()
        self._calls = 0
        self._lock = threading.Lock()

    @property
    def characters(self) -> int:
        """Number of characters kept."""
        return self._memory.characters

    @property
    def most_characters(self) -> int:
        """Maximum number of characters read of one text; more is cut."""
        return self._limits.characters + 1

    def add_prompt(self, text: object) -> None:
        """Add the user's request (a text, or values that contain texts)."""
        self._remember("prompt", text)

    def add_system(self, text: object) -> None:
        """Add the system's text: instructions and data of the operator."""
        self._remember("system", text)

    def start_call(self, action: str, arguments: object) -> TracedCall:
        """Look up where the arguments of a call came from, before it is made."""
        with self._lock:
            index, self._calls = self._calls, self._calls + 1
            traced = self._trace(arguments)
        hashed = self._fingerprint()
        self._counters.increment("traced" if hashed is not None else "no_key")
        derived = any(value.seen is not None and value.seen.untrusted for value in traced)
        event_arguments = None if hashed is None else self._event_arguments(traced, hashed)
        return TracedCall(index, action[:MAX_LABEL_LENGTH] or OTHER_NAME, event_arguments, derived)

    def hash_arguments(self, arguments: object) -> str | None:
        """Return the hash of all arguments of a call, or None without a key."""
        hashed = self._fingerprint()
        return None if hashed is None else exact_hash(arguments, hashed)

    def finish_call(self, call: TracedCall, result: object, *, untrusted: bool | None = None) -> bool | None:
        """Remember the result of a call.

        Args:
            result: a text, or values that hold texts; None = no result.
            untrusted: whether the tool's answers may hold what others wrote (mail, web pages, tickets, files); None =
                unknown.

        Returns:
            `untrusted_result` for the event; also true if the call used a value from an untrusted result, whose author
            then chose the content of this result.
        """
        untrusted_result = True if untrusted or call.derived else untrusted
        self._remember("tool", result, call.index, call.action, untrusted=bool(untrusted_result))
        return untrusted_result

    def _remember(
        self, kind: SeenKind, value: object, call: int = -1, action: str = "", *, untrusted: bool = False
    ) -> None:
        text = text_of(value, self.most_characters)
        if not text:
            return
        with self._lock:
            evicted, cut = self._memory.evicted, self._memory.cut
            self._memory.add(kind, text, call, action, untrusted=untrusted)
            evicted, cut = self._memory.evicted - evicted, self._memory.cut - cut
        for name, by in (("evicted", evicted), ("cut", cut)):
            if by:
                self._counters.increment(name, by)

    def _trace(self, arguments: object) -> list[_Traced]:
        values = list(islice(leaves(arguments), self._limits.argument_values + 1))
        lengths = [len(value) for _, value in values if isinstance(value, str)]
        too_many, too_long = len(values) > self._limits.argument_values, sum(lengths) - self._limits.argument_characters
        if too_many or too_long > 0:
            self._counters.increment("cut")
            values = values[: self._limits.argument_values]
        # A long text must not hide the values after it: each gets its share, and targets are short.
        most = self._limits.argument_characters // len(lengths) if too_long > 0 else self._limits.argument_characters
        traced: list[_Traced] = []
        for name, value in values:
            if not isinstance(value, str):
                if (form := number_form(value)) is not None:
                    traced.append(self._looked_up(name, form))
            elif min(len(value), most) > LONG_TEXT_CHARACTERS:
                traced += self._long_text(name, value[:most].casefold())
            else:
                traced += self._short_text(name, value[:most])
        return traced

    def _short_text(self, name: str, value: str) -> list[_Traced]:
        forms: list[str] = []
        for form in value_forms(value):
            if len(form) >= MIN_TEXT_CHARACTERS:
                forms.append(form)
                if (seen := self._first_holder(form)) is not None:
                    return [_Traced(name, form, seen)]
        if not forms:
            return []
        seen, words = None, forms[0].split()
        if hash(forms[0]) not in self._made_up:
            if len(words) > WORDS_OF_SHORT_PIECE:
                count = len(words) - WORDS_OF_SHORT_PIECE + 1
                starts = range(0, count, max(1, count // PIECES_OF_TEXT))
                pieces = [" ".join(words[at : at + WORDS_OF_SHORT_PIECE]) for at in starts]
            else:
                pieces = [" ".join(pair) for pair in pairwise(words)] if len(words) == 3 else []
            seen = self._copied_from([self._memory.holders(piece) for piece in pieces])
        if seen is None:
            self._make_up(forms)
        return [_Traced(name, forms[0], seen, part=seen is not None), *self._inner_values(name, forms[0], forms)]

    def _long_text(self, name: str, text: str) -> list[_Traced]:
        seen = None
        if hash(text) not in self._made_up:
            step = len(text) // PIECES_OF_TEXT
            pieces = [text[at : at + PIECE_CHARACTERS] for at in range(0, step * PIECES_OF_TEXT, step)]
            seen = self._copied_from([self._memory.holders_of_middle(piece) for piece in pieces])
        if seen is None:
            self._make_up((text,))
        return [_Traced(name, text, seen, part=seen is not None), *self._inner_values(name, text)]

    def _looked_up(self, name: str, form: str) -> _Traced:
        seen = self._first_holder(form)
        if seen is None:
            self._make_up((form,))
        return _Traced(name, form, seen)

    def _first_holder(self, form: str) -> SeenText | None:
        """Return the text that contains a form, unless the agent made the value up and a tool echoed it."""
        seen = self._memory.find(form)
        return None if seen is not None and seen.kind == "tool" and hash(form) in self._made_up else seen

    @staticmethod
    def _copied_from(holders_by_piece: Sequence[Sequence[SeenText]]) -> SeenText | None:
        counts: dict[SeenText, int] = {}
        for texts in holders_by_piece:
            for seen in texts:
                counts[seen] = counts.get(seen, 0) + 1
        most = [seen for seen, count in counts.items() if count > COPIED_SHARE * len(holders_by_piece)]
        return min(most, key=lambda seen: (-counts[seen], seen.order), default=None)

    def _inner_values(self, name: str, text: str, whole: Sequence[str] = ()) -> list[_Traced]:
        """Look up the mail addresses, URLs and their hosts, long numbers and the file's name in a lowercase text."""
        forms = mail_addresses(text, MAX_INNER_VALUES)
        for url in urls(text, MAX_INNER_VALUES):
            forms += [url, url_host("x://" + url) or ""]
        forms += long_number_keys(text, MAX_INNER_VALUES)
        if " " not in text and "/" in text and "://" not in text:
            forms.append(text.rstrip("/").rpartition("/")[2])
        inner = [form for form in dict.fromkeys(forms) if len(form) >= MIN_TEXT_CHARACTERS and form not in whole]
        return [self._looked_up(name + INNER_MARK, form) for form in inner[:MAX_INNER_VALUES]]

    def _make_up(self, forms: Sequence[str]) -> None:
        for form in forms:
            self._made_up[hash(form)] = None
        while len(self._made_up) > self._limits.made_up:
            self._made_up.popitem(last=False)

    def _event_arguments(self, traced: Sequence[_Traced], hashed: Fingerprint) -> list[EventArgument]:
        if len(traced) > self._limits.sent:
            self._counters.increment("cut")

            def rank(at: int) -> tuple[int, int]:
                seen = traced[at].seen
                if seen is None:
                    return 2, at
                return (3 if seen.kind != "tool" else 0 if seen.untrusted else 1), at

            kept = sorted(range(len(traced)), key=rank)[: self._limits.sent]
            traced = [traced[at] for at in sorted(kept)]
        arguments = []
        for value in traced:
            seen, raw = value.seen, value.form.encode("utf-8", "surrogatepass")
            # Long texts keep their blanks, because removing them costs more than everything else.
            digits = hashed(raw if len(raw) > LONG_TEXT_CHARACTERS or b" " not in raw else raw.translate(None, b" "))
            if seen is None:
                arguments.append(EventArgument(value.name, "unseen", digits))
            elif seen.kind != "tool":
                arguments.append(EventArgument(value.name, seen.kind, digits, part=value.part))
            else:
                origin = seen.call, seen.action, value.part, seen.untrusted
                arguments.append(EventArgument(value.name, "tool", digits, *origin))
        return arguments


def keyed_fingerprint(key: bytes) -> Fingerprint:
    """Return the HMAC-SHA-256 under *key*, cut to 12 hexadecimal digits."""

    keyed = hmac.new(key, digestmod="sha256")

    def fingerprint(value: bytes) -> str:
        hashed = keyed.copy()  # a third dearer when the key is set up each time
        hashed.update(value)
        return hashed.hexdigest()[:HASH_DIGITS]

    return fingerprint


def exact_hash(arguments: object, hashed: Fingerprint) -> str:
    """Return a 36-digit hash of the exact arguments, to which an approval is bound.

    Values that JSON cannot represent have a new hash each time, so that no approval covers them.
    """
    try:
        text = json.dumps(arguments, sort_keys=True, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):
        text = secrets.token_hex()
    digest = hashlib.sha256(text.encode()).digest()  # JSON is ASCII here: half characters are escaped
    return "".join(hashed(b"arguments %d " % part + digest) for part in range(PARTS_OF_EXACT_HASH))


def leaves(arguments: object) -> Iterator[tuple[str, str | float]]:
    """Return the texts and numbers of a call's arguments, under the names of the parameters that hold them."""
    named = arguments.items() if isinstance(arguments, Mapping) else [("", arguments)]
    for name, value in named:
        plain = name if isinstance(name, str) and _NAME_PATTERN.fullmatch(name) else OTHER_NAME
        if isinstance(value, str):  # most are
            if len(value) >= MIN_TEXT_CHARACTERS:
                yield plain, value
            continue
        for leaf in _leaves_of(value, 0):
            yield plain, leaf


def _leaves_of(value: object, depth: int) -> Iterator[str | float]:
    if isinstance(value, str):
        if len(value) >= MIN_TEXT_CHARACTERS:
            yield value
    elif isinstance(value, (int, float)):
        if not isinstance(value, bool):
            yield value
    elif depth < MAX_DEPTH:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                yield from _leaves_of(key, depth + 1)
                yield from _leaves_of(inner, depth + 1)
        elif isinstance(value, (list, tuple)):
            for inner in value:
                yield from _leaves_of(inner, depth + 1)


def text_of(value: object, most: int) -> str:
    """Return all texts and numbers of a value, one per line, cut at about *most* characters."""
    if isinstance(value, str):
        return value[:most]
    if isinstance(value, (bytes, bytearray)):
        return bytes(value[:most]).decode(errors="replace")
    texts, remaining = [], most
    for leaf in _leaves_of(value, 0):
        text = leaf if isinstance(leaf, str) else (number_form(leaf) or "").removeprefix("#")
        texts.append(text[:remaining])
        remaining -= len(text) + 1
        if remaining <= 0:
            break
    return "\n".join(texts)
