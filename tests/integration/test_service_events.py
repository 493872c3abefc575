"""Events as strangers send them: malformed, twice, late, huge, with odd names, and by callers that may not."""

from __future__ import annotations

import base64
import gzip
import json
import random
import time
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from ..support.format_samples import LINES

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

ODD_IDS = [
    "https://agents.example/a/b?c=d&e=f#g",
    "spiffe://acme-corp.example/ns/prod/sa/payments",
    "100%25 sure%2Fnot",
    "%",
    "агент-ü-🤖",
    "a b\tc",
    "../../etc/passwd",
    "/risk",
    "x/risk",
    "decisions",
    "a\"b'c\\d;--",
    "x" * 2048,
]


def known(service: Any, agent: str, **params: Any) -> dict[str, Any]:
    answer = service.get(f"/v1/agents/{quote(agent, safe='')}/risk", **params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_malformed_in_the_middle_rejects_only_itself(running: Any, make_event: Any) -> None:
    """Of five events one lacks an outcome and one has a wrong type: index and path are in the answer, three count."""
    events = [make_event("middle", n) for n in range(5)]
    del events[1]["outcome"]
    events[3]["agent"]["id"] = 17
    answer = running.send(events)
    assert answer.status_code == 202
    receipt = answer.json()
    assert (receipt["accepted"], receipt["rejected"], receipt["duplicate"]) == (3, 2, 0)
    assert [(r["index"], r["path"]) for r in receipt["rejections"]] == [(1, "$.outcome"), (3, "$.agent.id")]
    running.settle()
    assert running.counts(prefix="middle") == {"middle": 3}


def test_refused_records_are_kept_and_can_be_replayed(running: Any, make_event: Any) -> None:
    """A source that was not allowed becomes a dead letter with its bytes; an admin who may sends it in again, once."""
    event = make_event("dead", source="https://not.allowed.example")
    answer = running.send([event, make_event("dead", 1)], client="acme")
    (rejection,) = answer.json()["rejections"]
    assert rejection["path"] == "$.source"
    running.settle()
    path = f"/v1/dead-letters/{rejection['dead_letter_id']}"
    letter = running.get(path).json()
    assert json.loads(base64.b64decode(letter["raw"])) == event
    assert rejection["dead_letter_id"] in [item["letter_id"] for item in running.pages("/v1/dead-letters")]
    replayed = running.client.post(f"{path}/replay", headers=running.auth())
    assert replayed.status_code == 202, replayed.text
    again = running.client.post(f"{path}/replay", headers=running.auth())
    assert (replayed.json()["accepted"], again.json()["accepted"], again.json()["duplicate"]) == (1, 0, 1)
    running.settle()
    assert running.counts(prefix="dead") == {"dead": 2}


def test_duplicates_count_once(running: Any, make_event: Any) -> None:
    """The same event in one body and in another one is accepted once."""
    event = make_event("twice")
    first = running.send([event, event, make_event("twice", 1)]).json()
    second = running.send([event]).json()
    assert (first["accepted"], first["duplicate"]) == (2, 1)
    assert (second["accepted"], second["duplicate"]) == (0, 1)
    running.settle()
    assert running.counts(prefix="twice") == {"twice": 2}


def test_out_of_order_late_and_future(running: Any, make_event: Any) -> None:
    """Shuffled events all count, one a day late counts and moves no time back, one far ahead is refused."""
    events = [make_event("order", n, ago_s=600 - n) for n in range(100)]
    random.Random(3).shuffle(events)
    assert running.send(events).json()["accepted"] == 100
    running.settle()
    before = running.pages("/v1/agents", prefix="order")[0]
    assert running.send([make_event("order", 100, ago_s=86_400)]).json()["accepted"] == 1
    running.settle()
    after = running.pages("/v1/agents", prefix="order")[0]
    assert (before["events"], after["events"]) == (100, 101)
    assert after["last_seen_at"] == before["last_seen_at"]
    refusal = running.send([make_event("order", 101, ago_s=-86_400)])
    assert refusal.status_code == 400
    assert refusal.json()["rejections"][0]["path"] == "$.time"
    near = running.send([make_event("order", 102, ago_s=-60)])
    assert near.json()["accepted"] == 1


@pytest.mark.parametrize("agent", ODD_IDS, ids=range(len(ODD_IDS)))
def test_odd_agent_ids(running: Any, make_event: Any, agent: str) -> None:
    """Ids that are URLs, hold percent signs, spaces, quotes or other scripts come back exactly as they went in."""
    assert running.send([make_event(agent) | {"id": None}]).json()["accepted"] == 1
    running.settle()
    assert known(running, agent, tenant="acme-corp")["agent_id"] == agent
    assert known(running, agent, tenant="acme-corp")["issuer"] == "https://as.example"
    listed = running.get("/v1/agents", prefix=agent, limit=5).json()["items"]
    assert agent in [row["agent_id"] for row in listed]
    history = running.get(f"/v1/agents/{quote(agent, safe='')}/decisions")
    assert history.status_code == 200


def test_agent_id_too_long_is_refused(running: Any, make_event: Any) -> None:
    """2,049 characters are one too many."""
    answer = running.send([make_event("x" * 2049) | {"id": None}])
    assert answer.status_code == 400
    assert answer.json()["path"] == "$.agent.id"


def test_ten_thousand_new_agents_at_once(running: Any, make_event: Any) -> None:
    """One body with 10,000 agents nobody has seen: all accepted, and every one is known when it was applied."""
    began = time.monotonic()
    body = b"\n".join(json.dumps(make_event(f"flood-{n}")).encode() for n in range(10_000))
    answer = running.post(body)
    assert answer.status_code == 202, answer.text
    assert answer.json()["accepted"] == 10_000
    running.settle()
    questions = [{"agent_id": f"flood-{n}"} for n in range(10_000)]
    for start in range(0, len(questions), 1000):
        wanted = {"agents": questions[start : start + 1000]}
        asked = running.client.post("/v1/risk/query", json=wanted, headers=running.auth())
        assert all(one["tenant"] == "acme-corp" and one["confidence"] > 0 for one in asked.json()["answers"])
    assert known(running, "flood-9999")["issuer"] == "https://as.example"
    assert time.monotonic() - began < 60


def cloudevent(event: dict[str, Any]) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": event["id"],
        "source": "urn:test",
        "type": "io.trustwatch.audit.v1",
        "time": event["time"],
        "datacontenttype": "application/json",
        "data": event,
    }


