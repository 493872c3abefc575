"""The query language: what is read, what it matches, and what is said of what can not be read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustwatch.api.http.problems import ProblemError
from trustwatch.api.search.query import FIELDS, FOUND_KINDS, MAX_TERMS, SearchTerm, parse_search_query

NOW = 1_764_000_000_000
DAY_MS = 86_400_000


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("bot", [("", "bot")]),
        ("  bot   7 ", [("", "bot"), ("", "7")]),
        ("Agent:Bot-7", [("agent", "Bot-7")]),
        ("LEVEL:High status:OPEN", [("level", "high"), ("status", "open")]),
        ('resource:"quarterly report" x', [("resource", "quarterly report"), ("", "x")]),
        ('"two words"', [("", "two words")]),
        ("spiffe://acme/bot", [("", "spiffe://acme/bot")]),
        ("o'brien C:\\temp #1", [("", "o'brien"), ("", "C:\\temp"), ("", "#1")]),
        ("session:a:b", [("session", "a:b")]),
    ],
)
def test_queries_are_read(text: str, terms: list[tuple[str, str]]) -> None:
    """Words, fields, quotation marks; nothing else has a meaning."""
    assert [(term.field, term.value) for term in parse_search_query(text, NOW).terms] == terms


def test_times_bound_everything() -> None:
    """Relative to now, or absolute; they are no terms."""
    query = parse_search_query("bot since:24h until:2025-11-24T15:00", NOW)

    assert [term.value for term in query.terms] == ["bot"]
    assert query.times == (NOW - DAY_MS, 1_763_996_400_000)
    assert query.kinds == FOUND_KINDS


def test_a_field_says_what_is_looked_for() -> None:
    """Only what may have all of the fields."""
    assert parse_search_query("address:203.0.113.7", NOW).kinds == ("decisions", "events")
    assert parse_search_query("agent:a status:open", NOW).kinds == ("cases",)
    assert parse_search_query("owner:ann action:read", NOW).kinds == ()


def test_a_word_that_looks_like_a_field_is_told() -> None:
    """It is looked for as it stands: names have colons, too."""
    query = parse_search_query("adress:203.0.113.7 arn:aws:iam::1:role/x https://x.example", NOW)

    assert query.not_fields == ("adress", "arn")
    assert [term.field for term in query.terms] == ["", "", ""]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("  ", "nothing to look for"),
        ("since:24h", "nothing to look for"),
        ('"open', "not closed"),
        ("agent:", "agent: without a value"),
        ("level:hihg", "there are unknown, low"),
        ("level:hi*", "there are unknown, low"),
        ("status:done", "there are open, acknowledged"),
        ("outcome:failure", "there are success, denied, error"),
        ("address:1.2.3/x", "no network"),
        ("bot since:yesterday", "write 24h"),
        ("x " * (MAX_TERMS + 1), "more than 12 terms"),
        ("x" * 2000, "more than 1024 characters"),
        ("agent:*a*b*c*d*", r"more than 4 `\*`"),
    ],
)
def test_what_can_not_be_read_is_said(text: str, words: str) -> None:
    """What is wrong, and what to write."""
    with pytest.raises(ProblemError, match=words) as raised:
        parse_search_query(text, NOW)
    assert raised.value.problem.status == 422


@pytest.mark.parametrize(
    ("field", "value", "text", "fits"),
    [
        ("", "BOT", "my-bot-7", True),
        ("", "ÄRGER", "ärger-bot", True),
        ("agent", "bot", "bot-7", False),
        ("agent", "bot*", "bot-7", True),
        ("agent", "*[7]?", "bot-[7]?", True),
        ("agent", "*[7]", "bot-7", False),
        ("agent", "Bot", "bot", False),
        ("address", "203.0.113.0/24", "203.0.113.77", True),
        ("address", "203.0.113.0/24", "203.0.114.1", False),
        ("address", "203.0.113.0/24", "no address", False),
        ("address", "2001:db8::/32", "2001:db8::1", True),
        ("address", "2001:db8::1", "2001:DB8:0::1", True),
        ("network", "203.0.0.0/16", "203.0.113.0/24", True),
        ("network", "203.0.0.0/16", "203.1.113.0/24", False),
        ("network", "203.0.0.0/16", "AS64500", False),
        ("address", "not an address", "not an address", True),
        ("", "203.0.113.*", "from 203.0.113.7", True),
        ("", "203.*.7", "203.0.113.8", False),
        ("address", "203.0.113.7", "203.0.113.77", False),
    ],
)
def test_terms_match(field: str, value: str, text: str, fits: bool) -> None:
    """A word anywhere, in whatever case; a field the whole value; a network its addresses."""
    assert SearchTerm(field, value).matches(text) is fits


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Whatever is typed: terms with a value, of fields that there are; what is typed as a word is found in itself."""
    try:
        query = parse_search_query(text, NOW)
    except ProblemError as error:
        assert error.problem.status == 422
        return
    for term in query.terms:
        assert term.value
        assert term.field == "" or term.field in FIELDS
        if term.field == "":
            assert term.matches(f"x{term.value}x")
        assert all(part and part in term.value for part in term.literals) or term.network


NAMES = st.text(st.sampled_from('aAkKsS-._7 "\\\\/*äÄßſ\u212a\u0130\u0131\n'), max_size=12)
ADDRESSES = st.one_of(st.ip_addresses().map(str), st.sampled_from(["203.0.113.7", "203.0.1.9", "no address", ""]))


@given(NAMES, NAMES)
def test_what_matches_has_the_literal_of_its_term(value: str, text: str) -> None:
    """So rows can be passed over by their bytes: a record that fits is never passed over."""
    for term in (SearchTerm("", value), SearchTerm("agent", value), SearchTerm("agent", f"*{value}*")):
        if term.matches(text) and term.literals:
            (literal,) = term.literals
            assert literal.encode().lower() in text.encode().lower()
            assert term.field == "" or literal.encode() in text.encode()


@given(ADDRESSES, st.integers(0, 32))
def test_an_address_of_a_network_has_its_literal(address: str, bits: int) -> None:
    """Of whatever length the network is."""
    for network in (f"203.0.113.0/{bits}", f"2001:db8::/{bits}", f"203.0.113.7/{bits}"):
        term = SearchTerm("address", network)
        assert not term.matches(address) or all(part in address for part in term.literals)
    assert SearchTerm("network", "AS64500").literals == SearchTerm("", "as64500").literals == ("64500",)
    assert (
        SearchTerm("network", "203.0.113.0/24").literals == SearchTerm("", "203.0.113.0/24").literals == ("203.0.113.",)
    )
    assert SearchTerm("network", "AS645*").literals == SearchTerm("network", "AS*").literals == ()
    assert SearchTerm("principal", "ann", frozenset({"p~77"})).literals == ("ann", "77")


def test_stars_cost_no_time() -> None:
    """A pattern that would keep a naive one busy for years."""
    assert not SearchTerm("agent", "*a" * 500 + "b").matches("a" * 2000)
