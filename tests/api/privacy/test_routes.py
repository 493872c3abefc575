"""Erasures, exports, pseudonyms and the chain of decisions, over real HTTP; the pipeline is played by the test."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from trustwatch.api.privacy.service import MAX_ROUNDS
from trustwatch.api.settings.service_settings import PrivacySettings
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.source import RecordKind
from trustwatch.scoring.records.agents import AgentEdge, AgentName, AgentRow
from trustwatch.scoring.records.commits import Commit, OutboxRow, Position
from trustwatch.scoring.records.containment import Actuation
from trustwatch.scoring.records.dead_letters import DeadLetter
from trustwatch.scoring.records.decisions import Decision, RiskReason
from trustwatch.scoring.records.erasures import EraseCommand
from trustwatch.scoring.store.outbox_store import DeliveryRoute

AS = "https://as.example"
NOW_MS = 1_764_000_000_000
BOT = AgentName(IdentityHasher().agent_key("acme", AS, "bot"), "acme", AS, "bot")
WISH = {"agent": "bot", "tenant": "acme", "issuer": AS, "reason": "bot was retired"}


def row(name: AgentName) -> AgentRow:
    return AgentRow(
        name, "X", 1, 0.2, 0.5, 0.1, 1, 1, 1, 0, 3, "", b"[]", "", features=b"features", risk=b"risk", state_version="v"
    )


def decision(number: int, name: AgentName, told: str) -> Decision:
    reason = RiskReason("first_seen", "rarity", told, "42", 0.4, f"first use of {told}")
    levels, figures = (1, 3), (0.9, 0.8, 0.7, 0.1)
    how = (reason,), "", {"pace": 1.5}, {}, "m", "b", "p", "enforce", "event", 0, number
    return Decision(f"D{number}", name, "X", NOW_MS + number, "e", NOW_MS, *levels, *figures, *how)


def committed(site: Any, offset: int, forgotten: list[int] | None = None, **more: Any) -> None:
    """What the pipeline would commit, and report."""
    at = site.store.partitions.position(0)
    at = at if at.epoch else site.store.partitions.claim(0)
    given = {"agents": [], "decisions": [], "outbox": [], "dead_letters": []} | more
    site.store.commit(Commit(at, Position(0, at.epoch, offset), removed_agents=forgotten or [], **given))
    site.report(list(site.store.agents.iterate()), offset=offset)


@pytest.fixture
def known(site: Any, event: Callable[..., Any]) -> Any:
    """A service that knows two agents, a person, and what they did."""
    person = {"principal": {"id": "ann@acme.example", "type": "user"}}
    site.send([event(1, **person), event(2), event(3, agent_id="other", peer="bot"), event(4, agent_id="other")])
    other = AgentName(IdentityHasher().agent_key("acme", AS, "other"), "acme", AS, "other")
    committed(
        site,
        4,
        agents=[row(BOT), row(other)],
        decisions=[decision(1, BOT, "x"), decision(2, other, "bot")],
        edges=[AgentEdge("acme", AS, "acts_for", "bot", "ann@acme.example", NOW_MS, NOW_MS)],
        dead_letters=[DeadLetter("L1", NOW_MS, "gateway", "bad", "$", b'{"agent": "bot"', 0, 0)],
    )
    return site


def post(site: Any, path: str, body: Any, client: str = "all", *scopes: str) -> Any:
    return site.client.post(path, json=body, headers=site.auth(client, *scopes))


def carried_out(site: Any, erasure_id: str) -> Any:
    """Let the desk work, and play the pipeline."""

    async def keep() -> None:
        stop = asyncio.Event()
        task = asyncio.create_task(site.erasures.run(stop))
        for _ in range(400):
            await asyncio.sleep(0.02)
            made = await asyncio.to_thread(site.store.erasures.get, erasure_id)
            if made.status == "waiting" and site.store.partitions.position(0).offset <= made.at_offset:
                order = msgspec.json.decode(site.logged(RecordKind.FORGET)[-1].payload, type=EraseCommand)
                gone, end = [site.store.identities.agent_key(*order.subject.agent_identity)], site.event_log.next_offset
                asyncio.get_running_loop().run_in_executor(None, committed, site, end, gone)
            if made.status in ("done", "failed"):
                break
        stop.set()
        await task

    site.wait(keep())
    return site.get(f"/v1/privacy/erasures/{erasure_id}").json()


def test_an_agent_is_erased_with_a_proof(known: Any) -> None:
    """From the wish to the proof, which verifies, and is about that agent alone."""
    made = post(known, "/v1/privacy/erasures", WISH)
    again = post(known, "/v1/privacy/erasures", WISH)
    told = carried_out(known, made.json()["erasure_id"])
    proof = {"proof": told["proof"], "subject": "bot"}
    path = f"/v1/privacy/erasures/{told['erasure_id']}/verify"

    assert made.status_code == 202
    assert again.json()["erasure_id"] == made.json()["erasure_id"]
    assert told["status"] == "done"
    assert told["subject"] is None
    assert told["reason"].endswith("was retired")
    assert told["reason"].startswith("erased~")
    assert told["document"]["left"] == {}
    assert [head["sequence"] for head in told["document"]["chain"]["after"]] == [2]
    assert {one["what"].split(" ")[0] for one in told["document"]["remains"]} >= {"tombstones", "64-bit", "back-ups,"}
    assert known.get("/v1/agents/bot/risk", issuer=AS).json()["risk_level"] == "unknown"
    assert known.logged(RecordKind.ERASED)[0].id_hash != 0
    assert not any("bot" in json.dumps(event) for event in known.events())
    right = {"signed": True, "same_subject": True, "nothing_left": True}
    assert post(known, path, proof).json() == {**right, "left": {}, "not_looked_at": []}
    assert post(known, path, proof | {"subject": "other"}).json()["same_subject"] is False
    assert post(known, path, proof | {"proof": told["proof"][:-8] + "AAAAAAAA"}).json()["signed"] is False
    chain = known.get("/v1/decisions/verify", "all").json()
    assert (chain["intact"], chain["erased"], chain["redacted"]) == (True, 1, 1)
    (listed,) = known.get("/v1/privacy/erasures").json()["items"]
    assert listed["proof"] is None


def test_what_comes_back_is_found(known: Any) -> None:
    """A proof is no promise: a look at it says what has come since, if it names the agent."""
    told = carried_out(known, post(known, "/v1/privacy/erasures", WISH).json()["erasure_id"])
    letter = DeadLetter("L9", NOW_MS, "gateway", "bad", "$", b"bot again", 0, 0)
    committed(known, known.event_log.next_offset + 0, dead_letters=[letter])
    body = {"proof": told["proof"], "subject": "bot"}
    found = post(known, f"/v1/privacy/erasures/{told['erasure_id']}/verify", body).json()

    assert found["nothing_left"] is False
    assert found["left"] == {"database.dead_letters": 1}


def test_a_walk_that_misses_something_is_repeated_and_then_fails(known: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It never says done while anything is found."""
    monkeypatch.setattr(known.store.subjects, "erase", lambda scope, *, dry=False: {"edges": 1} if dry else {})
    told = carried_out(known, post(known, "/v1/privacy/erasures", WISH).json()["erasure_id"])

    assert told["status"] == "failed"
    assert told["detail"] == "still found: database.edges 1"
    assert told["proof"] is None
    assert known.store.erasures.get(told["erasure_id"]).rounds == MAX_ROUNDS


