"""Proofs of possession: each check of RFC 9449 and RFC 8705 by itself, and the bounds of what is remembered."""

from __future__ import annotations

import base64
import json
from collections import Counter
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from trustwatch.api.http.auth import proof_of_possession
from trustwatch.api.http.auth.proof_of_possession import NONCE_S, ProofRefused, ProofVerifier, ShownProof, normal_url
from trustwatch.api.http.auth.token_verification import (
    UNBOUND,
    InvalidToken,
    TokenBinding,
    key_thumbprint,
    read_binding,
)
from trustwatch.api.settings.access_settings import ProofSettings

from ....support.proofs import DpopClient, base64url, make_certificate, x5t_of

NOW = 1_764_000_000.0
URL = "https://api.example/orders"
TOKEN = "a.b.c"
CLIENT, STRANGER = DpopClient(), DpopClient()
CERTIFICATE = make_certificate()


class Bench:
    def __init__(self, **settings: Any) -> None:
        self.now = NOW - 3600.0
        self.verifier = ProofVerifier(ProofSettings(**settings), lambda: self.now, b"k" * 32)
        self.now = NOW
        self.refused: ProofRefused | None = None

    def proof(self, client: DpopClient = CLIENT, **claims: Any) -> str:
        return client.proof(claims.pop("token", TOKEN), "POST", URL, self.now, **claims)

    def show(
        self,
        *proofs: str,
        method: str = "POST",
        url: str = URL,
        dpop: bool = True,
        jkt: str = CLIENT.jkt,
        holder: str = "bot",
    ) -> str:
        shown = ShownProof(dpop, tuple(proof.encode() for proof in proofs), method, url)
        try:
            self.verifier.check(TokenBinding(jkt), TOKEN.encode(), shown, ("https://as.example", holder))
        except ProofRefused as refused:
            self.refused = refused
            return f"{refused.action} {refused.report}".strip()
        return ""


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_right_proof_passes_once(bench: Bench) -> None:
    """And never again, nor does another proof with its identifier; a second proof of the same client passes."""
    proof = bench.proof()
    assert bench.show(proof) == ""
    assert bench.show(proof) == "proof-replayed proof"
    assert bench.show(bench.proof(jti="x")) == ""
    assert bench.show(bench.proof(jti="x", iat=int(NOW) - 1), url=URL) == ""  # another second: another proof
    assert bench.show(bench.proof(jti="x")) == "proof-replayed proof"
    assert bench.show(bench.proof()) == ""


def test_a_proof_of_another_key(bench: Bench) -> None:
    assert bench.show(bench.proof(STRANGER)) == "proof-of-another-key proof"
    assert bench.refused is not None
    assert bench.refused.thumbprint == STRANGER.jkt
    swapped = bench.proof(STRANGER, header={"jwk": CLIENT.jwk})
    assert bench.show(swapped) == "proof-malformed evidence"


def test_a_proof_is_bound_to_token_method_and_url(bench: Bench) -> None:
    assert bench.show(bench.proof(token="d.e.f")) == "proof-of-another-token proof"
    assert bench.show(bench.proof(), method="GET") == "proof-of-another-call evidence"
    assert bench.show(bench.proof(), method="post") == "proof-of-another-call evidence"
    assert bench.show(bench.proof(), url="https://api.example/other") == "proof-of-another-call evidence"
    assert bench.show(bench.proof(), url="http://api.example/orders") == "proof-of-another-call evidence"
    assert bench.show(bench.proof(), url="") == "proof-of-another-call evidence"
    assert bench.show(bench.proof(htu="")) == "proof-of-another-call evidence"
    for none in ("", "https://", "ftp://api.example/orders", "https://api.example:99999/orders"):
        assert bench.show(bench.proof(htu=none), url=none) == "proof-of-another-call evidence"
    assert bench.show(bench.proof(htu="HTTPS://API.example:443/%6Frders?x=1#y")) == ""


def test_the_time_of_a_proof(bench: Bench) -> None:
    """A minute old at most, and hardly of the future: a clock says nothing of the agent."""
    for age_s, expected in ((60, ""), (61, "proof-expired"), (-5, ""), (-6, "proof-expired"), (1e9, "proof-expired")):
        assert bench.show(bench.proof(iat=NOW - age_s)) == expected, age_s
    for odd in (True, "now", float("1e300")):
        assert bench.show(bench.proof(iat=odd)) == "proof-malformed evidence"


def test_nonces(bench: Bench) -> None:
    """Asked for, a proof has that of this period or the last one; the refusal says which."""
    bench = Bench(nonce=True)
    assert bench.show(bench.proof()) == "proof-without-nonce"
    assert bench.refused is not None
    assert (bench.refused.code, bench.refused.error) == ("use_dpop_nonce", "use_dpop_nonce")
    nonce = bench.refused.nonce
    assert bench.show(bench.proof(nonce=nonce)) == ""
    for wrong in ("x", 7, nonce[:-1], nonce + "x", "\ud800"):
        assert bench.show(bench.proof(nonce=wrong)) == "proof-without-nonce", wrong
    bench.now += NONCE_S
    assert bench.show(bench.proof(nonce=nonce)) == ""
    bench.now += NONCE_S
    assert bench.show(bench.proof(nonce=nonce)) == "proof-without-nonce"
    assert bench.show(bench.proof(STRANGER)) == "proof-of-another-key proof"
    assert bench.refused.nonce == Bench(nonce=True).verifier._nonces.current(bench.now)  # type: ignore[union-attr]


