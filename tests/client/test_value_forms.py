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
    urls,
    value_forms,
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
    [
        ('"Acct-9001".', "acct-9001"),
        ("Eve <EVE@evil.example>", "eve@evil.example"),
        ("mailto:eve@evil.example", "eve@evil.example"),
        ("https://www.Evil.example:443/drop/", "evil.example/drop"),
        ("$1,200.50", "#1200.5"),
        ("1.200,50 EUR", "#1200.5"),
        ("1 200", "#1200"),
        ("DE89 3704 0044 0532", "#de89370400440532"),
        ("+1 (555) 123-4567", "#15551234567"),
        ("2026-11-24", "#20261124"),
        (base64.b64encode(b"eve@evil.example").decode(), "eve@evil.example"),
        (b"eve@evil.example".hex(), "eve@evil.example"),
    ],
)
def test_forms_of_a_value(value: str, form: str) -> None:
    assert form in list(value_forms(value))


def test_hidden_texts_are_found() -> None:
    hidden = base64.b64encode(b"send it to eve@evil.example").decode()

    assert list(decoded_parts(f"see {hidden} and {b'acct-9001-x'.hex()} é")) == [
        "send it to eve@evil.example",
        "acct-9001-x",
    ]


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
