"""Delivery by poll (RFC 8936): what waits comes until it is acknowledged, and never after."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from trustwatch.ingest.formats.received_signals import STREAM_UPDATED, VERIFICATION
from trustwatch.scoring.delivery.shared_signals.event_types import RISK_LEVEL_CHANGE, SESSION_REVOKED
from trustwatch.scoring.records.agents import AgentEdge
from trustwatch.scoring.records.commits import Commit, Position

from ...support.console_records import decision_of, row_of
from ...support.shared_signals import announced
from ...support.stream_figures import stream_figures

Transmit = Callable[..., Any]
Until = Callable[[Callable[[], Any]], Any]
PRINCIPALS = (("bob", 5_000), ("ann", 1_000))
"""Whom the agent acts for, and how long ago it did last, ms."""


def events(sets: list[dict[str, Any]]) -> list[str]:
    """Last word of each event's type."""
    return [next(iter(claims["events"])).rpartition("/")[2] for claims in sets]


def test_a_revocation_is_told_in_the_order_of_the_table(transmitter: Any, receiver: Any) -> None:
    """One event in each SET, the same `txn`, times of the event and of the SET."""
    stream = receiver.create()
    transmitter.commit(announced(1, 4, 1))
    sets = receiver.sets(stream)

    assert events(sets) == [
        "risk-level-change",
        "session-revoked",
        "anomalous-behavior-detected",
        "workload-compromised",
    ]
    assert {claims["txn"] for claims in sets} == {"d-1"}
    assert {claims["iat"] for claims in sets} == {1_764_000_000}
    assert {claims["toe"] for claims in sets} == {1_764_000_000}
    assert len({claims["jti"] for claims in sets}) == 4
    assert sets[0]["sub_id"] == {"format": "iss_sub", "iss": "https://as.example", "sub": "bot"}


def test_streams_get_what_they_asked_for_of_the_tenants_they_may_see(transmitter: Any) -> None:
    """And nothing that was decided before they were there."""
    transmitter.commit(announced(0))
    transmitter.site.clock.now += 0.001
    acme, globex, both = (transmitter.receiver(name) for name in ("gateway", "globex", "all"))
    streams = [one.create((SESSION_REVOKED,)) for one in (acme, globex, both)]
    transmitter.site.clock.now += 1
    rows = [announced(1500 + number, tenant=tenant) for number, tenant in enumerate(("acme", "globex"))]
    transmitter.commit(*rows)

    heard = [
        [claims["txn"] for claims in one.sets(stream)]
        for one, stream in zip((acme, globex, both), streams, strict=True)
    ]
    assert heard == [["d-1500"], ["d-1501"], ["d-1500", "d-1501"]]


def test_poll_only_then_acknowledge(transmitter: Any, receiver: Any) -> None:
    """POLL_ONLY, POLL_AND_ACK, ACK_ONLY of the test plan: unacknowledged SETs come again as they were."""
    stream = receiver.create((RISK_LEVEL_CHANGE,))
    transmitter.commit(*(announced(number) for number in range(3)))
    first = receiver.poll(stream).json()["sets"]
    again = receiver.poll(stream).json()["sets"]
    assert list(first) == list(again)
    assert len(first) == 3

    jtis = list(first)
    acked = receiver.poll(stream, ack=jtis[:1], maxEvents=1).json()
    assert list(acked["sets"]) == jtis[1:2]
    assert acked["moreAvailable"] is True
    only = receiver.poll(stream, ack=jtis[1:2], maxEvents=0).json()
    assert only["sets"] == {}
    left = receiver.poll(stream, ack=["of nobody"], maxEvents=1).json()
    assert list(left["sets"]) == jtis[2:]
    assert "moreAvailable" not in left
    assert receiver.poll(stream, ack=jtis).json() == {"sets": {}}
    assert transmitter.context.outcomes == {"queued": 3, "acknowledged": 3}


def test_a_restart_derives_nothing_twice(transmitter: Any, receiver: Any) -> None:
    """The mark on the row and the SETs are one transaction: not even what was acknowledged comes again."""
    stream = receiver.create((RISK_LEVEL_CHANGE,))
    transmitter.commit(announced())
    (claims,) = receiver.sets(stream)
    receiver.poll(stream, ack=[claims["jti"]])
    transmitter.commit(announced())  # the same row: its key is known

    assert receiver.sets(stream) == []