def test_every_form_of_an_event_counts(running: Any, make_event: Any) -> None:
    """One, array, NDJSON, gzip, and CloudEvents structured, batch and binary."""
    one = [make_event("forms", n) for n in range(9)]
    dump = json.dumps
    answers = [
        running.post(dump(one[0]).encode(), "application/json; charset=utf-8"),
        running.post(dump(one[1:3]).encode(), "application/json"),
        running.post("\n".join(map(dump, one[3:5])).encode() + b"\n\n"),
        running.post(gzip.compress(dump(one[5]).encode()), content_encoding="gzip"),
        running.post(dump(cloudevent(one[6])).encode(), "application/cloudevents+json"),
        running.post(dump([cloudevent(one[7])]).encode(), "application/cloudevents-batch+json"),
        running.post(
            dump(one[8]).encode(),
            "application/json",
            ce_specversion="1.0",
            ce_id="c8",
            ce_source="urn:test",
            ce_type="io.trustwatch.audit.v1",
        ),
    ]
    assert [answer.status_code for answer in answers] == [202] * 7, [answer.text for answer in answers]
    assert [answer.json()["accepted"] for answer in answers] == [1, 2, 2, 1, 1, 1, 1]
    running.settle()
    assert running.counts(prefix="forms") == {"forms": 9}


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", "application/json", 400),
        (b"\x00\xff\xfe garbage", "application/json", 400),
        (b"\x00\xff\xfe garbage", "application/x-ndjson", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"a":' * 50_000, "application/json", 400),
        (b"[]", "application/json", 202),
        (b"null", "application/json", 400),
        (b"{}", "text/xml", 415),
        (b"{}", "application/json; charset=latin1", 415),
        (b" " * (16 * 1024 * 1024 + 1), "application/x-ndjson", 413),
        (b"{}\n" * 10_001, "application/x-ndjson", 413),
    ],
    ids=["empty", "garbage", "garbage-lines", "deep-array", "deep", "none", "null", "xml", "latin1", "huge", "many"],
)
def test_bodies_that_are_no_events(running: Any, body: bytes, kind: str, status: int) -> None:
    """The answer says what is wrong, and the service goes on."""
    answer = running.post(body, kind)
    assert answer.status_code == status, answer.text
    if status >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["detail"]
    assert running.client.get("/healthz").status_code == 200


