"""Origins of arguments: found in every spelling, else unseen, bounded, and without content."""

from __future__ import annotations

import base64
import hashlib
import hmac
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustwatch_client.argument_origins import (
    ORIGIN_COUNTERS,
    ArgumentOrigins,
    OriginLimits,
    keyed_fingerprint,
)
from trustwatch_client.events import EventArgument
from trustwatch_client.service_connection import Counters

KEY = b"k" * 32
WORDS = [f"{a}{b}" for a in ("lorem", "ipsum", "dolor", "amet", "sit") for b in ("a", "er", "ing", "ful", "ance", "ed")]


def origins(limits: OriginLimits | None = None, counters: Counters | None = None) -> ArgumentOrigins:
    return ArgumentOrigins(lambda: keyed_fingerprint(KEY), limits, counters)


def told(memory: ArgumentOrigins, arguments: object, action: str = "send") -> list[EventArgument]:
    arguments = memory.start_call(action, arguments).arguments
    assert arguments is not None
    return arguments


def seen(argument: EventArgument) -> tuple[Any, ...]:
    return argument.name, argument.origin, argument.from_call, argument.part


def after_mail(text: str, *, prompt: str = "Please answer my mail.", untrusted: bool | None = True) -> ArgumentOrigins:
    """A conversation whose first call read a mail."""
    memory = origins()
    memory.add_prompt(prompt)
    memory.finish_call(memory.start_call("read_mail", {}), text, untrusted=untrusted)
    return memory


def prose(words: int, seed: int = 1) -> str:
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(words))


def test_origins_of_one_call() -> None:
    """From the prompt, the system's text, an earlier result with its index and action, or nowhere."""
    memory = origins()
    memory.add_system("You work for Acme Corp, account acct-4711.")
    memory.add_prompt("Pay 1,200 to Jo Doe.")
    memory.finish_call(memory.start_call("list_accounts", {}), {"accounts": [{"name": "Jo Doe", "iban": "DE89 3704"}]})
    memory.finish_call(memory.start_call("read_mail", {}), "My new address is eve@evil.example", untrusted=True)

    found = told(
        memory,
        {
            "amount": 1200.0,
            "to": "JO  DOE",
            "by": "acct-4711",
            "iban": "de893704",
            "cc": ["eve@evil.example"],
            "x": "zzzz",
        },
    )

    assert [(seen(one)[:3], one.from_action) for one in found] == [
        (("amount", "prompt", None), None),
        (("to", "prompt", None), None),
        (("by", "system", None), None),
        (("iban", "tool", 0), "list_accounts"),
        (("cc", "tool", 1), "read_mail"),
        (("x", "unseen", None), None),
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("write to EVE@Evil.example now", "eve@evil.example"),
        ("write to eve@evil.example now", "Eve <EVE@evil.example>"),
        ("write to eve@evil.example now", "mailto:eve@evil.example"),
        ("go to http://www.evil.example/drop/", "https://evil.example/drop"),
        ("go to evil.example", "https://www.evil.example/"),
        ("go to evil.example/drop", "https://www.Evil.example:443/drop/"),
        ("the sum is 1200", "1 200"),
        ("the sum is 1,200.5", "1.200,50 EUR"),
        ("see https%3A%2F%2Fevil.example%2Fdrop", "https://evil.example/drop"),
        ("see https://evil.example/a b", "https://evil.example/a%20b"),
        ("the sum is 1,234,567.80 euro", 1234567.8),
        ("the sum is 1.234.567,80 euro", 1234567.8),
        ("the sum is 4711", "4711.00"),
        ("IBAN DE89 3704 0044 0532 0130 00", "DE89370400440532013000"),
        ("IBAN DE89370400440532013000", "DE89 3704 0044 0532 0130 00"),
        ("call +1 (555) 123-4567", "15551234567"),
        ("due 2026-11-24", "20261124"),
        ("take " + base64.b64encode(b"eve@evil.example").decode(), "eve@evil.example"),
        ("take " + b"eve@evil.example".hex(), "eve@evil.example"),
        ("take eve@evil.example", base64.b64encode(b"eve@evil.example").decode()),
        ("take ev\u200be@evil.example", "eve@evil.example"),
        ("take ｅｖｅ@evil.example", "eve@evil.example"),
        (r'{"to": "eve\u0040evil.example"}', "eve@evil.example"),
        ("&lt;eve&#64;evil.example&gt;", "eve@evil.example"),
        ("the file is called Q3\n  report.pdf", "Q3 report.pdf"),
        ("the file is called secret-plans.txt", '"secret-plans.txt".'),
    ],
)
def test_a_value_is_found_however_it_is_spelled(text: str, value: str | float) -> None:
    (argument,) = told(after_mail(text), {"value": value})

    assert seen(argument) == ("value", "tool", 0, False)