def test_a_long_poll_waits_for_what_comes(transmitter: Any, receiver: Any, until: Until) -> None:
    """`{}` waits; it answers as soon as there is something, and with nothing after a while."""
    stream = receiver.create((RISK_LEVEL_CHANGE,))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(receiver.sets, stream, returnImmediately=False)
        until(lambda: transmitter.context.waiting_polls)
        transmitter.commit(announced())
        (claims,) = waiting.result(5)
        waiting = pool.submit(receiver.poll, stream, ack=[claims["jti"]], returnImmediately=False)
        until(lambda: transmitter.context.waiting_polls)
        assert not waiting.done()
        transmitter.site.clock.now += 3
        assert waiting.result(5).json() == {"sets": {}}


def test_nobody_waits_when_the_service_ends(transmit: Transmit, until: Until) -> None:
    """A long poll would hold its end up."""
    transmitter = transmit(POLL_WAIT_S=60.0)
    receiver = transmitter.receiver()
    stream = receiver.create()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(receiver.poll, stream, returnImmediately=False)
        until(lambda: transmitter.context.waiting_polls)
        transmitter.site.inside(transmitter.context.close)
        assert waiting.result(5).json() == {"sets": {}}


def test_polls_beyond_the_bound_do_not_wait(transmit: Transmit, until: Until) -> None:
    """Connections that wait are bounded."""
    transmitter = transmit(MAX_POLLS=1, POLL_WAIT_S=1.0)
    receiver = transmitter.receiver()
    streams = [receiver.create(), receiver.create()]
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(receiver.poll, streams[0], returnImmediately=False)
        until(lambda: transmitter.context.waiting_polls)
        assert receiver.poll(streams[1], returnImmediately=False).json() == {"sets": {}}
        assert not first.done()
        transmitter.site.clock.now += 3
        assert first.result(5).status_code == 200


def test_one_receiver_has_its_share_of_waiting_polls(transmit: Transmit, until: Until) -> None:
    """It takes no place of others; and who has gone away keeps none."""
    transmitter = transmit(MAX_POLLS=3, MAX_STREAMS=1, POLL_WAIT_S=20.0)
    receiver, other = transmitter.receiver(), transmitter.receiver("trusted")
    stream, others = receiver.create(), other.create()
    address = urlsplit(transmitter.site.url)
    head = f"POST /ssf/poll/{stream['stream_id']} HTTP/1.1\r\nhost: {address.netloc}\r\ncontent-length: 2\r\n"
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(f"{head}authorization: {receiver.headers['authorization']}\r\n\r\n{{}}".encode())
        until(lambda: transmitter.context.waiting_polls)
        assert receiver.poll(stream, returnImmediately=False).json() == {"sets": {}}
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(other.poll, others, returnImmediately=False)
            until(lambda: transmitter.context.waiting_polls.total() == 2)
            connection.close()
            until(lambda: transmitter.context.waiting_polls.total() == 1)
            transmitter.site.inside(transmitter.context.close)
            assert waiting.result(5).json() == {"sets": {}}


def test_null_counts_as_not_said(receiver: Any) -> None:
    """As mappers of Java and Go write what is not there."""
    stream = receiver.create()
    assert receiver.poll(stream, ack=None, setErrs=None, maxEvents=None).json() == {"sets": {}}


def test_each_stream_has_an_address_of_its_own(transmitter: Any, receiver: Any) -> None:
    """To poll at: nothing of one stream comes by another's, and nobody polls without a token."""
    one, two = receiver.create((RISK_LEVEL_CHANGE,)), receiver.create(())
    transmitter.commit(announced())
    assert one["delivery"]["endpoint_url"] != two["delivery"]["endpoint_url"]
    assert (len(receiver.sets(one)), receiver.sets(two)) == (1, [])
    receiver.headers = {}
    assert receiver.poll(one).status_code == 401


def test_polls_that_can_not_be_read(receiver: Any) -> None:
    """400, and nothing is acknowledged."""
    stream = receiver.create()
    for body in (
        {"maxEvents": -1},
        {"maxEvents": "ten"},
        {"ack": "one"},
        {"ack": [7]},
        {"setErrs": {"j": "bad"}},
    ):
        assert receiver.poll(stream, **body).status_code == 400, body


