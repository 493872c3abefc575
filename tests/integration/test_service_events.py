"""Events as strangers send them: malformed, twice, late, huge, with odd names, and by callers that may not."""

from __future__ import annotations

import base64
import gzip
import json
import time
from typing import Any
from urllib.parse import quote

import pytest

from ..support.format_samples import LINES

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def known(service: Any, agent: str, **params: Any) -> dict[str, Any]:
    answer = service.get(f"/v1/agents/{quote(agent, safe='')}/risk", **params)
    assert answer.status_code == 200, answer.text
    return answer.json()


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