def test_who_is_lowered_at_a_server_is_not_erased(known: Any) -> None:
    """What it had before is known here alone."""
    known.store.actuations.request(Actuation("kc", BOT, 1, b"{}", b"", "confirmed", 1, 1, 1, 1, ""))
    known.store.actuations.keep_original("kc", BOT, b"{}")
    answer = post(known, "/v1/privacy/erasures", WISH)

    assert answer.status_code == 409
    assert answer.json()["type"].endswith("erasure_refused")
    assert "kc" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("client", "scopes", "body", "status"),
    [
        ("all", ("trust.feedback",), WISH, 403),
        ("globex", (), WISH, 403),
        ("gateway", (), WISH, 403),
        ("all", (), {"reason": "x"}, 422),
        ("all", (), WISH | {"principal": "ann"}, 422),
        ("all", (), {"agent": "bot"}, 422),
        ("two", (), {"agent": "bot", "reason": "x"}, 403),
    ],
)
def test_who_may_erase_what(known: Any, client: str, scopes: tuple[str, ...], body: Any, status: int) -> None:
    """`trust.admin` of all tenants, since what it walks over belongs to all; one subject, and a reason."""
    assert post(known, "/v1/privacy/erasures", body, client, *scopes).status_code == status


@pytest.mark.parametrize(
    "word",
    [
        "time",
        "admin",
        "success",
        "agent",
        "text",
        "network",
        "not_tracked",
        "peer_group",
        "drift",
        "high",
        "enforce",
        "tick",
    ],
)
def test_nobody_is_erased_under_a_word_of_the_records(known: Any, word: str) -> None:
    """Taken out of records, it would leave none that can be read."""
    answer = post(known, "/v1/privacy/erasures", {"principal": word, "tenant": "acme", "reason": "x"})

    assert answer.status_code == 409
    assert "is a word of events or of our own records" in answer.json()["detail"]


def test_erasures_of_other_tenants_are_not_seen(known: Any) -> None:
    """Neither in lists nor one by one."""
    made = post(known, "/v1/privacy/erasures", WISH).json()

    assert known.get("/v1/privacy/erasures", "globex").json()["items"] == []
    assert known.get(f"/v1/privacy/erasures/{made['erasure_id']}", "globex").status_code == 404
    assert known.get("/v1/privacy/erasures/no-such").status_code == 404


def unpacked(answer: Any) -> dict[str, list[Any]]:
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        return {name: [json.loads(line) for line in archive.read(name).splitlines()] for name in archive.namelist()}


