"""Subjects: how agents are named, what is one, and which of them mean the same."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from trustwatch.scoring.delivery.shared_signals.announced_decision import AnnouncedDecision, read_announced_decision
from trustwatch.scoring.delivery.shared_signals.subject_identifiers import (
    InvalidSubject,
    agent_subject,
    check_subject,
    is_wanted,
)
from trustwatch.scoring.records.security_events import StreamSubject

from ....support.shared_signals import announced

AS = "https://as.example"
BOT = {"format": "iss_sub", "iss": AS, "sub": "bot"}
SPIFFE = "spiffe://acme.example/pay"
ANN = {"format": "iss_sub", "iss": AS, "sub": "ann"}


def decision(agent_id: str = "bot", principal: str = "") -> AnnouncedDecision:
    found = read_announced_decision(announced(agent_id=agent_id).payload)
    assert found is not None
    return replace(found, principal=principal)


@pytest.mark.parametrize(
    ("subject_format", "agent_id", "workload", "expected"),
    [
        ("iss_sub", "bot", False, BOT),
        ("iss_sub", SPIFFE, False, BOT | {"sub": SPIFFE}),
        ("iss_sub", SPIFFE, True, {"format": "uri", "uri": SPIFFE}),
        ("iss_sub", "bot", True, BOT),
        ("uri", SPIFFE, False, {"format": "uri", "uri": SPIFFE}),
        ("uri", "bot", False, BOT),
        ("complex", "bot", False, {"format": "complex", "application": BOT, "user": ANN}),
        ("complex", SPIFFE, True, {"format": "uri", "uri": SPIFFE}),
    ],
)
def test_names_of_agents(subject_format: Any, agent_id: str, workload: bool, expected: dict[str, Any]) -> None:
    """As the operator chose; a workload is named by its own URI where it has one."""
    assert agent_subject(decision(agent_id, "ann"), subject_format, workload=workload) == expected


def test_a_subject_has_what_its_format_has() -> None:
    """Other members are left out, at every depth; texts and the whole are bounded."""
    noisy = BOT | {"more": {"deep": ["x" * 60_000]}}
    assert check_subject(noisy) == BOT
    assert check_subject({"format": "complex", "application": noisy}) == {"format": "complex", "application": BOT}
    assert check_subject({"format": "aliases", "identifiers": [noisy], "x": 1}) == {
        "format": "aliases",
        "identifiers": [BOT],
    }
    for huge in (
        BOT | {"sub": "x" * 2_049},
        {"format": "ip-addresses", "ip-addresses": ["x" * 2_049]},
        {"format": "ip-addresses", "ip-addresses": ["10.0.0.1"] * 2_000},
        {"format": "complex", **{f"m{number}": BOT | {"sub": "x" * 2_000} for number in range(5)}},
    ):
        with pytest.raises(InvalidSubject, match=r"characters|texts"):
            check_subject(huge)


def test_nobody_is_named_where_nobody_is_known() -> None:
    """A complex subject without a principal has no user; without an issuer the id stands for itself."""
    assert agent_subject(decision(), "complex", workload=False) == {"format": "complex", "application": BOT}
    bare = replace(decision(), issuer="")
    assert agent_subject(bare, "iss_sub", workload=False) == {"format": "opaque", "id": "bot"}


@pytest.mark.parametrize(
    "subject",
    [
        {"format": "email", "email": "ann@acme.example"},
        {"format": "phone_number", "phone_number": "+1"},
        {"format": "phone", "phone_number": "+1"},
        {"format": "jwt_id", "iss": AS, "jti": "1"},
        {"format": "ip-addresses", "ip-addresses": ["192.0.2.1"]},
        {"format": "aliases", "identifiers": [BOT, ANN]},
        {"format": "complex", "application": BOT, "anything": ANN},
    ],
)
def test_what_is_a_subject(subject: dict[str, Any]) -> None:
    """Formats of RFC 9493 and SSF 1.0, whether an agent can be meant or not."""
    assert check_subject(subject) == subject


@pytest.mark.parametrize(
    ("subject", "where"),
    [
        (None, "$.subject:"),
        ("bot", "$.subject:"),
        ({"iss": AS}, "$.subject:"),
        ({"format": "iss_sub", "iss": AS}, "$.subject.sub"),
        ({"format": "iss_sub", "iss": AS, "sub": 7}, "$.subject.sub"),
        ({"format": "nickname", "id": "x"}, "$.subject.format"),
        ({"format": "complex"}, "$.subject:"),
        ({"format": "complex", "user": {"format": "opaque"}}, "$.subject.user.id"),
        ({"format": "complex", "user": {"format": "complex", "user": ANN}}, "$.subject.user"),
        ({"format": "aliases", "identifiers": []}, "$.subject.identifiers"),
        ({"format": "aliases", "identifiers": [{"format": "aliases", "identifiers": [BOT]}]}, "identifiers[0]"),
    ],
)
def test_what_is_not(subject: Any, where: str) -> None:
    """The message says where it is wrong."""
    with pytest.raises(InvalidSubject) as error:
        check_subject(subject)
    assert where in str(error.value)


@pytest.mark.parametrize(
    ("subject", "matches"),
    [
        (BOT, True),
        ({"format": "opaque", "id": "bot"}, True),
        (BOT | {"sub": "other"}, False),
        (BOT | {"iss": "https://other.example"}, False),
        ({"format": "complex", "application": BOT}, True),
        ({"format": "complex", "application": BOT, "user": ANN}, True),
        ({"format": "complex", "application": BOT, "user": BOT}, False),
        ({"format": "complex", "device": {"format": "opaque", "id": "d"}}, True),  # undefined on our side
        ({"format": "complex", "tenant": {"format": "opaque", "id": "globex"}}, False),
        ({"format": "aliases", "identifiers": [ANN, BOT]}, True),
        ({"format": "email", "email": "ann@acme.example"}, False),
    ],
)
def test_a_receiver_is_told_of_whom_it_wants(subject: dict[str, Any], matches: bool) -> None:
    """Simple subjects are identical or not; a member of a complex one counts where both sides have it."""
    about = decision(principal="ann")

    assert is_wanted(about, [StreamSubject(subject, False, 1)]) != matches


def test_the_last_word_counts() -> None:
    """Removed and added again: wanted."""
    said = [StreamSubject(BOT, False, 1), StreamSubject({"format": "complex", "application": BOT}, True, 2)]

    assert is_wanted(decision(), said)
    assert not is_wanted(decision(), said[:1])