def test_what_is_no_proof(bench: Bench) -> None:
    """Neither none, two, another token type, a private key, a critical extension, nor garbage."""
    proof = bench.proof()
    private = {**CLIENT.jwk, "d": "AAAA"}
    assert bench.show() == "proof-missing evidence"
    assert bench.show(proof, bench.proof()) == "proof-missing evidence"
    assert bench.show(proof, dpop=False) == "proof-missing evidence"
    assert bench.show(proof, jkt="") == "proof-unbound"
    head, body, signature = proof.split(".")
    wrong = [
        bench.proof(header={"typ": "JWT"}),
        bench.proof(header={"jwk": private}),
        bench.proof(header={"jwk": "x"}),
        bench.proof(header={"jwk": {"kty": "oct", "k": "AAAA"}}),
        bench.proof(header={"jwk": {"kty": "EC"}}),
        bench.proof(header={"crit": ["b64"], "b64": True}),
        *(bench.proof(**{name: None}) for name in ("jti", "htm", "htu", "iat", "ath")),
        bench.proof(jti=""),
        bench.proof(jti="x" * 2000),
        bench.proof(jti=7),
        bench.proof(htu=["x"]),
        jwt.encode({"jti": "1"}, "k" * 64, "HS256", {"typ": "dpop+jwt", "jwk": CLIENT.jwk}),
        f"{head}.{body}.",
        f"{head}.{body}.{signature[:-4]}AAAA",
        "a.b.c",
        "\xff",
        "x" * 9000,
    ]
    for number, one in enumerate(wrong):
        assert bench.show(one) == "proof-malformed evidence", number
    assert bench.show(proof) == ""


def test_cheap_checks_come_first(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """No signature is verified of a proof that its own words refuse; what would tell of a theft is signed, though."""
    verified: list[Any] = []
    monkeypatch.setattr(proof_of_possession, "_check_signature", verified.append)
    for proof, failure in (
        (bench.proof(header={"typ": "JWT"}), "proof-malformed evidence"),
        (bench.proof(htm="GET"), "proof-of-another-call evidence"),
        (bench.proof(htu="https://api.example/other"), "proof-of-another-call evidence"),
        (bench.proof(iat=int(NOW) - 100), "proof-expired"),
        (bench.proof(iat="now"), "proof-malformed evidence"),
    ):
        assert bench.show(proof) == failure
    assert verified == []
    assert bench.show(bench.proof(STRANGER)) == "proof-of-another-key proof"
    assert bench.show(bench.proof(token="d.e.f")) == "proof-of-another-token proof"
    assert len(verified) == 2


@pytest.mark.parametrize("client", [CLIENT, STRANGER])
def test_what_is_not_signed_tells_of_no_theft(bench: Bench, client: DpopClient) -> None:
    """Anybody can write a proof with another's key, or for another token, without a signature."""
    head, body, _ = bench.proof(client, token="d.e.f").split(".")
    assert bench.show(f"{head}.{body}.AAAA") == "proof-malformed evidence"


def rsa_proof(bench: Bench, bits: int, exponent: int) -> tuple[str, str]:
    key = rsa.generate_private_key(exponent, bits)
    jwk = {name: RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)[name] for name in ("kty", "n", "e")}
    claims = jwt.decode(bench.proof(), options={"verify_signature": False})
    return jwt.encode(claims, key, "RS256", {"typ": "dpop+jwt", "jwk": jwk}), key_thumbprint(jwk)


def test_rsa_keys_are_bounded(bench: Bench) -> None:
    """Nobody has us verify with a key of any length; one that is longer is no proof, and the refusal says so."""
    proof, jkt = rsa_proof(bench, 2048, 65537)
    assert bench.show(proof, jkt=jkt) == ""
    head, body, signature = proof.split(".")
    header = json.loads(base64.urlsafe_b64decode(head + "=="))
    for name, value in (("n", "_" * 684), ("n", 7), ("e", "_" * 7), ("e", None)):
        jwk = header["jwk"] | {name: value}
        changed = base64url(json.dumps(header | {"jwk": jwk}).encode())
        assert bench.show(f"{changed}.{body}.{signature}", jkt=key_thumbprint(jwk)) == "proof-malformed evidence"
        assert "4096 bits" in str(bench.refused)


def test_long_rsa_keys_pass_up_to_the_bound() -> None:
    assert (
        len(base64url(b"x" * 512)),
        len(base64url(b"x" * 4)),
    ) == (proof_of_possession._MODULUS_LENGTH, proof_of_possession._EXPONENT_LENGTH)