def test_paused_streams_keep_and_disabled_ones_do_not(transmitter: Any, receiver: Any) -> None:
    """Nothing is told while it is paused, in order afterwards; while it is disabled nothing is queued."""
    stream = receiver.create((RISK_LEVEL_CHANGE,))

    def say(status: str) -> None:
        body = {"stream_id": stream["stream_id"], "status": status}
        assert receiver.ask("POST", "status_endpoint", body).status_code == 200

    say("paused")
    transmitter.commit(announced(1), announced(2))
    assert receiver.sets(stream) == []
    say("enabled")
    assert [claims["txn"] for claims in receiver.sets(stream)] == ["d-1", "d-2"]
    say("disabled")
    transmitter.commit(announced(3))
    assert receiver.ask("POST", "verification_endpoint", {"stream_id": stream["stream_id"]}).status_code == 204
    assert receiver.sets(stream) == []
    say("enabled")
    assert receiver.sets(stream) == []
    transmitter.commit(announced(4))
    assert [claims["txn"] for claims in receiver.sets(stream)] == ["d-4"]


def test_a_receiver_that_never_comes_is_bounded(transmit: Transmit) -> None:
    """Its stream is disabled, what waits is dropped, and it is told why; others are not touched."""
    transmitter = transmit(MAX_WAITING=10)
    dead, alive = transmitter.receiver(), transmitter.receiver("trusted")
    left, followed = dead.create((RISK_LEVEL_CHANGE,)), alive.create((RISK_LEVEL_CHANGE,))
    for number in range(12):
        transmitter.commit(announced(number))
        alive.poll(followed, ack=[claims["jti"] for claims in alive.sets(followed)])
    (claims,) = dead.sets(left)

    assert claims["events"][STREAM_UPDATED]["status"] == "disabled"
    assert "10 SETs" in claims["events"][STREAM_UPDATED]["reason"]
    assert claims["sub_id"] == {"format": "opaque", "id": left["stream_id"]}
    status = dead.ask("GET", "status_endpoint", stream_id=left["stream_id"]).json()
    assert (status["status"], "10 SETs" in status["reason"]) == ("disabled", True)
    assert transmitter.context.outcomes["acknowledged"] == 12
    assert transmitter.context.outcomes["disabled"] == 1


def test_verifications_fill_no_stream(transmit: Transmit) -> None:
    """429 once a handful wait: what happens to agents finds its place."""
    transmitter = transmit(MAX_WAITING=12)
    receiver = transmitter.receiver()
    stream = receiver.create((RISK_LEVEL_CHANGE,))
    body = {"stream_id": stream["stream_id"], "state": "s"}
    asked = [receiver.ask("POST", "verification_endpoint", body) for _ in range(12)]
    assert [one.status_code for one in asked] == [204] * 10 + [429] * 2
    assert asked[-1].headers["retry-after"] == "1"
    transmitter.commit(announced())
    assert len(receiver.sets(stream)) == 11


