"""The query language of the search: words, and `field:value`. Everything in a query has to hold.

A word is looked for anywhere in the names of a thing, in whatever case. `field:value` is the whole value as it is
written. `*` stands for anything, and an address may be a network (`address:203.0.113.0/24`). Values with blanks
stand in quotation marks. `since` and `until` are `24h`, `7d` or a UTC time.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final, Literal, NamedTuple, get_args

from trustwatch.ingest.events import OUTCOMES
from trustwatch.scoring.records.agents import RiskLevel

from ..http.problems import invalid_value_error
from ..http.time_range import NO_TIME_RANGE, TimeRange, parse_time_range

FoundKind = Literal["agents", "people", "cases", "decisions", "events"]
FOUND_KINDS: Final[tuple[FoundKind, ...]] = get_args(FoundKind)
MAX_QUERY_LENGTH = 1_024
MAX_TERMS = 12
MAX_STARS = 4
"""Stars in one value."""
MAX_REMEMBERED = 256
"""Networks that are remembered."""
ANY_FIELD = ""
"""Field of a word: whichever has it."""


class SearchField(NamedTuple):
    """A field that queries name: what has it, and what it holds."""

    kinds: frozenset[FoundKind]
    meaning: str


def _field(meaning: str, *kinds: FoundKind) -> SearchField:
    return SearchField(frozenset(kinds), meaning)


FIELDS: Final[Mapping[str, SearchField]] = {
    "agent": _field("id of an agent", "agents", "cases", "decisions", "events"),
    "party": _field("id of an agent that took part: it acted, was called, or stands in the delegation", "events"),
    "principal": _field("id of a person or service that an agent acts for", "people", "events"),
    "tenant": _field("name of a tenant", *FOUND_KINDS),
    "type": _field("type of an agent", "agents", "decisions"),
    "level": _field(
        "unknown, low, medium, high or critical: of an agent now, of a case at its worst, after a decision",
        "agents",
        "cases",
        "decisions",
    ),
    "case": _field("id of a case", "cases"),
    "status": _field("open, acknowledged, contained or closed", "cases"),
    "owner": _field("who works on a case", "cases"),
    "decision": _field("id of a decision", "decisions"),
    "reason": _field("code of a reason", "decisions"),
    "event": _field("id of an event", "decisions", "events"),
    "action": _field("what an agent did", "events"),
    "resource": _field("id or type of what it acted on", "events"),
    "outcome": _field("success, denied or error", "events"),
    "target": _field("destination outside", "cases", "decisions", "events"),
    "network": _field("`AS64500`, or the network of an address", "cases", "decisions", "events"),
    "address": _field("IP address, or a network of them", "decisions", "events"),
    "software": _field("user agent", "decisions", "events"),
    "credential": _field("method of the credential", "decisions", "events"),
    "key": _field("thumbprint of the credential's key", "cases", "decisions", "events"),
    "instance": _field("instance of the agent", "decisions", "events"),
    "session": _field("session", "decisions", "events"),
}
"""Fields by name. `since` and `until` bound the time of everything: see `SearchQuery`."""


class SearchTerm(NamedTuple):
    """One thing that has to hold: *field* has *value*, or, where field is `ANY_FIELD`, some name has it in it.

    *aliases* are other values that mean the same: pseudonyms of a person.
    """

    field: str
    value: str
    aliases: frozenset[str] = frozenset()

    def matches(self, text: str) -> bool:
        """Check one text."""
        return self.matcher()(text)

    def matcher(self) -> Callable[[str], bool]:
        """The check, for who has many texts."""
        value, aliases = self.value, self.aliases
        if self.field == ANY_FIELD:
            return _word_matcher(value, aliases)
        if self.field == "network" and "/" in value:
            around = _network(value)
            return lambda text: text == value or (around is not None and _is_part(text, around))
        if self.field == "address" and "*" not in value:
            within = _network(value)
            return lambda text: text == value or (within is not None and _is_within(text, within))
        if "*" in value:
            return lambda text: _has_pattern(text, value) or text in aliases
        return lambda text: text == value or text in aliases

    def matches_any(self, texts: Iterable[str]) -> bool:
        """Check several; one has to match."""
        return any(map(self.matcher(), texts))

    @property
    def exact(self) -> bool:
        """True if only one text matches."""
        if self.field == ANY_FIELD or self.aliases or "*" in self.value:
            return False
        return not (self.field == "address" and ("/" in self.value or ":" in self.value))  # IPv6 has many spellings

    @property
    def network(self) -> str:
        """The network that a word names; "" = it names none. Events do not have it as it is written: it is derived."""
        if self.field != ANY_FIELD:
            return ""
        if re.fullmatch(r"AS\d+", self.value, re.IGNORECASE):
            return self.value.upper()
        return str(_network(self.value) or "") if "/" in self.value else ""

    @property
    def literals(self) -> tuple[str, ...]:
        """Runs of letters, digits, `.`, `_` and `-`, one of which stands in whatever row has a text that matches.

        () = a row may have any. Such runs stand in JSON as they are, unless they were escaped. A network is not written
        there, but the digits of an autonomous system, or the beginning of its addresses, are.
        """
        found = (self._own_literal(), *map(_longest_run, sorted(self.aliases)))
        return found if all(found) else ()

    def _own_literal(self) -> str:
        network = self.network or (self.value if self.field in ("address", "network") else "")
        if "/" in network:
            return _common_beginning(network)
        if self.field == "address" and ":" in self.value:
            return ""
        if self.field == "network" or self.network:
            return network.removeprefix("AS") if re.fullmatch(r"AS\d+", network) else ""
        return _longest_run(self.value)


class SearchQuery(NamedTuple):
    """A query that was read.

    Attributes:
        terms: all have to hold.
        not_fields: beginnings of words that look like a field and are none.
        times: bounds, UTC milliseconds: of the event, of the decision, of the last change of a case, of when an agent
            or person was last seen.
    """

    terms: tuple[SearchTerm, ...]
    times: TimeRange = NO_TIME_RANGE
    not_fields: tuple[str, ...] = ()

    @property
    def kinds(self) -> tuple[FoundKind, ...]:
        """Kinds that may have all of the fields."""
        having = [FIELDS[term.field].kinds for term in self.terms if term.field != ANY_FIELD]
        return tuple(kind for kind in FOUND_KINDS if all(kind in kinds for kinds in having))

    def values_of(self, field: str) -> list[SearchTerm]:
        """Terms of a field."""
        return [term for term in self.terms if term.field == field]

    def exact_value(self, field: str) -> str | None:
        """The one value that a field must have; None = the query does not say."""
        return next((term.value for term in self.values_of(field) if term.exact), None)


def parse_search_query(text: str, now_ms: int) -> SearchQuery:
    """Read a query.

    Args:
        text: as a person typed it.
        now_ms: UTC milliseconds that relative times count from.

    Raises:
        ProblemError: 422, it is empty, too long, or has a value that its field can not have. A word that looks like a
            field and is none is a word: names have colons, too.
    """
    if len(text) > MAX_QUERY_LENGTH:
        raise invalid_value_error("q", f"has more than {MAX_QUERY_LENGTH} characters")
    terms: list[SearchTerm] = []
    bounds: dict[str, str] = {}
    not_fields: list[str] = []
    for part in _parts(text):
        name, colon, value = part.partition(":")
        field = name.casefold()
        if colon and field in ("since", "until"):
            bounds[field] = value
        elif colon and field in FIELDS:
            terms.append(_checked_term(field, value))
        else:
            terms.append(_checked_term(ANY_FIELD, part))
            not_fields += [name] if colon and name.isalpha() and not value.startswith("/") else []
    if not terms:
        raise invalid_value_error("q", "has nothing to look for; write a name, an address, an id, or field:value")
    if len(terms) > MAX_TERMS:
        raise invalid_value_error("q", f"has more than {MAX_TERMS} terms")
    times = parse_time_range(bounds.get("since", ""), bounds.get("until", ""), now_ms)
    return SearchQuery(tuple(terms), times, tuple(not_fields))


def _parts(text: str) -> list[str]:
    """Words of a text; quotation marks hold one together, and no character escapes another."""
    reader = shlex.shlex(text, posix=True)
    reader.whitespace_split, reader.commenters, reader.quotes, reader.escape = True, "", '"', ""
    try:
        return [part for part in reader if part]
    except ValueError:
        raise invalid_value_error("q", 'has a quotation mark (") that is not closed') from None


_VALUES: Final[Mapping[str, Sequence[str]]] = {
    "level": [level.label for level in RiskLevel],
    "status": ("open", "acknowledged", "contained", "closed"),
    "outcome": OUTCOMES,
}
"""Values that a field can have, of those that have few."""


def _checked_term(field: str, value: str) -> SearchTerm:
    if not value:
        raise invalid_value_error("q", f"has {field}: without a value; write {field}:value, without a blank between")
    if field == "address" and "/" in value and _network(value) is None:
        raise invalid_value_error("q", f"has {value}, which is no network; write 203.0.113.0/24")
    among = _VALUES.get(field)
    if among is not None and value.casefold() not in among:
        raise invalid_value_error("q", f"has {field}:{value[:40]}; there are {', '.join(among)}")
    if value.count("*") > MAX_STARS:
        raise invalid_value_error("q", f"has a value with more than {MAX_STARS} `*`")
    return SearchTerm(field, value.casefold() if field in ("level", "status", "outcome") else value)


_LETTERS_LIKE_ASCII: Final = "\u212a\u0130"
"""Letters whose small form has an ASCII letter in it: they stay, since the bytes of a record do not have that."""


def _lowered(text: str) -> str:
    if text.isascii():
        return text.lower()
    return "".join(letter if letter in _LETTERS_LIKE_ASCII else letter.lower() for letter in text)


def _word_matcher(value: str, aliases: frozenset[str]) -> Callable[[str], bool]:
    wanted = _lowered(value)
    if "*" in wanted:
        return lambda text: _has_pattern(_lowered(text), f"*{wanted}*") or text in aliases
    return lambda text: wanted in (text.lower() if text.isascii() else _lowered(text)) or text in aliases


def _has_pattern(text: str, value: str) -> bool:
    """True if *text* is as *value* says, in which `*` stands for anything and nothing else has a meaning."""
    return fnmatchcase(text, value.replace("[", "[[]").replace("?", "[?]"))  # linear, whatever is typed


@lru_cache(MAX_REMEMBERED)
def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _longest_run(text: str) -> str:
    return max(re.findall(r"[A-Za-z0-9._-]+", text), key=len, default="")


def _common_beginning(network: str) -> str:
    """Beginning that all addresses of a network have as they are written; "" of IPv6, which has many spellings.

    >>> _common_beginning("203.0.113.0/24"), _common_beginning("10.9.0.0/12"), _common_beginning("2001:db8::/32")
    ('203.0.113.', '10.', '')
    """
    within = _network(network)
    if within is None or within.version != 4:
        return ""
    octets = within.prefixlen // 8
    return "".join(f"{octet}." for octet in str(within.network_address).split(".")[:octets])[
        : None if octets < 4 else -1
    ]


def _is_part(network: str, of: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    inner = _network(network) if "/" in network else None
    if isinstance(inner, ipaddress.IPv4Network) and isinstance(of, ipaddress.IPv4Network):
        return inner.subnet_of(of)
    return isinstance(inner, ipaddress.IPv6Network) and isinstance(of, ipaddress.IPv6Network) and inner.subnet_of(of)


def _is_within(address: str, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    try:
        return ipaddress.ip_address(address) in network
    except ValueError:
        return False
