"""Settings of shared signals: allowed hosts, and conflicts."""

from __future__ import annotations

import re
from typing import Any

import pytest

from trustwatch.api.settings.access_settings import CallerSettings, KafkaSettings, ProofSettings
from trustwatch.api.settings.enforcement_settings import GatewaySettings
from trustwatch.api.settings.root import Settings
from trustwatch.api.settings.service_settings import ListenSettings
from trustwatch.api.settings.shared_signals_settings import SharedSignalsSettings, SignalTransmitterSettings
from trustwatch.ingest.settings import Secret


@pytest.mark.parametrize(
    ("url", "may"),
    [
        ("https://rp.example/events", True),
        ("https://RP.example:8443/events", True),
        ("https://a.partner.example/", True),
        ("http://127.0.0.1:9/events", True),
        ("http://rp.example/events", False),
        ("https://partner.example/", False),
        ("https://evil-partner.example/", False),
        ("https://rp.example.evil.example/", False),
        ("https://rp.example@evil.example/", False),
        ("https://169.254.169.254/", False),
        ("https://[::1]/", False),
        ("file:///etc/passwd", False),
        ("", False),
        ("https://[", False),
    ],
)
def test_hosts_of_receivers(url: str, may: bool) -> None:
    settings = SharedSignalsSettings(push_hosts=("rp.example", "*.partner.example", "127.0.0.1"))

    assert settings.may_push_to(url) == may
    assert not SharedSignalsSettings().may_push_to(url)


@pytest.mark.parametrize("issuer", ["http://rp.example", "https://rp.example/", "https://rp.example?x=1", "rp.example"])
def test_issuers_that_can_not_be(issuer: str) -> None:
    with pytest.raises(ValueError, match="`issuer`"):
        SharedSignalsSettings(issuer=issuer)


def test_several_machines_need_one_folder_of_keys() -> None:
    kafka = KafkaSettings(bootstrap_servers=("127.0.0.1:9",))
    with pytest.raises(ValueError, match="key_dir"):
        Settings(kafka=kafka, shared_signals=SharedSignalsSettings(enabled=True))
    assert Settings(kafka=kafka, shared_signals=SharedSignalsSettings()).distributed


def test_audiences_are_those_of_callers() -> None:
    caller = CallerSettings(name="soc", client_id="soc", tenants=("acme",), issuers=("*",))
    with pytest.raises(ValueError, match="'sox'"):
        Settings(callers=(caller,), shared_signals=SharedSignalsSettings(audiences={"sox": "https://soc.example"}))


TRANSMITTER: dict[str, Any] = {
    "name": "idp",
    "issuer": "https://idp.example",
    "audiences": ("us",),
    "tenants": ("acme",),
    "jwks_uri": "https://idp.example/jwks",
    "push_secret": Secret("a-secret-of-many-characters"),
}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"push_secret": None}, "a `push_secret`, a `poll_url` or both"),
        ({"push_secret": Secret("short")}, "at least 16 printable"),
        ({"poll_url": "http://idp.example/poll"}, "`poll_url` must be an https URL"),
        ({"jwks_uri": None}, "either `jwks_uri` or `jwks_file`"),
    ],
)
def test_transmitters_that_can_not_be(given: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        SignalTransmitterSettings(**(TRANSMITTER | given))


def test_transmitters_have_names_and_issuers_of_their_own() -> None:
    one = SignalTransmitterSettings(**TRANSMITTER)
    for other in ({"name": "other"}, {"issuer": "https://other.example"}):
        with pytest.raises(ValueError, match="different names and issuers"):
            SharedSignalsSettings(transmitters=(one, SignalTransmitterSettings(**(TRANSMITTER | other))))
    for issuer, listen in (
        ("https://idp.example", ListenSettings()),
        (None, ListenSettings(public_url="https://idp.example")),
    ):
        part = SharedSignalsSettings(enabled=True, issuer=issuer, transmitters=(one,))
        with pytest.raises(ValueError, match="is our own"):
            Settings(shared_signals=part, listen=listen)


def test_proofs_that_can_not_be_checked() -> None:
    with pytest.raises(ValueError, match="certificate_header"):
        Settings(gateway=GatewaySettings(mtls="verify"))
    with pytest.raises(ValueError, match="is not a network"):
        ProofSettings(trusted_proxies=("proxy.example",))