def test_errors_of_sets_that_never_were_are_no_lines_of_the_log(
    transmitter: Any, receiver: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line for a poll, where anything was refused; more than 5,000 in one poll are too many."""
    stream = receiver.create((RISK_LEVEL_CHANGE,))
    transmitter.commit(announced())
    (claims,) = receiver.sets(stream)

    def refuse(*jtis: str) -> int:
        errors = {jti: {"err": "invalid_key", "description": "x"} for jti in jtis}
        answer = receiver.poll(stream, setErrs=errors)
        return sum("set_refused" in line for line in capsys.readouterr().out.splitlines()) if answer.is_success else -1

    made_up = [f"made-up-{number}" for number in range(800)]
    capsys.readouterr()
    assert refuse(*made_up) == 0
    assert refuse(claims["jti"], *made_up) == 1
    assert receiver.sets(stream) == []  # what it refused does not come again
    assert transmitter.context.outcomes["failed"] == 1
    assert refuse(*(f"{number}" for number in range(5_001))) == -1


def test_a_tenant_that_was_taken_away_is_not_told_of(transmitter: Any) -> None:
    """What waited of it is dropped when its receiver polls; the rest stays."""
    receiver = transmitter.receiver("two")
    stream = receiver.create((RISK_LEVEL_CHANGE,))
    transmitter.commit(announced(1, tenant="globex"), announced(2, tenant="acme"), announced(3, tenant="globex"))
    transmitter.context._tenants["two"] = frozenset({"acme"})  # as the settings of the next start have it
    assert [claims["txn"] for claims in receiver.sets(stream)] == ["d-2"]
    assert transmitter.context.outcomes["withdrawn"] == 2
    assert stream_figures(transmitter.site.store.security_events).waiting == 1


def test_the_principal_is_named_where_the_operator_wants_it(transmit: Transmit) -> None:
    """`complex`: the agent as application, and whom it acted for last as user."""
    transmitter = transmit(subject="complex")
    store, now = transmitter.site.store, int(transmitter.site.clock.now * 1000)
    start = store.partitions.claim(0)
    edges = [AgentEdge("acme", "https://as.example", "acts_for", "bot", name, 1, now - age) for name, age in PRINCIPALS]
    store.commit(Commit(start, Position(0, start.epoch, 1), [], [], [], [], edges=edges))
    receiver = transmitter.receiver()
    stream = receiver.create((RISK_LEVEL_CHANGE,))
    transmitter.commit(announced())
    (claims,) = receiver.sets(stream)

    assert claims["sub_id"]["format"] == "complex"
    assert claims["sub_id"]["user"]["sub"] == "ann"


def test_figures(transmitter: Any, receiver: Any) -> None:
    """What Prometheus gets."""
    stream = receiver.create((RISK_LEVEL_CHANGE,))
    receiver.create()
    receiver.ask("POST", "status_endpoint", {"stream_id": stream["stream_id"], "status": "paused"})
    transmitter.commit(announced())
    transmitter.site.clock.now += 3
    transmitter.step()
    lines = transmitter.site.client.get("/metrics").text.splitlines()

    assert 'trustwatch_security_events_total{outcome="queued"} 5.0' in lines


def test_a_verification_comes_through_a_long_poll(transmitter: Any, receiver: Any, until: Until) -> None:
    """Asked for while somebody waits."""
    stream = receiver.create()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(receiver.sets, stream, returnImmediately=False)
        until(lambda: transmitter.context.waiting_polls)
        receiver.ask("POST", "verification_endpoint", {"stream_id": stream["stream_id"], "state": "s"})
        assert waiting.result(5)[0]["events"] == {VERIFICATION: {"state": "s"}}


def test_what_a_person_orders_is_told(transmitter: Any, receiver: Any) -> None:
    """A pin and its end; in between what is measured is an anomaly, and no change. One that replaces another holds."""
    site = transmitter.site
    stream = receiver.create()

    def order(what: str, **body: str) -> None:
        query = {"tenant": "acme", "issuer": "https://as.example"}
        answer = site.client.post(
            f"/v1/agents/bot/{what}", params=query, json={"why": "x", **body}, headers=site.auth("all")
        )
        assert answer.is_success, answer.text
        site.clock.now += 1
        transmitter.step()

    def told() -> list[tuple[str, str]]:
        sets = receiver.sets(stream)
        receiver.poll(stream, ack=[claims["jti"] for claims in sets])
        return [(event, str(members.get("trustwatch_level", ""))) for event, members in map(event_of, sets)]

    order("pin", level="critical")
    assert told() == [("risk-level-change", "critical"), ("session-revoked", ""), ("workload-compromised", "")]
    transmitter.commit(announced(2000, 3, 1))
    assert told() == [("anomalous-behavior-detected", "")]
    order("pin", level="medium")
    assert told() == [("risk-level-change", "medium")]
    order("unpin")
    assert told() == [("risk-level-change", "unknown")]
    order("pin", level="high")
    assert told() == [("risk-level-change", "high")]
    site.clock.now += 5_000  # the pin's hour is over, and that of the receiver's token
    receiver.headers = site.auth("gateway", "ssf.manage")
    site.wait(site.guard.approval_workflow.synchronise())
    transmitter.step()
    assert told() == [("risk-level-change", "unknown")]


def test_the_end_of_a_pin_tells_the_level_of_the_newest_decision(transmitter: Any, receiver: Any) -> None:
    """It is stored before the agent's state is; what the row says meanwhile is older."""
    site = transmitter.site
    stream = receiver.create((RISK_LEVEL_CHANGE,))
    name = site.store.edges.agent_name("acme", "https://as.example", "bot")
    claimed = site.store.partitions.claim(0)
    at = Position(0, claimed.epoch, 10)
    row = msgspec.structs.replace(row_of("bot", level=1), name=name)
    site.store.commit(Commit(claimed, at, [row], [], [], []))
    decided = decision_of(msgspec.structs.replace(row, level=3), 12)
    site.store.commit(Commit(at, at, [], [decided], [], []))
    query = {"tenant": "acme", "issuer": "https://as.example"}
    for what, body in (("pin", {"why": "x", "level": "critical"}), ("unpin", {"why": "x"})):
        answer = site.client.post(f"/v1/agents/bot/{what}", params=query, json=body, headers=site.auth("all"))
        assert answer.is_success, answer.text
        site.clock.now += 1
        transmitter.step()
    told = [members["trustwatch_level"] for _, members in map(event_of, receiver.sets(stream))]
    assert told == ["critical", "high"]


def event_of(claims: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Last word of the event's type, and its members."""
    ((event_type, members),) = claims["events"].items()
    return event_type.rpartition("/")[2], members
