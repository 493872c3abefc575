"""Calls of a history become the questions that a client would have asked."""

from __future__ import annotations

import json
from typing import Any

from trustwatch.ingest.events import NativeEvent, decode_event
from trustwatch.scoring.backtest.challenge_counts import SESSIONS_OF_AGENT, AskedCalls

MAIL = {"arguments": [], "untrusted_result": True}
LEDGER = {"arguments": [], "untrusted_result": False}


def event(session: str | None = "s-1", **members: Any) -> NativeEvent:
    made = {"time": "2026-01-05T08:00:00Z", "type": "tool.call", "agent": {"id": "a"}, "action": "send"}
    return decode_event(json.dumps({**made, "outcome": "success", "session": session, **members}).encode())


def taken_from(call: int | None, **members: Any) -> dict[str, Any]:
    argument = {"name": "to", "origin": "tool", "from": call, "hash": "0" * 12, **members}
    return {"arguments": [{name: value for name, value in argument.items() if value is not None}]}


def untrusted(asked: AskedCalls, made: NativeEvent) -> bool | None:
    (argument,) = asked.question(made).arguments or ()
    return argument.untrusted


def test_what_only_the_made_call_could_tell_is_left_out() -> None:
    made = event(
        outcome="error",
        status=500,
        error="broke",
        bytes_in=3,
        bytes_out=4,
        duration_ms=5,
        count=2,
        principal={"id": "p"},
    )
    question = AskedCalls().question(made)

    assert (question.outcome, question.bytes_in, question.principal) == ("success", 3.0, made.principal)
    for name in ("status", "error", "bytes_out", "duration_ms", "count", "session", "untrusted_result", "attributes"):
        assert getattr(question, name) is None, name


def test_an_argument_says_whether_the_answer_that_it_came_out_of_was_untrusted() -> None:
    asked = AskedCalls()
    for answer in (MAIL, LEDGER, {}):  # the last tells no origins, and has no number
        asked.remember(event(**answer))

    assert [untrusted(asked, event(**taken_from(call))) for call in (0, 1, 2)] == [True, False, True]
    assert untrusted(asked, event("s-2", **taken_from(1)))  # another session never saw that call
    assert untrusted(asked, event(**taken_from(0, untrusted=False))) is False  # the sender knows better
    assert untrusted(asked, event(**taken_from(None))) is None
    assert untrusted(asked, event(**taken_from(0, origin="prompt"))) is None


def test_what_an_agent_says_of_itself_moves_no_numbers() -> None:
    asked = AskedCalls()
    asked.remember(event(**LEDGER))
    asked.remember(event(**MAIL, agent={"id": "a", "self_asserted": True}))

    assert untrusted(asked, event(**taken_from(0))) is False
    assert untrusted(asked, event(**taken_from(1)))  # such a call was never seen


def test_few_sessions_of_an_agent_are_remembered_and_long_ones_coarsely() -> None:
    asked = AskedCalls()
    asked.remember(event("first", **LEDGER))
    for number in range(SESSIONS_OF_AGENT):
        asked.remember(event(f"s-{number}", **LEDGER))
    for _ in range(2_000):
        asked.remember(event("s-0", **LEDGER))

    assert untrusted(asked, event("first", **taken_from(0)))
    assert untrusted(asked, event("s-0", **taken_from(0))) is False
    asked.remember(event("s-0", **MAIL))
    assert untrusted(asked, event("s-0", **taken_from(0)))  # so long ago that any of them may have been it