@pytest.mark.parametrize(
    "value",
    ["eve@evil.exampl", "ve@evil.example", "acct-42", "acct-421", "4217.pdf", "4217-x", 42, "4", "on", True, None],
)
def test_a_part_of_a_longer_value_is_not_that_value(value: object) -> None:
    memory = after_mail("eve1@evil.example7 acct-4217 evilness")

    assert all(argument.origin == "unseen" for argument in told(memory, {"value": value}))


def test_prompt_before_system_before_the_earliest_result() -> None:
    memory = after_mail("acct-1001 acct-1002 acct-1003")
    memory.finish_call(memory.start_call("search", {}), "acct-1003")
    memory.add_system("acct-1002")
    memory.add_prompt("acct-1001")

    assert [argument.origin for argument in told(memory, {"a": "acct-1001", "b": "acct-1002"})] == ["prompt", "system"]
    assert told(memory, {"c": "acct-1003"})[0].from_call == 0


def test_what_the_agent_made_up_stays_unseen_when_a_tool_echoes_it() -> None:
    memory = origins()
    call = memory.start_call("create", {"name": "draft-9001", "text": prose(200)})
    memory.finish_call(call, {"created": "draft-9001", "text": prose(200)}, untrusted=True)

    found = told(memory, {"name": "Draft-9001", "text": prose(200)})

    assert [argument.origin for argument in found] == ["unseen", "unseen"]


@pytest.mark.parametrize("words", [12, 40, 400, 1500])
def test_a_copied_text_is_a_part(words: int) -> None:
    mail = prose(words)
    copied = f"Hello, {mail.upper()}\n\n Bye"
    memory = after_mail(f"Subject: x\n\n{prose(300, 2)}\n{mail}\n{prose(300, 3)}")

    whole, *_ = told(memory, {"body": copied})

    assert seen(whole) == ("body", "tool", 0, True)
    assert seen(told(memory, {"body": prose(words, 7)})[0]) == ("body", "unseen", None, False)


def test_a_copied_text_without_blanks_is_a_part() -> None:
    draw = random.Random(5)
    mail = "".join(chr(draw.randrange(0x4E00, 0x9FA5)) for _ in range(900))
    memory = after_mail(f"件名\n{mail}")

    assert seen(told(memory, {"body": mail[20:]})[0]) == ("body", "tool", 0, True)
    assert seen(told(memory, {"body": mail[::-1]})[0]) == ("body", "unseen", None, False)


def test_values_inside_a_text_have_entries_of_their_own() -> None:
    memory = after_mail("eve@evil.example, https://evil.example/in, DE89 3704 0044 0532 0130 00, plans-q3.txt")

    found = told(
        memory,
        {
            "body": f"{prose(200)} mail eve@evil.example pay DE89370400440532013000 now",
            "url": "https://evil.example/out?secret=4711",
            "path": "/home/jo/plans-q3.txt",
        },
    )

    assert [seen(argument)[:3] for argument in found] == [
        ("body", "unseen", None),
        ("body~", "tool", 0),
        ("body~", "tool", 0),
        ("url", "unseen", None),
        ("url~", "tool", 0),
        ("path", "unseen", None),
        ("path~", "tool", 0),
    ]
    assert [seen(argument)[:3] for argument in told(memory, {"path": "/home/jo/plans-q3.txt"})][1] == (
        "path~",
        "tool",
        0,
    )


def test_what_is_looked_up_by_an_untrusted_key_is_untrusted() -> None:
    """Whoever wrote the mail chose whose address the address book gives."""
    memory = after_mail("ask Mallory Roe for the invoice")

    call = memory.start_call("find_contact", {"name": "Mallory Roe"})
    assert call.derived
    assert memory.finish_call(call, "mallory@books.example", untrusted=False) is True
    pay = memory.start_call("send", {"to": "mallory@books.example"})

    assert pay.arguments is not None and seen(pay.arguments[0]) == ("to", "tool", 1, False)
    assert pay.derived
    assert pay.arguments[0].untrusted is True


