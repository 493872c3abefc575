"""Client certificates in place of tokens: whose they are, whose word on them counts, and what they may do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from trustwatch.api.http.auth.callers import ALL_SCOPES, AuthenticatedCaller
from trustwatch.api.http.auth.client_certificates import CertificateCallers, InvalidCertificate
from trustwatch.api.http.auth.token_verification import LEEWAY_S, MissingToken
from trustwatch.api.http.problems import ProblemError
from trustwatch.api.http.separation_of_duties import agents_operated_by, check_not_own_agent, reviewer_of
from trustwatch.api.settings.access_settings import (
    CallerCertificateSettings,
    CallerScope,
    CallerSettings,
    ProofSettings,
    VerificationSettings,
)
from trustwatch.api.settings.root import Settings
from trustwatch.api.shared_signals.routes import SCOPE_WORDS as SSF_SCOPES
from trustwatch.scoring.records.agents import AgentName

from ....support.proofs import escaped_pem, make_certificate, x5t_of

HEADER = "x-client-cert"
NOW = 1_764_000_000.0
AS = "https://as.example"
SPIFFE = "spiffe://acme.example/ns/prod/sa/soc"
UNSAID = VerificationSettings(proofs=ProofSettings(certificate_header=HEADER))
VERIFICATION = VerificationSettings(proofs=ProofSettings(certificate_header=HEADER, trusted_proxies=("127.0.0.0/8",)))
SOC, GATEWAY = make_certificate("soc"), make_certificate("gateway")


def fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def known(*certificates: x509.Certificate, names: tuple[str, ...] = (), **more: Any) -> CallerCertificateSettings:
    given = {"scopes": ("trust.score:read",)} | more
    return CallerCertificateSettings(fingerprints=tuple(map(fingerprint, certificates)), names=names, **given)


CALLERS = (
    CallerSettings(name="soc", tenants=("acme",), certificate=known(SOC)),
    CallerSettings(
        name="gateway",
        client_id="gateway",
        tenants=("globex",),
        issuers=(AS,),
        agents=("self", "bot-*"),
        certificate=known(GATEWAY, names=("gw.acme.example",), scopes=("trust.ingest",)),
    ),
    CallerSettings(name="mesh", tenants=("acme",), certificate=known(names=(SPIFFE,))),
)


def caller_of(
    *headers: str, peer: str = "127.0.0.1", verification: VerificationSettings = VERIFICATION, **others: str
) -> AuthenticatedCaller:
    callers = CertificateCallers(CALLERS, [AS], verification, lambda: NOW)
    sent = [(HEADER.encode(), header.encode()) for header in headers]
    sent += [(name.replace("_", "-").encode(), value.encode()) for name, value in others.items()]
    return callers.caller_of({"headers": sent, "client": (peer, 4711)})


def refusal(*headers: str, **given: Any) -> str:
    with pytest.raises((InvalidCertificate, MissingToken)) as refused:
        caller_of(*headers, **given)
    return f"{type(refused.value).__name__}: {refused.value}"


def test_nobody_decides_about_itself_by_a_certificate() -> None:
    """A caller goes by the names of its certificate, too: one of them may be an agent's id."""
    caller = caller_of(escaped_pem(make_certificate("x", uris=(SPIFFE,), hosts=("soc.acme.example",))))
    assert caller.name == "mesh"
    assert agents_operated_by(reviewer_of(caller), ()) >= {SPIFFE, "soc.acme.example"}
    agent = AgentName(1, "acme", AS, SPIFFE)
    with pytest.raises(ProblemError, match="a caller cannot decide about itself"):
        check_not_own_agent(agent, reviewer_of(caller), ())


def test_by_fingerprint() -> None:
    """Itself, or its digest, in every form that proxies have; the caller is that of the settings, with its scopes."""
    digest = SOC.fingerprint(hashes.SHA256()).hex()
    for header in (escaped_pem(SOC), f"Hash={digest}", f'Hash={digest};Cert="{escaped_pem(SOC)}"'):
        caller = caller_of(header)
        assert (caller.name, caller.audience, set(caller.tenants)) == ("soc", "soc", {"acme"})
        assert caller.scopes == {"trust.score:read"}
    gateway = caller_of(escaped_pem(GATEWAY))
    assert (gateway.issuer, gateway.client_id, gateway.subject) == (AS, "gateway", "gateway")
    assert gateway.scopes == {"trust.ingest"}
    assert gateway.binding.may_speak_for("globex", AS, "gateway")
    assert gateway.binding.may_speak_for("globex", AS, "bot-7")
    assert not gateway.binding.may_speak_for("acme", AS, "bot-7")


