"""Events become columns: names as hashes, numbers, codes and exact times."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.columns import MemoizedFunction, network_of
from trustwatch.ingest.events import EFFECTS
from trustwatch.ingest.hashing import NameHasher
from trustwatch.ingest.identities import IdentityHasher, unkeyed_agent_key

from ..support.feature_histories import SALT, columns, event


def test_columns_hash_every_name_under_the_salt() -> None:
    """Each name of an event is the keyed hash of its text; the agent's key is not keyed."""
    made = event(
        task="t",
        action="act",
        resource={"type": "account", "id": "a1", "audience": "aud"},
        peer="p",
        principal={"id": "who"},
        client={"asn": 64500},
        credential={"method": "none", "thumbprint": "x", "token_id": "k"},
        scopes={"requested": ["b", "a", "b"]},
        delegation=["one", "two"],
        session="s",
        version="v",
        issuer="iss",
    )
    names, h = columns([made]).names[0], NameHasher(SALT)

    wanted = {
        event_columns.GROUP: "acme\x1fClerk",
        event_columns.TENANT: "acme",
        event_columns.TASK: "t",
        event_columns.ACTION: "act",
        event_columns.RESOURCE: "account:a1",
        event_columns.TARGET: "a1",
        event_columns.AUDIENCE: "aud",
        event_columns.PEER: "p",
        event_columns.PRINCIPAL: "who",
        event_columns.NETWORK: "AS64500",
        event_columns.CREDENTIAL: "none:x",
        event_columns.SCOPES: "a b",
        event_columns.CHAIN: "one\x1ftwo",
        event_columns.TOKEN: "k",
        event_columns.SESSION: "s",
        event_columns.VERSION: "v",
    }
    assert {column: int(names[column]) for column in wanted} == {column: h(text) for column, text in wanted.items()}
    full_name = ("acme", "iss", "a1")
    assert tuple(names[[event_columns.AGENT, event_columns.AGENT_CHECK]]) == IdentityHasher(SALT).agent_hash(*full_name)
    assert names[event_columns.AGENT_DRAW] == unkeyed_agent_key(*full_name)


def test_columns_tell_absent_from_zero() -> None:
    """What an event does not say is 0 as a name and -1 as a number; count alone defaults to 1."""
    bare = columns([event()])
    zeros = columns([event(bytes_in=0, bytes_out=0, duration_ms=0, credential={"token_lifetime_s": 0}, scopes={})])

    present = {
        event_columns.AGENT,
        event_columns.AGENT_CHECK,
        event_columns.AGENT_DRAW,
        event_columns.GROUP,
        event_columns.TENANT,
        event_columns.ACTION,
    }
    assert set(np.flatnonzero(bare.names[0]).tolist()) == present
    assert bare.numbers[0].tolist() == [-1, -1, -1, 1, -1, -1, -1, -1]
    assert zeros.numbers[0].tolist() == [0, 0, 0, 1, 0, -1, -1, 0]
    assert bare.codes[0, event_columns.EFFECT] == EFFECTS.index("unknown")
    assert bare.codes[0, [event_columns.PROVENANCE, event_columns.EXTERNAL, event_columns.METHOD]].tolist() == [
        -1,
        -1,
        0,
    ]


@pytest.mark.parametrize(
    ("capabilities", "kind", "expected"),
    [
        (None, "tool.call", event_columns.UNDECLARED),
        ([], "tool.call", event_columns.OUTSIDE),
        (["read_ticket"], "tool.call", event_columns.INSIDE),
        (["read_*"], "tool.call", event_columns.INSIDE),
        (["Read_*"], "tool.call", event_columns.OUTSIDE),
        (["write_*", "read_ticke?"], "admin", event_columns.INSIDE),
        (["other"], "api.call", event_columns.OUTSIDE),
        (["other"], "token.request", event_columns.UNDECLARED),
    ],
)
def test_columns_judge_capabilities_of_work_alone(capabilities: list[str] | None, kind: str, expected: int) -> None:
    """An action is outside where capabilities are declared and lack it; token events are no work of the agent's."""
    members = {} if capabilities is None else {"capabilities": capabilities}

    assert columns([event(type=kind, **members)]).codes[0, event_columns.CAPABILITY] == expected


