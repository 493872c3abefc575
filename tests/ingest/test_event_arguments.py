"""Origins of arguments in an event: members, attributes in the same shape, and what is neither."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from trustwatch.ingest.argument_columns import NO_CALL, UNTRUSTED_CALL, read_arguments, read_untrusted_result
from trustwatch.ingest.columns import UNTRACED, UNTRUSTED_RESULT, ColumnEncoder
from trustwatch.ingest.errors import MalformedEvent
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.record_erasure import NameEraser
from trustwatch.ingest.record_keys import record_id
from trustwatch.ingest.scan.raw_encoder import RawEncoder
from trustwatch.scoring.records.erasures import erasure_pseudonym
from trustwatch_client.events import Argument

from ..support.feature_histories import SALT, event

PROMPTED: dict[str, Any] = {"name": "to", "origin": "prompt", "hash": "39e505e56acc"}
COPIED: dict[str, Any] = {
    "name": "body~",
    "origin": "tool",
    "hash": "0cabec3c8913",
    "from": 2,
    "from_action": "read_mail",
    "part": True,
}
BOTH = [
    Argument("to", "prompt", "39e505e56acc"),
    Argument("body~", "tool", "0cabec3c8913", 2, "read_mail", part=True),
]


def read(**members: Any) -> tuple[Any, bool | None]:
    told = decode_event(json.dumps(event(**members)).encode())
    return read_arguments(told), read_untrusted_result(told)


@pytest.mark.parametrize(
    "members",
    [
        {"arguments": [PROMPTED, COPIED], "untrusted_result": True},
        {"attributes": {"arguments": [PROMPTED, COPIED], "untrusted_result": True}},
        {"attributes": {"arguments": json.dumps([PROMPTED, COPIED]), "untrusted_result": "true"}},
        {
            "arguments": [PROMPTED, COPIED],
            "untrusted_result": True,
            "attributes": {"arguments": [], "untrusted_result": False},
        },
    ],
)
def test_members_and_attributes_say_the_same(members: dict[str, Any]) -> None:
    """In an attribute as JSON or as its text; a member wins."""
    assert read(**members) == (BOTH, True)


@pytest.mark.parametrize(
    ("arguments", "path", "help_text"),
    [
        ({}, "$.arguments", "list of at most 256"),
        ([PROMPTED] * 257, "$.arguments", "list of at most 256"),
        ([1], "$.arguments[0]", "an object with name and origin"),
        ([PROMPTED, {**PROMPTED, "name": ""}], "$.arguments[1].name", "1 to 256 characters"),
        ([{**PROMPTED, "origin": "user"}], "$.arguments[0].origin", "prompt, system, tool, unseen"),
        ([{**PROMPTED, "hash": "acct-42"}], "$.arguments[0].hash", "never the value"),
        ([{"name": "to", "hash": "aaaaaaaa"}], "$.arguments[0].origin", "prompt, system, tool, unseen"),
        ([{**COPIED, "from": -1}], "$.arguments[0].from", "index of an earlier call"),
        ([{**COPIED, "from_action": "x" * 257}], "$.arguments[0].from_action", "1 to 256 characters"),
        ([{**COPIED, "part": "yes"}], "$.arguments[0].part", "true or false"),
    ],
)
def test_a_wrong_member_is_refused_with_what_to_do(arguments: Any, path: str, help_text: str) -> None:
    with pytest.raises(MalformedEvent) as caught:
        read(arguments=arguments)

    assert caught.value.path == path
    assert help_text in caught.value.reason


def test_a_refusal_repeats_no_value() -> None:
    """Who sends content by mistake does not find it in a log."""
    with pytest.raises(MalformedEvent) as caught:
        read(arguments=[{**PROMPTED, "hash": "DE89 3704"}])

    assert "DE89" not in str(caught.value)


def test_an_erased_name_in_place_of_a_hash_keeps_the_record_readable() -> None:
    """Whoever is called like a hash can be erased, and others' records are read as before."""
    pseudonym = erasure_pseudonym(record_id(1_764_000_000_000, "salt"))
    raw = json.dumps(event(arguments=[PROMPTED, COPIED])).encode()

    erased = decode_event(NameEraser(PROMPTED["hash"], pseudonym).erase_in_json(raw))

    assert [argument.hash for argument in read_arguments(erased) or ()] == [pseudonym, COPIED["hash"]]


def test_columns_of_members_and_of_attributes_are_the_same() -> None:
    """Whether the answer is untrusted, which values the call took, and whence; all else is as without them."""
    told = {"arguments": [PROMPTED, COPIED], "untrusted_result": True}
    without = decode_event(json.dumps(event()).encode())
    members = decode_event(json.dumps(event(**told)).encode())
    attributes = decode_event(json.dumps(event(attributes=told)).encode())

    plain, *made = [ColumnEncoder(SALT, {}).encode([one]) for one in (without, members, attributes)]

    assert plain.arguments is None and plain.codes[0, UNTRUSTED_RESULT] == UNTRACED
    for columns in made:
        assert columns.arguments is not None and columns.codes[0, UNTRUSTED_RESULT] == 1
        assert columns.arguments.values.tolist() == [int(one["hash"], 16) for one in (PROMPTED, COPIED)]
        assert columns.arguments.sources.tolist() == [NO_CALL, COPIED["from"]]
        for ours, theirs in zip((*columns[1:3], columns.time_ms), (*plain[1:3], plain.time_ms), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(columns.codes[:, :UNTRUSTED_RESULT], plain.codes[:, :UNTRUSTED_RESULT])


@pytest.mark.parametrize(("untrusted", "source"), [(True, UNTRUSTED_CALL), (False, NO_CALL), (None, COPIED["from"])])
def test_what_the_sender_knows_of_an_answer_wins(untrusted: bool | None, source: int) -> None:
    """Both readers take it in place of the session's memory; of an argument out of the prompt it says nothing."""
    raw = json.dumps(event(arguments=[{**PROMPTED, "untrusted": True}, {**COPIED, "untrusted": untrusted}])).encode()
    for columns in (
        ColumnEncoder(SALT, {}).encode([decode_event(raw)]),
        RawEncoder(ColumnEncoder(SALT, {})).encode([raw]).columns,
    ):
        assert columns.arguments is not None
        assert columns.arguments.sources.tolist() == [NO_CALL, source]