@pytest.mark.parametrize(
    ("uris", "hosts", "expected"),
    [
        ((SPIFFE,), (), "mesh"),
        (("https://x.example/", SPIFFE), ("other.example",), "mesh"),
        ((), ("GW.acme.example",), "gateway"),
        ((SPIFFE + "/more",), (), "no caller of the settings"),
        ((SPIFFE.upper(),), (), "no caller of the settings"),
        ((), (SPIFFE,), "no caller of the settings"),
        (("gw.acme.example",), (), "no caller of the settings"),
        ((), ("*.acme.example",), "no caller of the settings"),
        ((SPIFFE,), ("gw.acme.example",), "of several callers"),
        ((), (), "no caller of the settings"),
    ],
    ids=["uri", "among-others", "host", "longer", "case", "uri-as-host", "host-as-uri", "wildcard", "two", "none"],
)
def test_by_name(uris: tuple[str, ...], hosts: tuple[str, ...], expected: str) -> None:
    """A SPIFFE ID or a DNS name, exactly, each in its own kind of SAN; the subject says nothing."""
    header = escaped_pem(make_certificate("gw.acme.example", uris, hosts))
    if " " in expected:
        assert expected in refusal(header)
    else:
        assert caller_of(header).name == expected


def test_a_name_that_stands_in_the_header_alone_says_nothing() -> None:
    """Envoy does not quote names: a certificate with a name of its owner's choice would be anybody's."""
    digest = make_certificate("thief").fingerprint(hashes.SHA256()).hex()
    assert "no caller of the settings" in refusal(f"Hash={digest};URI={SPIFFE};DNS=gw.acme.example")


def test_whose_word_counts() -> None:
    """One header, of the settings, from a proxy of the settings: else there is no certificate at all."""
    soc, inside = escaped_pem(SOC), ProofSettings(certificate_header=HEADER, trusted_proxies=("10.0.0.0/8",))
    verification = VerificationSettings(proofs=inside)
    assert caller_of(soc, peer="10.1.2.3", verification=verification).name == "soc"
    for refused in (
        refusal(soc, verification=verification),
        refusal(soc, peer="192.0.2.1"),
        refusal(soc, peer=""),
        refusal(soc, soc),
        refusal(soc, escaped_pem(GATEWAY)),
        refusal(),
        refusal("Hash=00"),
        refusal(x_forwarded_client_cert=soc),
        refusal(x_client_cert_=soc),
    ):
        assert refused.startswith("MissingToken: ")


def test_certificates_that_are_refused() -> None:
    """Of nobody, out of their time, and those that a browser shows for a page of others."""
    assert "no caller of the settings" in refusal(escaped_pem(make_certificate("soc")))
    assert "out of the time" in refusal(escaped_pem(make_certificate("mesh", (SPIFFE,), days=30)))
    young = x509_of_tomorrow()
    assert "out of the time" in refusal(escaped_pem(young))
    for browser in ({"origin": "https://evil.example"}, {"sec_fetch_site": "none"}):
        assert "browsers" in refusal(escaped_pem(SOC), **browser)


def x509_of_tomorrow() -> x509.Certificate:
    """One that counts for nothing yet, by the clock of these tests."""
    return make_certificate("mesh", (SPIFFE,), start_day=329)


def test_a_stream_ends_with_its_certificate() -> None:
    assert caller_of(escaped_pem(SOC)).exp == SOC.not_valid_after_utc.timestamp() + LEEWAY_S
    assert caller_of(f"Hash={SOC.fingerprint(hashes.SHA256()).hex()}").exp > 1e18


def test_every_scope_may_be_named() -> None:
    assert set(get_args(CallerScope)) == {*ALL_SCOPES, *SSF_SCOPES}


