"""By which way a value came to a call: what `argument_route` and `sensitive_route` say, and where they are silent."""

from __future__ import annotations

from typing import Any

import pytest

from trustwatch.ingest.features import layout
from trustwatch.ingest.hashing import NameHasher

from ...support.feature_histories import SALT, SingleEventBuilder, event, fitted

NOTHING, KNOWN, HALF, NEW = 0.0, 1.0, 1.5, 2.0
TASK = {"task": "desk", "session": "s1"}
CUSTOMER, OUTSIDE = {"id": "c-1", "type": "customer"}, {"id": "https://partner.example", "external": True}


def argument(source: int | None, name: str = "to", action: str | None = "read_mail", value: str | None = None) -> Any:
    """An argument out of an earlier call, or of the prompt; without *value* it has no hash."""
    told: dict[str, Any] = {"name": name, "origin": "prompt" if source is None else "tool"}
    if source is not None:
        told |= {"from": source} | ({} if action is None else {"from_action": action})
    return told if value is None else {**told, "hash": value}


def read_mail(after_s: float, untrusted: bool = True, **members: Any) -> dict[str, Any]:
    """A call whose answer others may have written."""
    told = {"untrusted_result": untrusted, "arguments": [], "effect": "read"}
    return event(after_s, action="read_mail", **{**TASK, **told, **members})


def read_customer(after_s: float, **members: Any) -> dict[str, Any]:
    """A call whose answer is sensitive."""
    more = {"resource": CUSTOMER, "untrusted_result": False, "effect": "read", "arguments": []}
    return event(after_s, action="read_customer", **{**TASK, **more, **members})


def pay(after_s: float, *arguments: Any, action: str = "pay", **members: Any) -> dict[str, Any]:
    """A call that changes something inside."""
    more = {"arguments": list(arguments), "untrusted_result": False, "effect": "write"}
    return event(after_s, action=action, **{**TASK, **more, **members})


def send(after_s: float, *arguments: Any, action: str = "send_mail", **members: Any) -> dict[str, Any]:
    """A call that leads outside."""
    return pay(after_s, *arguments, action=action, **{"resource": OUTSIDE, **members})


def history(runs: int = layout.LEAST_VALUES) -> list[dict[str, Any]]:
    """Another agent pays what mails ask for, keeps records of customers inside, and mails to them by a known way."""
    made = []
    for run in range(runs):
        who, at = {"agent": "peer", "session": f"p{run}"}, -6000.0 + 20 * run
        made += [
            read_mail(at, **who),
            pay(at + 1, argument(0), **who),
            read_customer(at + 2, **who),
            send(at + 3, argument(2, "body", "read_customer", f"{run:08x}"), **who),
            pay(at + 4, argument(2, "name", "read_customer", f"{run:08x}"), action="keep", **who),
        ]
    return made


@pytest.fixture
def watch() -> SingleEventBuilder:
    return SingleEventBuilder(fitted(history(), NameHasher(SALT).hash_many(["customer", "vault"])))


def routes(rows: list[dict[str, float]]) -> list[float]:
    return [row["argument_route"] for row in rows]


def sent(rows: list[dict[str, float]]) -> list[float]:
    return [row["sensitive_route"] for row in rows]


# Values without a hash.


def test_a_new_route_of_a_value_without_a_hash_stands_out(watch: SingleEventBuilder) -> None:
    """Another argument, another action that takes it, another that gave it; the known one does not."""
    rows = watch.feed(
        read_mail(0.0),
        pay(1.0, argument(0)),
        pay(2.0, argument(0, "cc")),
        pay(3.0, argument(0), action="transfer"),
        pay(4.0, argument(0, action="read_page")),
        learn=False,
    )

    assert routes(rows) == [NOTHING, KNOWN, NEW, NEW, NEW]


def test_an_answer_that_nobody_calls_untrusted_says_half(watch: SingleEventBuilder) -> None:
    """Senders do not mark every tool whose answers others can write; their routes are new more often."""
    rows = watch.feed(read_mail(0.0, untrusted=False), pay(1.0, argument(0)), pay(2.0, argument(0, "cc")), learn=False)

    assert routes(rows) == [NOTHING, KNOWN, HALF]


def test_values_with_a_hash_have_a_rule_of_their_own(watch: SingleEventBuilder) -> None:
    rows = watch.feed(read_mail(0.0), pay(1.0, argument(0, "cc", value="aaaaaaaa")), learn=False)

    assert routes(rows) == [NOTHING, NOTHING]
    assert rows[1]["argument_origin"] == 3.0


def test_what_has_no_route_says_nothing(watch: SingleEventBuilder) -> None:
    """Nor a call that changes nothing."""
    rows = watch.feed(
        read_mail(0.0),
        pay(1.0, argument(0, "cc", action=None)),
        pay(2.0, argument(None, "cc")),
        read_mail(3.0, arguments=[argument(0, "query")]),
        learn=False,
    )

    assert routes(rows) == [NOTHING, KNOWN, KNOWN, KNOWN]


def test_a_route_that_was_learned_is_new_no_more(watch: SingleEventBuilder) -> None:
    """To that agent, in that task."""
    rows = watch.feed(read_mail(0.0), pay(1.0, argument(0, "cc")), pay(2.0, argument(0, "cc")))
    assert routes(rows) == [NOTHING, NEW, KNOWN]

    other = {"agent": "a2", "session": "s2"}
    assert routes(watch.feed(read_mail(3.0, **other), pay(4.0, argument(0, "cc"), **other)))[1] == NEW