def test_gzip_bombs_and_broken_gzip(running: Any) -> None:
    """A bomb is 413, damaged gzip 400; neither ends the service."""
    bomb = gzip.compress(b" " * (64 * 1024 * 1024))
    assert running.post(bomb, content_encoding="gzip").status_code == 413
    assert running.post(bomb[:1000], content_encoding="gzip").status_code == 400
    assert running.post(b"no gzip", content_encoding="gzip").status_code == 400
    assert running.post(b"{}", content_encoding="br").status_code == 415


def unsigned(service: Any) -> str:
    """A token that says `alg: none`, with the claims of a good one."""
    claims = service.token().split(".")[1]
    header = base64.urlsafe_b64encode(b'{"alg":"none","typ":"at+jwt"}').rstrip(b"=").decode()
    return f"{header}.{claims}."


@pytest.mark.parametrize("path", ["/v1/events", "/v1/agents/a/risk", "/v1/agents", "/v1/dead-letters"])
def test_bad_tokens_are_refused_everywhere(running: Any, make_event: Any, path: str) -> None:
    """No token, wrong audience, alg none, expired, a flipped signature: 401 and nothing is taken in."""
    good = running.token()
    tokens = [
        None,
        running.token(audience="somebody-else"),
        unsigned(running),
        running.token(lifetime_s=-3600),
        good[:-8] + ("AAAAAAAA" if good[-8:] != "AAAAAAAA" else "BBBBBBBB"),
        "x",
        "a.b.c",
    ]
    for token in tokens:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        if path == "/v1/events":
            answer = running.client.post(path, json=make_event("intruder"), headers=headers)
        else:
            answer = running.client.get(path, headers=headers)
        assert answer.status_code == 401, (token, answer.text)
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert running.counts(prefix="intruder") == {}


def test_scope_that_is_missing_is_named(running: Any, make_event: Any) -> None:
    """403 with the scope that the token lacks."""
    headers = running.auth("all", "trust.score:read")
    answer = running.client.post("/v1/events", json=make_event("scoped"), headers=headers)
    assert answer.status_code == 403
    assert "trust.ingest" in answer.headers["www-authenticate"]
    asked = running.client.get("/v1/agents/scoped/risk", headers=running.auth("all", "trust.ingest"))
    assert asked.status_code == 403


def test_other_tenants_stay_apart(running: Any, make_event: Any) -> None:
    """A source of one tenant may not speak for another, nor ask about it, nor learn that an agent exists there."""
    running.send([make_event("shared", tenant="globex")])
    running.settle()
    refused = running.send([make_event("shared", 1, tenant="globex")], client="acme")
    assert refused.status_code == 400
    assert refused.json()["rejections"][0]["path"] == "$.tenant"
    assert running.get("/v1/agents/shared/risk", client="acme", tenant="globex").status_code == 403
    assert known(running, "shared")["confidence"] > 0
    hidden = running.get("/v1/agents/shared/risk", client="acme").json()
    assert (hidden["risk_level"], hidden["confidence"], hidden["tenant"]) == ("unknown", 0, "acme-corp")
    assert running.counts(prefix="shared") == {"shared": 1}
    assert (
        running.client.get("/v1/agents", params={"prefix": "shared"}, headers=running.auth("acme")).json()["items"]
        == []
    )


