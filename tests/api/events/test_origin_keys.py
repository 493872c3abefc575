"""Origins at the door; their keys: one for all of a tenant, another for everybody else, changed by time and order."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from trustwatch.api.events.origin_keys import MAX_VALIDITY_S, PERIOD_S, OriginKeyIssuer, open_shared_secret
from trustwatch.api.settings.access_settings import KafkaSettings
from trustwatch.api.settings.root import Settings
from trustwatch.api.settings.service_settings import PrivacySettings
from trustwatch.ingest.errors import ConfigError, Unavailable
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.identities import PrivacyKey, open_privacy_key
from trustwatch_client.events import Argument

SECRET = PrivacyKey(b"s" * 32)
START = 200 * PERIOD_S + 1_000.0


def issuer(now: float = START, secret: PrivacyKey = SECRET, **settings: int) -> OriginKeyIssuer:
    return OriginKeyIssuer(lambda: secret, PrivacySettings(**settings), lambda: now)


def test_a_key_belongs_to_a_tenant_a_period_a_generation_and_an_installation() -> None:
    """Each of them gives another key; the same of all gives the same, also after a restart."""
    keys = [
        issuer().issue("acme"),
        issuer().issue("globex"),
        issuer(START + PERIOD_S).issue("acme"),
        issuer(origin_key_generation=1).issue("acme"),
        issuer(secret=PrivacyKey(b"t" * 32)).issue("acme"),
    ]

    assert len({key.key for key in keys}) == len(keys)
    assert all(re.fullmatch("[0-9a-f]{64}", key.key) for key in keys)
    assert issuer(START + 5).issue("acme")[:2] == keys[0][:2]


def test_no_two_tenants_share_a_key_by_their_names() -> None:
    """Whatever a tenant is called, it names no other one's period."""
    names = ["a", "1:a", "0:200:a", "a\0", "", "*"]

    assert len({issuer().issue(name).key for name in names}) == len(names)


def test_it_expires_within_the_hour_and_when_the_period_ends() -> None:
    assert issuer().issue("acme").expires_at == START + MAX_VALIDITY_S
    late = issuer(201 * PERIOD_S - 60.0).issue("acme")
    assert (late.epoch, late.expires_at) == (200, 201 * PERIOD_S)


def test_a_key_of_pseudonyms_that_can_not_be_read_is_told_and_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "privacy-key"
    path.write_text("ab" * 32)
    path.chmod(0o644)
    keys = OriginKeyIssuer(lambda: open_privacy_key(path), PrivacySettings(), lambda: START)

    with pytest.raises(Unavailable):
        keys.issue("acme")
    with pytest.raises(ConfigError, match="0600"):
        open_privacy_key(path)
    path.chmod(0o600)
    assert keys.issue("acme").epoch == 200


def test_processes_that_would_derive_other_keys_issue_none(tmp_path: Path) -> None:
    """With Kafka the key of pseudonyms must be one file for all of them."""
    one = KafkaSettings(bootstrap_servers=("127.0.0.1:9092",))
    shared = PrivacySettings(key_file=tmp_path / "shared-key")

    with pytest.raises(ConfigError, match=r"privacy\.key_file is not set"):
        open_shared_secret(Settings(data_dir=tmp_path, kafka=one))
    keys = [
        open_shared_secret(Settings(data_dir=tmp_path / name, kafka=one, privacy=shared)).origin_key("acme", 1, 0)
        for name in ("a", "b")
    ]
    assert keys[0] == keys[1]
    assert open_shared_secret(Settings(data_dir=tmp_path)).origin_key("acme", 1, 0) != keys[0]


def test_a_caller_gets_the_keys_of_its_tenants_alone(site: Any) -> None:
    """And needs the scope of those who send events."""
    ours = site.client.get("/v1/origin-key", headers=site.auth("gateway"))
    theirs = site.client.get("/v1/origin-key?tenant=globex", headers=site.auth("globex"))

    assert (ours.status_code, ours.json()["tenant"]) == (200, "acme")
    assert ours.headers["cache-control"] == "no-store"
    assert set(ours.json()) == {"tenant", "key", "epoch", "expires_at"}
    assert theirs.json()["key"] != ours.json()["key"]
    for name, tenant in (("gateway", "globex"), ("globex", "acme")):
        refused = site.client.get(f"/v1/origin-key?tenant={tenant}", headers=site.auth(name))
        assert (refused.status_code, refused.json()["code"]) == (403, "tenant_not_allowed")
        assert "key" not in refused.json()


def test_it_takes_the_scope_of_senders(site: Any) -> None:
    refused = site.client.get("/v1/origin-key", headers=site.auth("gateway", "trust.score:read", "trust.admin"))

    assert (refused.status_code, refused.json()["scope"]) == (403, "trust.ingest")
    assert site.client.get("/v1/origin-key").status_code == 401


ARGUMENT = {"name": "to", "origin": "tool", "hash": "39e505e56acc", "from": 1, "from_action": "read_mail", "part": True}


@pytest.mark.parametrize("kept", [{}, {"tenant": None}, {"agent_issuer": None}])
def test_the_door_takes_origins_and_keeps_them(site: Any, event: Any, kept: dict[str, Any]) -> None:
    """Also where it fills in what the sender left out, and writes the record anew."""
    sent = event(arguments=[ARGUMENT], untrusted_result=True, **kept)

    assert site.send(sent).status_code == 202

    (record,) = site.logged()
    logged = decode_event(record.payload)
    assert logged.arguments == [Argument("to", "tool", "39e505e56acc", 1, "read_mail", part=True)]
    assert logged.untrusted_result is True


def test_the_door_refuses_a_wrong_member_and_passes_a_wrong_attribute_over(site: Any, event: Any) -> None:
    """Each record for itself; what was sent as a hash is not repeated."""
    wrong = {**ARGUMENT, "hash": "mallory@books.example"}

    answer = site.send([event(1, arguments=[wrong]), event(2, attributes={"arguments": [wrong]}), event(3)])

    receipt = answer.json()
    assert (receipt["accepted"], receipt["rejected"]) == (2, 1)
    assert receipt["rejections"][0]["path"] == "$.arguments[0].hash"
    assert "never the value" in receipt["rejections"][0]["reason"]
    assert "mallory" not in answer.text
