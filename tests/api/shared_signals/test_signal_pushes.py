"""Reception by push (RFC 8935): what is taken and believed, what is refused by which error, and that once is once."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trustwatch.api.http.refused_callers import LINES_PER_S
from trustwatch.api.shared_signals import signal_receiver
from trustwatch.ingest.errors import Unavailable
from trustwatch.ingest.formats.expressions import token_id_digest
from trustwatch.ingest.formats.received_signals import CAEP, SSF, WISE
from trustwatch.scoring.store.security_event_store import signal_digest

from ...support.shared_signals import ForeignTransmitter
from ...support.signal_reception import COMPROMISED, SECRET, Reception, refused

REVOKED = CAEP + "session-revoked"
DAY_S = 86_400


def test_a_push_becomes_an_audit_event(reception: Reception) -> None:
    """Answered by 202 without a body, once the log has it; the event is about the agent that the subject names."""
    answer = reception.send(members={"detection_method": "runtime", "reason_admin": {"en": "eyJ.secret.text"}}, txn="t")
    assert (answer.status_code, answer.content) == (202, b"")
    (event,) = reception.site.events()
    assert event == {
        "id": "jti-1",
        "source": "urn:trustwatch:signals:idp",
        "time": "2025-11-24T16:00:00.000Z",
        "type": "signal.hard",
        "tenant": "acme",
        "agent": {"id": "bot", "issuer": "https://as.example"},
        "action": "workload-compromised",
        "outcome": "success",
        "txn": "t",
        "attributes": {
            "event_type": COMPROMISED,
            "issuer": "https://idp.example",
            "detection_method": "runtime",
            "told_at": "2025-11-24T16:00:00.000Z",
        },
    }
    assert reception.outcomes == {"hard": 1}


def test_once_is_once(reception: Reception) -> None:
    """What comes again is answered as if it were new and counts once."""
    for _ in range(3):
        assert reception.send().status_code == 202
    assert reception.types() == ["signal.hard"]
    assert reception.outcomes == {"hard": 1, "duplicate": 2}


def test_a_crash_before_the_store_remembers_doubles_nothing(
    reception: Reception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not acknowledged though the log has it: it comes again under the same id, which counts once."""
    taken = reception.site.store.received_signals

    def away(*_: object) -> None:
        raise Unavailable("the store is away")

    monkeypatch.setattr(taken, "add", away)
    answer = reception.send()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
    monkeypatch.undo()
    assert reception.send().status_code == 202
    assert len({record.id_hash for record in reception.site.logged()}) == 1
    assert taken.find_taken("idp", [signal_digest("jti-1"), signal_digest("jti-2")]) == {signal_digest("jti-1")}