def test_of_a_new_task_peers_remember_routes(watch: SingleEventBuilder) -> None:
    """What they do in other tasks is known; without peers, nothing is new."""
    new, stranger = {"task": "other"}, {"task": "other", "role": "never seen"}

    rows = watch.feed(read_mail(0.0, **new), pay(1.0, argument(0), **new), pay(2.0, argument(0, "cc"), **new))
    assert routes(rows) == [NOTHING, KNOWN, HALF]
    rows = watch.feed(read_mail(0.0, **stranger), pay(1.0, argument(0, "cc"), **stranger))
    assert routes(rows) == [NOTHING, NOTHING] and sent(rows) == [NOTHING, NOTHING]


# Sensitive answers.


def test_sensitive_data_that_leaves_by_a_new_way_stands_out(watch: SingleEventBuilder) -> None:
    """Whatever its value is; by a known way it may leave every day, and inside it may go anywhere."""
    rows = watch.feed(
        read_customer(0.0),
        send(1.0, argument(0, "body", "read_customer", "aaaaaaaa")),
        send(2.0, argument(0, "body", "read_customer", "bbbbbbbb"), action="post"),
        pay(3.0, argument(0, "body", "read_customer", "cccccccc"), action="note"),
        send(4.0, argument(0, "name", "read_customer", "dddddddd")),
        learn=False,
    )

    assert sent(rows) == [KNOWN, KNOWN, NEW, KNOWN, NEW]


def test_a_way_that_was_only_used_inside_is_new_outside(watch: SingleEventBuilder) -> None:
    """The history keeps names of customers inside with the same action."""
    kept = argument(0, "name", "read_customer", "aaaaaaaa")

    rows = watch.feed(read_customer(0.0), pay(1.0, kept, action="keep"), send(2.0, kept, action="keep"), learn=False)

    assert sent(rows) == [KNOWN, KNOWN, NEW]


def test_a_place_where_others_write_is_outside(watch: SingleEventBuilder) -> None:
    """A call that writes, and whose own answer others may have written, unless it is said to stay inside."""
    data, shared = argument(0, "text", "read_customer"), {"untrusted_result": True}

    rows = watch.feed(
        read_customer(0.0),
        pay(1.0, data, action="comment", **shared),
        pay(2.0, data, action="comment", resource={"id": "wiki", "external": False}, **shared),
        read_mail(3.0, arguments=[data]),
        learn=False,
    )

    assert sent(rows) == [KNOWN, NEW, KNOWN, KNOWN]


def test_only_answers_of_sensitive_types_count(watch: SingleEventBuilder) -> None:
    """Those that were given: a refused call has none."""
    data = [argument(at, "body", "read") for at in range(4)]
    kinds = [
        {"resource": {"id": "x", "type": "vault"}},
        {"resource": {"id": "x", "type": "ticket"}},
        {"resource": None},
    ]
    reads = [read_customer(float(at), **members) for at, members in enumerate([*kinds, {"outcome": "denied"}])]

    rows = watch.feed(*reads, *(send(9.0, one, action="post") for one in data), learn=False)

    assert sent(rows[4:]) == [NEW, KNOWN, KNOWN, KNOWN]


def test_without_sensitive_types_nothing_is_said() -> None:
    """The default: no list, no evidence."""
    watch = SingleEventBuilder(fitted(history()))

    rows = watch.feed(read_customer(0.0), send(1.0, argument(0, "body", "read_customer"), action="post"))

    assert sent(rows) == [NOTHING, NOTHING]


def test_what_the_sender_says_of_an_answer_hides_no_sensitive_one(watch: SingleEventBuilder) -> None:
    """Trusted and sensitive are two things."""
    data = {**argument(0, "body", "read_customer"), "untrusted": False}

    assert sent(watch.feed(read_customer(0.0), send(1.0, data, action="post"), learn=False)) == [KNOWN, NEW]


@pytest.mark.parametrize("calls", [1, layout.REMEMBERED_SENSITIVE_CALLS - 1, layout.REMEMBERED_SENSITIVE_CALLS, 200])
def test_a_flood_of_calls_hides_no_sensitive_answer(watch: SingleEventBuilder, calls: int) -> None:
    """Of calls that are too old any sensitive answer of the session counts, of others each its own."""
    flood = [read_mail(1.0 + at) for at in range(calls)]
    first, last = (argument(at, "body", "x") for at in (0, calls))

    rows = watch.feed(
        read_customer(0.0), *flood, *(send(900.0, one, action="post") for one in (first, last)), learn=False
    )

    assert sent(rows[-2:]) == [NEW, KNOWN]


def test_a_session_knows_its_own_answers_alone(watch: SingleEventBuilder) -> None:
    """Of a call that was never seen nothing is known, nor of forged ones."""
    data, other = argument(0, "body", "read_customer"), {"session": "s2"}
    watch.feed(read_customer(0.0), learn=False)

    rows = watch.feed(read_mail(1.0, **other), send(2.0, data, action="post", **other), learn=False)
    assert sent(rows) == [KNOWN, KNOWN]
    rows = watch.feed(
        read_customer(3.0, self_asserted=True, session="s3"), send(4.0, data, session="s3", action="post")
    )
    assert sent(rows) == [KNOWN, KNOWN]
    for number in range(layout.SESSIONS):  # a session that comes back in another's place remembers nothing of it
        watch.feed(read_mail(5.0, session=f"x{number}"), learn=False)
    assert sent(watch.feed(read_mail(6.0), send(7.0, data, action="post"), learn=False)) == [KNOWN, KNOWN]


def test_a_sensitive_way_that_was_learned_is_new_no_more(watch: SingleEventBuilder) -> None:
    data = argument(0, "body", "read_customer", "aaaaaaaa")

    rows = watch.feed(read_customer(0.0), send(1.0, data, action="post"), send(2.0, data, action="post"))

    assert sent(rows) == [KNOWN, NEW, KNOWN]