@pytest.mark.parametrize(
    ("callers", "verification", "why"),
    [
        ([{"certificate": known(SOC)}], VerificationSettings(), "certificate_header"),
        ([{"certificate": known(SOC)}], UNSAID, "trusted_proxies"),
        ([{"certificate": known(SOC)}, {"certificate": known(GATEWAY, SOC)}], VERIFICATION, r"callers\[0\]"),
        (
            [{"certificate": known(names=(SPIFFE,))}, {"certificate": known(SOC, names=(SPIFFE,))}],
            VERIFICATION,
            r"callers\[0\]",
        ),
        ([{}], VERIFICATION, "or a `certificate`"),
        ([{"certificate": known(SOC), "agents": ("self",), "issuers": (AS,)}], VERIFICATION, "names no agent"),
    ],
    ids=["no-header", "no-proxies", "same-fingerprint", "same-name", "nothing", "self"],
)
def test_settings_that_can_not_be(callers: list[dict[str, Any]], verification: VerificationSettings, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Settings(
            callers=tuple(CallerSettings(name=f"c{number}", **caller) for number, caller in enumerate(callers)),
            verification=verification,
        )


def test_callers_with_certificates_alone_need_no_issuer() -> None:
    callers = tuple(CallerSettings(name=name, certificate=known(cert)) for name, cert in (("a", SOC), ("b", GATEWAY)))
    assert len(Settings(callers=callers, verification=VERIFICATION).callers) == 2


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "needs `fingerprints` or `names`"),
        ({"fingerprints": ("ab:cd",)}, "is not a SHA-256"),
        ({"fingerprints": (fingerprint(SOC) + ":00",)}, "is not a SHA-256"),
        ({"names": ("*.acme.example",)}, "neither a SPIFFE ID"),
        ({"names": ("GW.acme.example",)}, "lower-case"),
        ({"names": ("spiffe://acme.example",)}, "neither a SPIFFE ID"),
    ],
    ids=["nothing", "short", "long", "wildcard", "capitals", "trust-domain"],
)
def test_certificates_that_name_nobody(given: dict[str, Any], why: str) -> None:
    """Neither nothing, nor a whole domain, nor what could never be found in a certificate."""
    with pytest.raises(ValueError, match=why):
        CallerCertificateSettings(scopes=("trust.admin",), **given)


def test_over_http(
    new_site: Callable[..., Any],
    summary: Callable[..., Any],
    event: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Reads and events of its tenants, by its scopes; a token beside a certificate is judged alone."""
    sender = CallerSettings(
        name="sender", tenants=("acme",), issuers=(AS,), certificate=known(GATEWAY, scopes=("trust.ingest",))
    )
    reader = CallerSettings(name="soc", client_id="soc", tenants=("acme",), certificate=known(SOC))
    site = new_site(callers=(sender, reader), verification=VERIFICATION)
    site.report([summary(), summary("other", tenant="globex")])
    soc, gateway = {HEADER: escaped_pem(SOC)}, {HEADER: escaped_pem(GATEWAY)}

    def risk(agent: str = "bot", **headers: Any) -> Any:
        return site.client.get(f"/v1/agents/{agent}/risk", headers=headers.pop("given", {}) | headers)

    assert risk(given=soc).json()["risk_level"] == "high"
    assert risk("other", given=soc).json()["risk_level"] == "unknown"
    assert risk(given=gateway).json()["code"] == "insufficient_scope"
    assert site.client.get("/v1/decisions", headers=soc).status_code == 200
    missing, stranger = risk(), risk(given={HEADER: escaped_pem(make_certificate("soc"))})
    assert (missing.status_code, stranger.status_code) == (401, 401)
    assert missing.headers["www-authenticate"] == 'Bearer realm="trustwatch"'
    assert stranger.json()["detail"] == "no caller of the settings has this client certificate"
    assert risk(given=gateway, authorization=f"Bearer {site.token('soc')}").status_code == 200
    assert risk(given=soc, authorization=f"Bearer {site.token('stranger')}").status_code in (403, 404)
    assert risk(given=soc, authorization="Bearer x.y.z").status_code == 401
    assert risk(given=soc, authorization="Basic Og==").status_code == 401
    sent = site.client.post("/v1/events", json=[event()], headers=gateway)
    assert (sent.status_code, site.events()[0]["agent"]["id"]) == (202, "bot")
    assert site.client.post("/v1/events", json=[event(1)], headers=soc).status_code == 403
    assert "CERTIFICATE" not in str(site.events())
    kept = b"".join(path.read_bytes() for path in site.settings.data_dir.rglob("*") if path.is_file())
    kept += capsys.readouterr().out.encode()
    shown = [escaped_pem(SOC), escaped_pem(GATEWAY), fingerprint(SOC), x5t_of(SOC), x5t_of(GATEWAY)]
    assert [text for text in shown if text[-90:].encode() in kept] == []