def test_an_export_has_everything_about_one_agent(known: Any) -> None:
    """Every part with its number of lines and digest, for a caller of all tenants; nothing of others."""
    answer = known.get("/v1/agents/bot/export", "all", tenant="acme", issuer=AS)
    found = unpacked(answer)
    (manifest,) = found.pop("manifest.json")

    assert answer.headers["content-type"] == "application/zip"
    assert [event["id"] for event in found["events.jsonl"]] == ["evt-1", "evt-2"]
    assert [(one["decision_id"], one["chain_sequence"]) for one in found["decisions.jsonl"]] == [("D1", 1)]
    assert found["decisions.jsonl"][0]["reasons"][0]["observed"] == "x"
    assert found["edges.jsonl"][0]["target"] == "ann@acme.example"
    assert found["dead_letters.jsonl"][0]["letter_id"] == "L1"
    assert found["agent.json"][0]["known"] is True
    assert "other" not in json.dumps(found["events.jsonl"] + found["decisions.jsonl"])
    assert manifest["files"].keys() == found.keys()
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        for name, told in manifest["files"].items():
            assert told == {"lines": len(found[name]), "sha256": hashlib.sha256(archive.read(name)).hexdigest()}
    assert manifest["chain"][0]["sequence"] == 2


def test_exports_stay_within_tenants(known: Any) -> None:
    """Another tenant's caller is refused; others' letters are left out; who was never seen has an empty one."""
    assert known.get("/v1/agents/bot/export", "globex", tenant="acme", issuer=AS).status_code == 403
    assert "dead_letters.jsonl" not in unpacked(known.get("/v1/agents/bot/export", "trusted", issuer=AS))
    nobody = unpacked(known.get("/v1/agents/nobody/export", issuer=AS))
    assert nobody["agent.json"][0]["known"] is False
    assert nobody["events.jsonl"] == []


def test_a_tenants_export_reveals_nothing_about_the_deployment(known: Any) -> None:
    """Where targets are and how they fail, how much there is of all tenants, what runs: that is the operator's."""
    outbox = [OutboxRow("alert-D1", "alert", "", b"{}", NOW_MS, BOT.key, "up", 3, "acme")]
    committed(known, 4, outbox=outbox)
    known.store.outbox.route([DeliveryRoute("soc-target", "alert", frozenset(range(5)), 0)], NOW_MS)
    failed = "no answer of https://kc.internal:8443"
    known.store.actuations.request(Actuation("kc-target", BOT, 1, b"{}", b"", "failed", NOW_MS, 0, 0, NOW_MS, failed))

    of_all = unpacked(known.get("/v1/agents/bot/export", "all", tenant="acme", issuer=AS))
    of_tenant = unpacked(known.get("/v1/agents/bot/export", "trusted", issuer=AS))
    telling = {"partition", "offset", "seq", "chain_sequence", "software", "chain", "state_version"}
    members = {name for rows in of_tenant.values() for row in rows for name in row}

    assert all(word in json.dumps(of_all) for word in ("soc-target", "kc-target", "kc.internal", *telling))
    assert not any(word in json.dumps(of_tenant) for word in ("soc-target", "kc-target", "kc.internal"))
    assert not members & telling
    assert of_tenant.keys() == of_all.keys() - {"dead_letters.jsonl"}
    assert of_tenant["edges.jsonl"] == of_all["edges.jsonl"]
    assert of_tenant["events.jsonl"] == of_all["events.jsonl"]


def test_principals_under_pseudonyms(new_site: Any, event: Callable[..., Any]) -> None:
    """From the door on; every other member stays as it was sent; who asks by the real name is answered."""
    site = new_site(privacy=PrivacySettings(pseudonymise_principals=True))
    sent = event(1, principal={"id": "ann@acme.example", "type": "user", "more": 1}, unknown={"a": 1})
    site.send([sent, event(2)])
    first, second = site.events()
    known = first["principal"]["id"]
    committed(site, 2, edges=[AgentEdge("acme", AS, "acts_for", "bot", known, NOW_MS, NOW_MS)])
    asked = site.get("/v1/principals/ann@acme.example/risk", tenant="acme", issuer=AS, days=3650)

    assert known.startswith("p~")
    assert len(known) == 34
    assert first["principal"] == {"id": known, "type": "user", "more": 1}
    assert first["unknown"] == {"a": 1}
    assert "principal" not in second
    assert b"ann@" not in b"".join(path.read_bytes() for path in (site.settings.data_dir / "log").iterdir())
    assert asked.json()["agents"][0]["agent_id"] == "bot"
    assert asked.json()["principal_id"] == "ann@acme.example"
    wish = {"principal": "ann@acme.example", "tenant": "acme", "reason": "asked"}
    assert post(site, "/v1/privacy/erasures", wish).json()["subject"] == known
    assert post(site, "/v1/privacy/erasures", wish | {"as_named": True}).json()["subject"] == "ann@acme.example"