def test_columns_mark_what_people_said_of_an_agent() -> None:
    """No behaviour of the agent, whatever the outcome; any other event of that error is its own."""
    batch = columns(
        [
            event(type="approval", error="recorded_by_trustwatch"),
            event(type="approval", outcome="denied"),
            event(type="approval", outcome="denied", error="recorded_by_trustwatch"),
            event(error="recorded_by_trustwatch"),
            event(type="approval", error="recorded"),
        ]
    )

    assert batch.codes[:, event_columns.OWN_DENIAL].tolist() == [1, 0, 1, 0, 0]


def test_columns_mark_only_our_own_denials_and_outages() -> None:
    """What we caused is marked by outcome and error together; either alone is the agent's."""
    batch = columns(
        [
            event(outcome="denied", error="ext_authz_denied"),
            event(outcome="denied", error="revoked_by_trustwatch"),
            event(outcome="error", error="ext_authz_denied"),
            event(outcome="denied", error="forbidden"),
            event(outcome="error", error="ext_authz_error"),
            event(outcome="error", error="trustwatch_unavailable"),
            event(outcome="denied", error="ext_authz_error"),
            event(outcome="success", error="ext_authz_error"),
        ]
    )

    assert batch.codes[:, event_columns.OWN_DENIAL].tolist() == [1, 1, 0, 0, 1, 1, 0, 0]


@pytest.mark.parametrize("milliseconds", [0, 1, 123, 999])
@pytest.mark.parametrize("year", [1970, 1999, 2026, 2100])
def test_columns_keep_milliseconds_exactly(year: int, milliseconds: int) -> None:
    """Times are whole milliseconds without the error of floating point, in every zone."""
    moment = datetime(year, 7, 3, 14, 29, 57, milliseconds * 1000, tzinfo=UTC)
    exact = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    abroad = moment.astimezone(timezone(timedelta(hours=-7)))

    batch = columns([event(time=moment.isoformat()), event(time=abroad.isoformat())])

    assert batch.time_ms.tolist() == [exact, exact]


@pytest.mark.parametrize(
    ("ip", "network"),
    [
        ("198.51.100.7", "198.51.100.0/24"),
        ("2001:db8:1:2::7", "2001:db8:1::/48"),
        ("pod-7", "pod-7"),
        ("", ""),
        (None, ""),
    ],
)
def test_columns_reduce_addresses_to_networks(ip: str | None, network: str) -> None:
    """Addresses of one network are one name; text that is no address stands for itself."""
    assert network_of(ip) == network


@given(
    ip=st.one_of(
        st.ip_addresses().map(str),
        st.lists(
            st.integers(0, 300).map(str) | st.sampled_from(["01", "+1", " 1", "", "\u0661"]), min_size=3, max_size=5
        ).map(".".join),
        st.text("0123456789.:/ \n", max_size=16),
    )
)
def test_the_network_of_any_text_is_that_of_its_address(ip: str) -> None:
    """As the standard library reads it, or the text itself."""
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        assert network_of(ip) == ip
        return
    network = ipaddress.ip_network((address, 24 if address.version == 4 else 48), strict=False)
    assert network_of(ip) == str(network)


def test_remembered_is_bounded() -> None:
    """What is remembered never exceeds its bound, long keys are not kept, and answers are the function's."""
    calls: list[str] = []

    def measure(name: str) -> int:
        calls.append(name)
        return len(name)

    known = MemoizedFunction(measure)
    most = known._MOST

    assert [known[("x",)], known[("x",)], known[("y" * 501,)], known[("y" * 501,)]] == [1, 1, 501, 501]
    assert calls == ["x", "y" * 501, "y" * 501]
    for number in range(most + 10):
        _ = known[(str(number),)]
    assert len(known) <= most