def test_proofs_from_before_the_process_began_are_refused(bench: Bench) -> None:
    """What was shown to the process before it cannot be known; it is no sign of a theft."""
    proof, bench.now = bench.proof(), NOW + 30
    assert bench.show(proof) == ""
    later = Bench()
    later.now = NOW + 30
    later.verifier = ProofVerifier(ProofSettings(), lambda: later.now, b"k" * 32)
    assert later.show(proof) == "proof-forgotten"
    assert later.show(bench.proof()) == ""


def test_who_shows_too_many_locks_out_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder has a tenth of the memory, whatever keys its tokens are bound to: beyond, its own proofs of that second
    are refused, and counted by a name of their own. Others go on."""
    monkeypatch.setattr(proof_of_possession, "MAX_REMEMBERED_PROOFS", 1000)
    bench = Bench()
    failures = Counter(bench.show(bench.proof(), holder="loud") for _ in range(150))
    assert failures == {"": 101, "proof-forgotten": 49}
    other_key = bench.proof(STRANGER)
    assert bench.show(other_key, jkt=STRANGER.jkt, holder="loud") == "proof-forgotten"
    assert bench.show(other_key, jkt=STRANGER.jkt) == bench.show(bench.proof()) == ""
    bench.now += 1
    assert bench.show(bench.proof(), holder="loud") == ""


def test_certificates() -> None:
    bench = Bench()
    x5t = x5t_of(CERTIFICATE)
    for shown, expected in (
        (x5t, ""),
        ("", "certificate-missing evidence"),
        (x5t_of(make_certificate()), "certificate-of-another proof"),
    ):
        try:
            bench.verifier.check(TokenBinding(x5t=x5t), b"t", ShownProof(False, (), "GET", URL, shown), ("bot",))
            failure = ""
        except ProofRefused as refused:
            failure = f"{refused.action} {refused.report}"
            assert (refused.scheme, refused.error) == ("Bearer", "invalid_token")
        assert failure == expected


def test_whose_word_on_certificates_counts() -> None:
    """Only the header of the settings, once, and from a proxy of the settings."""
    header = f"Hash={base64.urlsafe_b64decode(x5t_of(CERTIFICATE) + '=').hex()}".encode()
    verifier = Bench(certificate_header="X-Client-Cert", trusted_proxies=("10.0.0.0/8",)).verifier
    given_headers = [(b"x-client-cert", header)]
    assert verifier.certificate_of(given_headers, "10.1.2.3") == x5t_of(CERTIFICATE)
    assert verifier.certificate_of(given_headers, "192.0.2.1") == ""
    assert verifier.certificate_of(given_headers, "") == ""
    assert verifier.certificate_of(given_headers * 2, "10.1.2.3") == ""
    assert Bench().verifier.certificate_of(given_headers, "127.0.0.1") == ""


def test_what_a_token_is_bound_to() -> None:
    assert read_binding({}) is read_binding({"cnf": None}) is UNBOUND
    assert read_binding({"cnf": {"jkt": "a", "x5t#S256": "b"}}) == TokenBinding("a", "b")
    for wrong in ("x", [], {"jkt": ""}, {"jkt": 7}, {"x5t#S256": None}, {"jkt": "x" * 300}):
        with pytest.raises(InvalidToken):
            read_binding({"cnf": wrong})


@pytest.mark.parametrize("name", ["jwk", "kid", "jku", "osc", "x5t", "x5t#S512", "JKT", "jkt#S512", ""])
@pytest.mark.parametrize("checked", [{}, {"jkt": CLIENT.jkt}, {"x5t#S256": "b"}])
def test_a_token_that_is_bound_in_another_way_too_is_refused(name: str, checked: dict[str, str]) -> None:
    bench = Bench()
    binding = read_binding({"cnf": {**checked, name: {}}})
    proof = bench.proof().encode()
    for shown in (ShownProof(False, (), "POST", URL, "b"), ShownProof(True, (proof,), "POST", URL, "b")):
        with pytest.raises(InvalidToken, match="cnf"):
            bench.verifier.check(binding, TOKEN.encode(), shown, ("as", "bot"))


def test_an_empty_cnf_is_no_token_without_one() -> None:
    with pytest.raises(InvalidToken, match="cnf"):
        Bench().verifier.check(
            read_binding({"cnf": {}}), TOKEN.encode(), ShownProof(False, (), "GET", URL), ("as", "bot")
        )


def test_thumbprints_are_those_of_the_rfc() -> None:
    modulus = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknj"
        "hMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQ"
        "vRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzK"
        "nqDKgw"
    )
    assert key_thumbprint({"kty": "RSA", "n": modulus, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"}) == (
        "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
    )


@pytest.mark.parametrize(
    "url", ["", "/x", "ftp://a/", "https://", "https://u@a/", "https://a:x/", "https://[::1", "https://a:99999/"]
)
def test_what_is_no_url(url: str) -> None:
    assert normal_url(url) == ""