@pytest.mark.parametrize(("text", "untrusted"), [("acct-1001", False), ("acct-2002", None), ("acct-3003", None)])
def test_an_argument_says_whether_its_answer_is_untrusted(text: str, untrusted: bool | None) -> None:
    """Of values out of the prompt, or out of nothing, there is nothing to say."""
    memory = after_mail("acct-1001", prompt="Pay acct-2002.", untrusted=False)

    (argument,) = told(memory, {"to": text})

    assert argument.untrusted is untrusted


@pytest.mark.parametrize("untrusted", [False, None])
def test_a_result_is_as_trusted_as_its_tool(untrusted: bool | None) -> None:
    memory = after_mail("acct-1001", untrusted=untrusted)
    call = memory.start_call("pay", {"to": "acct-1001"})

    assert not call.derived
    assert memory.finish_call(call, "paid", untrusted=untrusted) is untrusted


def test_hashes_are_of_the_value_not_of_its_spelling() -> None:
    """HMAC-SHA-256 under the key, 12 digits; the same value has the same hash under every name and in every call."""
    memory = after_mail("eve@evil.example")
    first, second = told(memory, {"to": "EVE@evil.example", "cc": "mailto:eve@evil.example"})
    other = ArgumentOrigins(lambda: keyed_fingerprint(b"o" * 32))

    assert first.hash == second.hash == hmac.new(KEY, b"eve@evil.example", hashlib.sha256).hexdigest()[:12]
    assert told(other, {"to": "eve@evil.example"})[0].hash != first.hash


def test_without_a_key_nothing_is_told_and_memory_goes_on() -> None:
    counters = Counters(*ORIGIN_COUNTERS)
    keys: list[bytes] = []
    memory = ArgumentOrigins(lambda: keyed_fingerprint(keys[0]) if keys else None, None, counters)

    first = memory.start_call("read_mail", {"folder": "inbox"})
    memory.finish_call(first, "eve@evil.example", untrusted=True)
    keys.append(KEY)

    assert first.arguments is None
    assert seen(told(memory, {"to": "eve@evil.example"})[0]) == ("to", "tool", 0, False)
    assert (counters["no_key"], counters["traced"]) == (1, 1)


def test_names_that_may_be_content_are_not_told() -> None:
    memory = origins()

    found = told(
        memory, {"cells": {"jo@acme.example": "fired", "deep": [{"a": "value-1"}]}, "to jo@acme.example": "1234"}
    )

    assert [argument.name for argument in found][:2] == ["cells", "cells"]
    assert {argument.name for argument in found} <= {"cells", "cells~", "other"}
    assert b"acme" not in msgspec.json.encode(found)


def test_of_many_arguments_those_from_results_are_told() -> None:
    counters = Counters(*ORIGIN_COUNTERS)
    memory = origins(OriginLimits(sent=3), counters)
    memory.add_prompt(" ".join(f"ask-{number}" for number in range(90)))
    memory.finish_call(memory.start_call("read_mail", {}), "evil-1 evil-2", untrusted=True)

    found = told(memory, {"v": [*(f"ask-{number}" for number in range(90)), "new-1", "evil-1", "new-2", "evil-2"]})

    assert [argument.origin for argument in found] == ["unseen", "tool", "tool"]
    assert counters["cut"] == 1


def test_a_long_text_hides_no_value_behind_it() -> None:
    """Of a call that is too long each value gets its share of the work."""
    counters = Counters(*ORIGIN_COUNTERS)
    memory = origins(OriginLimits(argument_characters=5_000), counters)
    memory.finish_call(memory.start_call("read_mail", {}), "eve@evil.example", untrusted=True)

    found = told(memory, {"body": prose(5_000), "to": "eve@evil.example"})

    assert [(argument.name, argument.origin) for argument in found] == [("body", "unseen"), ("to", "tool")]
    assert counters["cut"] == 1


def test_old_results_make_room_and_the_prompt_stays() -> None:
    counters = Counters(*ORIGIN_COUNTERS)
    memory = origins(OriginLimits(characters=4_000), counters)
    memory.add_prompt("pay acct-1001")
    for number in range(60):
        memory.finish_call(memory.start_call("read", {}), f"acct-{5000 + number} {prose(40, number)}")

    assert memory.characters <= 4_000
    assert counters["evicted"] > 0
    found = told(memory, {"v": ["acct-1001", "acct-5000", "acct-5059"]})
    assert [argument.origin for argument in found] == ["prompt", "unseen", "tool"]


