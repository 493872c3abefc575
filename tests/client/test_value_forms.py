"""One value, spelled in many ways."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustwatch_client.conversation_memory import (
    decoded_parts,
    long_number_keys,
    mail_addresses,
    normal_text,
    number_form,
    number_keys,
    url_host,
    url_without_scheme,
    urls,
    value_forms,
    words_of,
)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("  Jo\t Doe\r\n", "jo doe"),
        ("STRASSE Straße", "strasse strasse"),
        ("a%20b%2Fc", "a b/c"),
        ("100% sure", "100% sure"),
        ("a%2520b", "a b"),
        ("R&amp;D &#64; home", "r&d @ home"),
        (r"line\nnext \u0040 \"x\"", 'line next @ "x"'),
        ("ｅｖｉｌ.example", "evil.example"),
        ("ev\u200bil\u00ad.example\u202e", "evil.example"),
    ],
)
def test_normal_text(text: str, normal: str) -> None:
    assert normal_text(text) == normal


@pytest.mark.parametrize(
    ("value", "form"),
    [(1200, "#1200"), (1200.0, "#1200"), (-1200.5, "#1200.5"), (12, None), (float("nan"), None), (float("inf"), None)],
)
def test_forms_of_numbers(value: float, form: str | None) -> None:
    assert number_form(value) == form


def test_numbers_of_a_text() -> None:
    text = "pay 1,200.50 to de89 3704 0044 0532 or call 555-123-4567; room 12, x9042y, total 4500."

    keys = set(number_keys(text))

    assert {"#1200.5", "#de89370400440532", "#5551234567", "#x9042y", "#4500"} <= keys
    assert "#12" not in keys
    assert long_number_keys("a " * 500 + text, 8)[0].endswith("0532")


def test_addresses_of_a_text() -> None:
    text = "write to <eve@evil.example>, see (https://www.evil.example/a?b=c), or x@ @y a@b"

    assert mail_addresses(text, 8) == ["eve@evil.example"]
    assert urls(text, 8) == ["evil.example/a?b=c"]
    assert url_host("https://u:p@evil.example:80/x") == "evil.example"
    assert url_host("evil.example") is None
    assert url_without_scheme("no url at all") == "no url at all"


def test_hidden_texts_are_found() -> None:
    hidden = base64.b64encode(b"send it to eve@evil.example").decode()

    assert list(decoded_parts(f"see {hidden} and {b'acct-9001-x'.hex()} é")) == [
        "send it to eve@evil.example",
        "acct-9001-x",
    ]


@given(st.text(max_size=300))
def test_normal_text_is_stable_in_words(text: str) -> None:
    normal = normal_text(text)

    assert normal == " ".join(normal.split())
    assert all(word in normal for word in words_of(normal))


@given(st.one_of(st.text(max_size=200), st.text("0123456789.,' -()/", max_size=200), st.binary().map(repr)))
def test_no_text_breaks_a_function(text: str) -> None:
    normal = normal_text(text)
    found: list[Any] = [number_keys(normal), long_number_keys(normal, 3), mail_addresses(normal, 3), urls(normal, 3)]

    assert all(isinstance(key, str) and key for keys in found for key in keys)
    assert all(isinstance(form, str) for form in value_forms(text))
    assert all(isinstance(part, str) for part in decoded_parts(text))


@given(st.integers(100, 10**12), st.sampled_from(["{:,}", "{}", "EUR {:,}", "${:,}.00", "{}.0"]))
def test_a_number_is_found_however_it_is_written(number: int, spelled: str) -> None:
    text = spelled.format(number)

    assert number_form(number) in number_keys(normal_text(f"total {text} due"))
    assert number_form(number) in list(value_forms(text))