def test_same_id_in_two_tenants_needs_the_tenant(running: Any, make_event: Any) -> None:
    """409 names the candidates; with the tenant each has its own answer."""
    running.send([make_event("twin", tenant=tenant) for tenant in ("acme-corp", "globex")])
    running.settle()
    answer = running.get("/v1/agents/twin/risk")
    assert answer.status_code == 409
    assert {one["tenant"] for one in answer.json()["candidates"]} == {"acme-corp", "globex"}
    assert known(running, "twin", tenant="globex")["tenant"] == "globex"


def test_client_that_hangs_up_in_the_middle_costs_nothing(running: Any) -> None:
    """Half a body, then a closed connection: nothing is taken in, and others are answered."""
    import socket

    before = running.metric("trustwatch_log_next_offset")
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", running.port)) as raw:
            head = f"POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {running.token()}\r\n"
            raw.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n[".encode())
    assert running.metric("trustwatch_log_next_offset") == before
    assert running.is_ready()


def test_ingest_command_sends_files(running: Any, make_event: Any, tmp_path: Any) -> None:
    """`trustwatch ingest` counts, tells the line of a wrong record, and ends with 1 where something was refused."""
    good = tmp_path / "good.jsonl.gz"
    good.write_bytes(gzip.compress("".join(json.dumps(make_event("cli", n)) + "\n" for n in range(1200)).encode()))
    at = ("--url", running.url, "--token", running.token(), "--json")
    result = running.run("ingest", str(good), *at)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {"accepted": 1200, "duplicate": 0, "rejected": 0, "skipped": 0}
    bad = "".join(json.dumps(make_event("cli", n)) + "\n" for n in (0, 1)) + '{"id": "x"}\n'
    result = running.run("ingest", "-", *at, input=bad)
    assert result.returncode == 1
    assert json.loads(result.stdout) == {"accepted": 0, "duplicate": 2, "rejected": 1, "skipped": 0}
    assert "record 3" in result.stderr
    running.settle()
    assert running.counts(prefix="cli") == {"cli": 1200}
    listed = running.run("agents", "--prefix", "cli", *at)
    assert json.loads(listed.stdout)["agent_id"] == "cli"
    told = running.run("explain", "cli", *at[:-1])
    assert told.returncode == 0
    assert told.stdout.startswith("risk:\n  agent: cli\n  tenant: acme-corp\n")


def test_ingest_command_sends_a_servers_own_log(running: Any) -> None:
    """`--format`: what Keycloak wrote to its log becomes events of its clients."""
    log = LINES / "keycloak_26.7.3.log"

    result = running.run(
        "ingest", str(log), "--format", "keycloak", "--url", running.url, "--token", running.token(), "--json"
    )

    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {"accepted": 18, "duplicate": 0, "rejected": 0, "skipped": 2}


def test_no_service_is_one_line(running: Any) -> None:
    """A command that finds nobody says so and ends with 1."""
    result = running.run("agents", "--url", "http://127.0.0.1:9", "--token", "x")
    assert result.returncode == 1
    assert "is the service running" in result.stderr
    assert "Traceback" not in result.stderr


def test_duplicates_are_known_after_a_restart(service: Any, make_event: Any) -> None:
    """What was sent before a restart and again after it counts once, though the edge has forgotten it."""
    events = [make_event("again", n) for n in range(30)]
    service.start()
    assert service.send(events).json()["accepted"] == 30
    assert service.stop() == 0
    service.start()
    assert service.send([*events, make_event("again", 30)]).status_code == 202
    service.settle()
    assert service.counts(prefix="again") == {"again": 31}


def test_wrong_methods_and_paths_are_problems(running: Any) -> None:
    """404 and 405 are problem documents too."""
    for method, path, status in (
        ("GET", "/nothing", 404),
        ("DELETE", "/v1/events", 405),
        ("POST", "/v1/agents/a/risk", 405),
    ):
        answer: httpx2.Response = running.client.request(method, path, headers=running.auth())
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