def test_evidence_stays_evidence_over_a_crash(reception: Reception, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes again since it was not acknowledged has said it first, not again; another one has said it again."""

    def away(*_: object) -> None:
        raise Unavailable("the store is away")

    monkeypatch.setattr(reception.site.store.received_signals, "add", away)
    assert reception.send(REVOKED).status_code == 503
    monkeypatch.undo()
    assert reception.send(REVOKED).status_code == reception.send(REVOKED, 2).status_code == 202
    assert reception.types() == ["signal.evidence", "signal.note"]


REFUSED_CLAIMS: list[tuple[dict[str, Any], str]] = [
    ({"iss": "https://other.example"}, "invalid_issuer"),
    ({"aud": "somebody"}, "invalid_audience"),
    ({"aud": []}, "invalid_audience"),
    ({"aud": None}, "invalid_audience"),
    ({"jti": ""}, "invalid_request"),
    ({"jti": "\ud800"}, "invalid_request"),
    ({"jti": 7}, "invalid_request"),
    ({"iat": "now"}, "invalid_request"),
    ({"iat": True}, "invalid_request"),
    ({"iat": 1_764_004_000}, "invalid_request"),
    ({"events": {}}, "invalid_request"),
    ({"events": {COMPROMISED: {}, REVOKED: {}}}, "invalid_request"),
    ({"events": {COMPROMISED: "x"}}, "invalid_request"),
    ({"events": []}, "invalid_request"),
    ({"sub_id": "bot"}, "invalid_request"),
    ({"sub_id": {}}, "invalid_request"),
    *(({name: None}, "invalid_request") for name in ("jti", "iat", "events", "sub_id", "iss")),
]


def test_claims_that_are_refused(reception: Reception) -> None:
    """Each by the error that RFC 8935 has for it; nothing of it is kept. None leaves the claim out."""
    for change, err in REFUSED_CLAIMS:
        claims = {name: value for name, value in (reception.claims() | change).items() if value is not None}
        assert refused(reception.push(reception.transmitter.sign(claims))) == err, change
    assert reception.site.events() == []
    assert reception.outcomes == Counter(err for _, err in REFUSED_CLAIMS)


def test_signatures_that_are_refused(reception: Reception, tmp_path: Path) -> None:
    """Neither another key, nor none, nor a symmetric one, nor another type of token, nor one that was changed."""
    claims, sign = reception.claims(), reception.transmitter.sign
    token = sign(claims)
    head, body, signature = token.split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"secevent+jwt"}').rstrip(b"=").decode()
    changed = base64.urlsafe_b64encode(json.dumps(claims | {"jti": "x"}).encode()).rstrip(b"=").decode()
    stranger = ForeignTransmitter(tmp_path, kid="k2")
    for wrong, err in (
        (stranger.sign(claims), "invalid_key"),
        (stranger.sign(claims, kid="k1"), "invalid_key"),
        (f"{none}.{body}.", "invalid_key"),
        (f"{head}.{changed}.{signature}", "invalid_key"),
        (sign(claims, typ="JWT"), "invalid_request"),
        (sign(claims, typ="at+jwt"), "invalid_request"),
        (sign(claims, crit=["b64"], b64=True), "invalid_request"),
        (sign(claims, kid="x" * 300), "invalid_request"),
        (f"{head}.{body}", "invalid_request"),
        ("a.b.c.d.e", "invalid_request"),
        (b"\xff\xfe", "invalid_request"),
        ("x" * 70_000, "invalid_request"),
    ):
        assert refused(reception.push(wrong)) == err, wrong[:80]
    assert reception.site.events() == []
    assert reception.push(sign(claims, typ="application/secevent+jwt")).status_code == 202


def test_who_may_push(reception: Reception) -> None:
    """Only who has the secret of the transmitter, as a bearer credential, and says that it is a SET."""
    token = reception.transmitter.sign(reception.claims())
    assert refused(reception.push(token, "")) == "authentication_failed"
    assert refused(reception.push(token, "another-secret-of-somebody")) == "authentication_failed"
    assert refused(reception.push(token, "", authorization=f"Basic {SECRET}")) == "authentication_failed"
    assert refused(reception.push(token, content_type="application/json")) == "invalid_request"
    assert reception.site.client.get("/ssf/receive/idp").status_code == 405
    assert reception.site.client.post("/ssf/receive/other", content=token).status_code == 401
    assert reception.site.events() == []


def test_wrong_secrets_are_counted_and_told(reception: Reception, capsys: pytest.CaptureFixture[str]) -> None:
    """A line of the log without what was shown, and never more of them than one can read."""
    begun = time.monotonic()
    for _ in range(60):
        assert refused(reception.push(b"x", "another-secret-of-somebody")) == "authentication_failed"
    assert reception.outcomes == {"authentication_failed": 60}
    told = [line for line in capsys.readouterr().out.splitlines() if "push_refused" in line]
    assert "err=authentication_failed" in told[0]
    assert "transmitter=idp" in told[0]
    assert "another-secret" not in "".join(told)
    assert len(told) <= LINES_PER_S * (time.monotonic() - begun + 2)


def test_a_transmitter_that_is_only_polled_may_not_push(receive: Callable[..., Reception]) -> None:
    """Whatever it shows: access_denied."""
    reception = receive(push_secret=None, poll_url="http://127.0.0.1:9/poll")
    assert refused(reception.push(reception.transmitter.sign(reception.claims()))) == "access_denied"


def test_nothing_is_believed_beyond_what_a_transmitter_may_speak_for(receive: Callable[..., Reception]) -> None:
    """Other issuers, agents, tenants and event types, subjects that are no agent: acknowledged, counted, no more."""
    reception = receive(agents=("bot*",), events=(WISE + "*",))
    bot = {"format": "opaque", "id": "bot"}
    not_covered: list[dict[str, Any]] = [
        {"sub_id": {"format": "iss_sub", "iss": "https://evil.example", "sub": "bot"}},
        {"sub_id": {"format": "opaque", "id": "payer"}},
        {"sub_id": {"format": "complex", "application": bot, "tenant": {"format": "opaque", "id": "globex"}}},
        {"events": {REVOKED: {}}},
    ]
    for number, change in enumerate(not_covered):
        assert reception.send(number=number, **change).status_code == 202
    assert reception.outcomes == {"not_covered": 4}
    email = {"format": "email", "email": "ann@acme.example"}
    assert reception.send(number=10, sub_id=email).status_code == 202
    assert reception.send("https://other.example/event-type/new", 11).status_code == 202
    assert reception.send(WISE + "trust-anchor-revoked", 12, members={"trust_domain": "a\nb"}).status_code == 202
    assert reception.send(SSF + "verification", 13, sub_id={"format": "opaque", "id": "stream"}).status_code == 202
    assert reception.outcomes == {"not_covered": 4, "no_agent": 2, "unknown_type": 1, "stream": 1}
    assert reception.site.events() == []
    assert reception.send(number=14, sub_id=bot).status_code == 202
    assert [event["agent"] for event in reception.site.events()] == [{"id": "bot", "issuer": "https://as.example"}]


def test_of_aliases_the_one_that_is_covered_counts(reception: Reception) -> None:
    """All are names of the same agent: one that the transmitter may not speak for hides none."""
    user = {"format": "iss_sub", "iss": "https://idp.example", "sub": "user-7"}
    bot = {"format": "iss_sub", "iss": "https://as.example", "sub": "bot"}
    reception.send(sub_id={"format": "aliases", "identifiers": [user, bot]})
    reception.send(number=2, sub_id={"format": "complex", "application": user, "agent": bot})
    reception.send(number=3, sub_id={"format": "aliases", "identifiers": [user]})
    assert [event["agent"]["id"] for event in reception.site.events()] == ["bot", "bot"]
    assert reception.outcomes == {"hard": 2, "not_covered": 1}


def test_agents_that_a_transmitter_names_otherwise(receive: Callable[..., Reception]) -> None:
    """As Keycloak its service accounts: the settings say who they are, and `agents` that nobody else is taken."""
    uuid = "77bfe22c-6a5e-4c1c-9d3c-0d5f0f6a2b11"
    reception = receive(subjects={uuid: "bot"}, agents=("bot",))
    reception.send(sub_id={"format": "iss_sub", "iss": "https://as.example", "sub": uuid})
    reception.send(number=2, sub_id={"format": "iss_sub", "iss": "https://as.example", "sub": "a-person"})
    assert [event["agent"]["id"] for event in reception.site.events()] == ["bot"]
    assert reception.outcomes == {"hard": 1, "not_covered": 1}


def test_of_several_tenants_the_subject_names_one(receive: Callable[..., Reception]) -> None:
    """Without a name it could be anybody's agent."""
    reception = receive(tenants=("acme", "globex"))
    application = {"format": "iss_sub", "iss": "https://as.example", "sub": "bot"}
    named = {"format": "complex", "application": application, "tenant": {"format": "opaque", "id": "globex"}}
    reception.send(number=1)
    reception.send(number=2, sub_id=named)
    assert [event["tenant"] for event in reception.site.events()] == ["globex"]
    assert reception.outcomes == {"not_covered": 1, "hard": 1}


def test_evidence_counts_once_a_day(reception: Reception) -> None:
    """Said again it is on record alone, in the same batch or later, and of the same agent; a day later it counts."""
    reception.send(REVOKED, 1)
    reception.send(REVOKED, 2)
    reception.send(CAEP + "device-compliance-change", 3, members={"current_status": "not-compliant"})
    reception.send(REVOKED, 4, sub_id={"format": "opaque", "id": "other"})
    assert reception.types() == ["signal.evidence", "signal.note", "signal.evidence", "signal.evidence"]
    reception.site.clock.now += DAY_S + 1
    reception.send(REVOKED, 5)
    assert reception.types()[-1] == "signal.evidence"
    assert reception.outcomes == {"evidence": 4, "repeated": 1}


def test_evidence_that_comes_at_the_same_time_counts_once(reception: Reception) -> None:
    """Of pushes that are judged beside each other one is evidence, whichever."""
    receiver = reception.receiver
    tokens = [reception.transmitter.sign(reception.claims(REVOKED, number)).encode() for number in range(4)]

    async def push_all() -> list[Any]:
        return await asyncio.gather(*(receiver.take(receiver.transmitters["idp"], [token]) for token in tokens))

    assert reception.site.wait(push_all()) == [[None]] * 4
    assert Counter(reception.types()) == {"signal.evidence": 1, "signal.note": 3}
    assert reception.outcomes == {"evidence": 1, "repeated": 3}


def test_old_signals_are_on_record_alone(reception: Reception) -> None:
    """A SET that is older than `MAX_AGE_S` restricts nobody: identifiers are remembered no longer than that."""
    old = int(reception.site.clock.now) - 3 * DAY_S - 1
    assert reception.send(iat=old).status_code == 202
    assert (reception.types(), reception.outcomes) == (["signal.note"], {"stale": 1})


def test_memory_is_bounded(receive: Callable[..., Reception], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has said so much has to wait (429), but for compromises; what is too old is forgotten, and there is room."""
    monkeypatch.setattr(signal_receiver, "MAX_REMEMBERED", 100)
    monkeypatch.setattr(signal_receiver, "MAX_AGE_S", 60.0)
    reception = receive()
    for number in range(100):
        assert reception.send(CAEP + "session-established", number).status_code == 202
    answer = reception.send(REVOKED, number=900)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "300")
    assert reception.send(number=901).status_code == 202
    assert reception.send("https://other.example/x", 902).status_code == 202
    for number in range(101, 200):
        assert reception.send(number=1_000 + number).status_code == 202
    assert reception.send(number=2_000).status_code == 429
    reception.site.clock.now += 120
    reception.site.wait(reception.receiver.look_after_memory())
    assert reception.send(number=2_000).status_code == 202
    assert reception.site.store.received_signals.count_taken() == {"idp": 1}


def test_noise_fills_no_memory(receive: Callable[..., Reception], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is about nobody here, of no known type or not covered is not remembered: a repeat has no effect either."""
    monkeypatch.setattr(signal_receiver, "MAX_REMEMBERED", 100)
    reception = receive()
    email = {"format": "email", "email": "ann@acme.example"}
    for number in range(60):
        assert reception.send(CAEP + "session-established", number, sub_id=email).status_code == 202
        assert reception.send("https://other.example/x", 100 + number).status_code == 202
    assert reception.site.store.received_signals.count_taken() == {}
    assert reception.send(REVOKED, number=900).status_code == 202


def test_a_clock_that_is_ahead_costs_no_set(reception: Reception) -> None:
    """503 within the hour: it comes again, and is right by then; further ahead it is refused."""
    token = reception.transmitter.sign(reception.claims(iat=int(reception.site.clock.now) + 90))
    assert reception.push(token).status_code == 503
    reception.site.clock.now += 61
    assert reception.push(token).status_code == 202
    assert refused(reception.send(number=2, iat=int(reception.site.clock.now) + 4_000)) == "invalid_request"


def test_keys_that_can_not_be_had(receive: Callable[..., Reception], tmp_path: Path) -> None:
    """503: the transmitter tries again later, and loses nothing; with the keys it is taken."""
    keys = tmp_path / "later.json"
    reception = receive(jwks_file=keys)
    assert reception.send().status_code == 503
    keys.write_bytes(reception.transmitter.jwks.read_bytes())
    reception.site.clock.now += 60
    assert reception.send().status_code == 202


def test_a_new_key_that_can_not_be_fetched_costs_no_set(reception: Reception, tmp_path: Path) -> None:
    """503 while the fetch fails, and until the next one may begin: only keys that were fetched since the SET came say
    that its key is nobody's."""
    keys, clock = reception.transmitter.jwks, reception.site.clock
    published = keys.read_bytes()
    successor = ForeignTransmitter(tmp_path, kid="k2")
    token = successor.sign(reception.claims())
    keys.unlink()
    for later_s in (60, 0.5):
        clock.now += later_s
        answer = reception.push(token)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
    assert reception.send(number=2).status_code == 202
    keys.write_bytes(published)
    assert reception.push(token).status_code == 503
    clock.now += 60
    assert refused(reception.push(token)) == "invalid_key"
    keys.write_bytes(successor.jwks.read_bytes())
    clock.now += 0.5
    assert reception.push(token).status_code == 503
    clock.now += 60
    assert reception.push(token).status_code == 202
    assert reception.outcomes == {"hard": 2, "invalid_key": 1}


def test_a_key_that_is_replaced_under_its_name_costs_no_set(reception: Reception, tmp_path: Path) -> None:
    """The keys are fetched once more where a signature fails, no more often than they may be; then it is judged."""
    clock = reception.site.clock
    for name in ("new", "forger"):
        (tmp_path / name).mkdir()
    successor = ForeignTransmitter(tmp_path / "new")
    token, of_old = successor.sign(reception.claims()), reception.transmitter.sign(reception.claims(number=2))
    assert reception.push(of_old).status_code == 202
    reception.transmitter.jwks.write_bytes(successor.jwks.read_bytes())
    clock.now += 0.5
    answer = reception.push(token)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "10"), "fetched a moment ago: not yet again"
    clock.now += 60
    assert reception.push(token).status_code == 202
    forged = ForeignTransmitter(tmp_path / "forger").sign(reception.claims(number=3))
    clock.now += 60
    assert refused(reception.push(forged)) == "invalid_key"
    assert reception.outcomes == {"hard": 2, "invalid_key": 1}


def test_one_wrong_set_puts_no_other_off(reception: Reception, tmp_path: Path) -> None:
    """As the conformance suite sends them, a second apart: each is refused by its own code, none put off."""
    stranger = ForeignTransmitter(tmp_path, kid="k2")
    forged = stranger.sign(reception.claims(), kid="k1")
    for wrong in (forged, stranger.sign(reception.claims(number=2)), forged):
        reception.site.clock.now += 1
        assert refused(reception.push(wrong)) == "invalid_key"
    assert reception.send(number=3).status_code == 202


def test_a_token_that_a_signal_revokes_is_named(reception: Reception) -> None:
    """By the subject: its later use is a hard signal of the engine's. So is each token of what is said again the same
    day; but not one of a signal that is too old to count, or that revokes nothing."""

    def subject(token: str) -> dict[str, Any]:
        return {
            "format": "complex",
            "application": {"format": "iss_sub", "iss": "https://as.example", "sub": "bot"},
            "user": {"format": "iss_sub", "iss": "https://as.example", "sub": "ann"},
            "token": {"format": "jwt_id", "iss": "https://as.example", "jti": token},
        }

    reception.send(REVOKED, 1, sub_id=subject("t1"))
    reception.send(REVOKED, 2, sub_id=subject("t2"))
    reception.send(REVOKED, 3, sub_id=subject("t3"), iat=int(reception.site.clock.now) - 3 * DAY_S - 1)
    reception.send(CAEP + "session-established", 4, sub_id=subject("t4"))
    events = reception.site.events()
    assert [event["type"] for event in events] == ["signal.evidence", *["signal.note"] * 3]
    assert [event.get("credential") for event in events] == [
        *({"token_id": token_id_digest(token)} for token in ("t1", "t2")),
        None,
        None,
    ]
    assert events[0]["principal"] == {"id": "ann"}