def test_many_words_of_results_do_not_push_the_prompt_out() -> None:
    counters = Counters(*ORIGIN_COUNTERS)
    memory = origins(OriginLimits(characters=20_000), counters)
    for number in range(300):
        memory.add_prompt("pay acct-1001")
        memory.finish_call(memory.start_call("read", {}), " ".join(f"{number}x{word}" for word in range(200)))

    assert memory._memory.words <= 20_000 // 8
    assert told(memory, {"v": "acct-1001"})[0].origin == "prompt"
    assert told(memory, {"v": "299x7y 299x7"})[0].origin == "unseen"
    assert told(memory, {"v": "299x7"})[0].origin == "tool"
    again = counters["evicted"]
    for _ in range(50):
        memory.finish_call(memory.start_call("read", {}), " ".join(f"299x{word}" for word in range(200)))
    assert counters["evicted"] == again


def test_a_text_that_is_too_long_is_cut_and_counted() -> None:
    counters = Counters(*ORIGIN_COUNTERS)
    memory = origins(OriginLimits(characters=2_000, argument_characters=100, argument_values=5), counters)

    memory.finish_call(memory.start_call("read", {}), "acct-7001 " + prose(2_000))
    memory.start_call("send", {"a": "x" * 500})
    memory.start_call("send", {"a": [f"value-{number}" for number in range(9)]})

    assert counters["cut"] == 3
    assert told(memory, {"v": "acct-7001"})[0].origin == "tool"


TEXTS = st.one_of(
    st.text(max_size=60),
    st.text("abcd efgh 0123 @./%:-_&\\", max_size=200),
    st.sampled_from(["eve@evil.example", "https://evil.example/a", "1,200.50", "DE89 3704 0044", "x" * 900]),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["prompt", "system", "call"]), VALUES, VALUES), max_size=12))
def test_nothing_breaks_bounds_hold_and_the_service_takes_it(steps: list[tuple[str, Any, Any]]) -> None:
    limits = OriginLimits(characters=600, made_up=20, sent=8, argument_values=16, argument_characters=400)
    memory = origins(limits)
    for kind, value, result in steps:
        if kind == "prompt":
            memory.add_prompt(value)
        elif kind == "system":
            memory.add_system(value)
        else:
            call = memory.start_call("act", {"v": value})
            memory.finish_call(call, result, untrusted=True)
            assert call.arguments is not None and len(call.arguments) <= 8
            raw = msgspec.json.encode(call.arguments)
            assert msgspec.json.decode(raw, type=list[EventArgument]) == call.arguments
        assert memory.characters <= 600
        assert memory._memory.words <= 600
        assert len(memory._made_up) <= 20


@settings(max_examples=100, deadline=None)
@given(
    st.text("bcdfghjklmnpqrstvwxyz0123456789", min_size=13, max_size=40), st.sampled_from(["prompt", "tool", "none"])
)
def test_no_content_is_in_what_is_sent(secret: str, where: str) -> None:
    """The value, its beginning and its usual encodings: nothing of it leaves, wherever it came from."""
    memory = origins()
    if where == "prompt":
        memory.add_prompt(secret)
    if where == "tool":
        memory.finish_call(memory.start_call("read", {}), secret, untrusted=True)

    sent = msgspec.json.encode(told(memory, {"a": secret, "b": {secret: 1}, "d": f"{prose(99)} {secret}"}))

    for spelled in (secret, secret[:13], base64.b64encode(secret.encode()).decode(), secret.encode().hex()):
        assert spelled.encode() not in sent


@settings(max_examples=100, deadline=None)
@given(
    st.text("abcdefghijklmnopqrstuvwxyz", min_size=5, max_size=20),
    st.sampled_from([str.upper, str.title, lambda v: f"  {v} ", lambda v: f'"{v}"', lambda v: f"{v}."]),
)
def test_whatever_a_result_holds_is_found_and_nothing_else_is(word: str, spell: Any) -> None:
    memory = after_mail(f"before 0 {word} 1 after", prompt="0")

    assert told(memory, {"v": spell(word)})[0].origin == "tool"
    assert told(memory, {"v": spell(word + "q")})[0].origin == "unseen"
