"""Bound tokens at gateways and at our own API: what is shown without its proof is refused, and tells of the agent."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from trustwatch.api.http.auth.callers import ALL_SCOPES
from trustwatch.api.http.auth.signing import LOCAL_ISSUER
from trustwatch.api.settings.access_settings import ProofSettings

from ....support.proofs import DpopClient, base64url, make_certificate, x5t_of

CLIENT, STRANGER = DpopClient(), DpopClient()
CERTIFICATE = make_certificate()
URL = "https://api.example/mcp"


class Caller:
    """An agent with a bound token, at one of the ways of gateways."""

    def __init__(self, desk: Any, way: str) -> None:
        self.desk, self.way = desk, way
        self.token: str = desk.issuer.token(cnf=CLIENT.cnf)

    def proof(self, client: DpopClient = CLIENT, token: str = "", **given: Any) -> str:
        method, url = given.pop("method", "POST"), given.pop("url", URL)
        return client.proof(token or self.token, method, url, self.desk.now, **given)

    def call(self, *proofs: str, scheme: str = "DPoP", query: str = "", **headers: str) -> httpx2.Response:
        given = [("authorization", f"{scheme} {self.token}"), *(("dpop", proof) for proof in proofs)]
        given += [(name.replace("_", "-"), value) for name, value in headers.items()]
        if self.way == "ext_authz":
            answer: httpx2.Response = self.desk.send(
                "POST", f"/ext-authz/mcp{query}", [("host", "api.example"), *given]
            )
            return answer
        named = {"x-forwarded-method": "POST", "x-forwarded-uri": f"/mcp{query}", "x-forwarded-host": "api.example"}
        named["x-forwarded-proto"] = "https"
        answer = self.desk.send("GET", "/forward-auth", [*named.items(), *given])
        assert answer.status_code in (200, 401)
        return answer

    def told(self) -> list[tuple[str, str]]:
        return [(one["type"], one["action"]) for one in self.desk.events() if one["type"].startswith("signal.")]


@pytest.fixture(params=["ext_authz", "forward_auth"])
def caller(request: pytest.FixtureRequest, new_desk: Callable[..., Any]) -> Caller:
    return Caller(new_desk(dpop="verify"), request.param)


def test_a_call_with_its_proof_passes_once(caller: Caller) -> None:
    """A query does not count; what was shown once is a replay, which is a hard signal about the agent."""
    proof = caller.proof()
    assert caller.call(proof, query="?secret=1").status_code == 200
    refused = caller.call(proof)
    assert refused.status_code == 401
    challenge = refused.headers["www-authenticate"]
    assert challenge.startswith('DPoP realm="agents", error="invalid_dpop_proof"')
    assert 'algs="ES256 ' in challenge
    assert refused.json()["error"] == "invalid_dpop_proof"
    (event,) = [one for one in caller.desk.events() if one["type"] == "signal.proof"]
    assert event["action"] == "proof-replayed"
    assert event["agent"] == {"id": "bot", "issuer": "https://as.example"}
    assert (event["tenant"], event["outcome"]) == ("acme", "denied")
    assert event["source"] == f"urn:trustwatch:{caller.way}"
    assert event["credential"] == {"thumbprint": CLIENT.jkt}
    assert caller.token not in str(caller.desk.events())


def test_a_token_in_other_hands(caller: Caller) -> None:
    """By another key, or without any: refused, and told once an hour or once a day, whoever goes on."""
    for _ in range(3):
        assert caller.call(caller.proof(STRANGER)).status_code == 401
    assert caller.call(scheme="Bearer").status_code == 401
    assert caller.call(caller.proof(), caller.proof()).status_code == 401
    assert caller.call(caller.proof(url="https://api.example/other")).status_code == 401
    assert caller.call(caller.proof(method="GET")).status_code == 401
    assert caller.told() == [
        ("signal.proof", "proof-of-another-key"),
        ("signal.evidence", "proof-missing"),
        ("signal.evidence", "proof-of-another-call"),
    ]
    caller.desk.now += 3601
    now = int(caller.desk.now)
    caller.token = caller.desk.issuer.token(cnf=CLIENT.cnf, iat=now, exp=now + 300)
    assert caller.call(caller.proof(STRANGER)).status_code == 401
    assert caller.call(scheme="Bearer").status_code == 401
    assert caller.told()[3:] == [("signal.proof", "proof-of-another-key")]
    assert f'trustwatch_proofs_refused_total{{failure="proof-of-another-key",via="{caller.way}"}} 4.0' in (
        caller.desk.metrics()
    )


def test_clocks_and_tokens_say_nothing_of_the_agent(caller: Caller) -> None:
    """An old proof is refused and no event; nor is the proof of a token that is not right itself."""
    assert caller.call(caller.proof(iat=int(caller.desk.now) - 100)).status_code == 401
    right, caller.token = caller.token, caller.token[:-6] + "AAAAAA"
    refused = caller.call(caller.proof())
    assert 'error="invalid_token"' in refused.headers["www-authenticate"]
    caller.token = right
    assert caller.told() == []
    assert caller.call(caller.proof()).status_code == 200


def test_unbound_tokens_go_on_as_they_did(caller: Caller) -> None:
    """As Bearer; under DPoP they have no key that could prove anything."""
    caller.token = caller.desk.issuer.token()
    assert caller.call(scheme="Bearer").status_code == 200
    assert caller.call(caller.proof()).status_code == 401


def test_a_url_in_doubt_fits_no_proof(new_desk: Callable[..., Any]) -> None:
    caller = Caller(new_desk(dpop="verify"), "forward_auth")
    assert caller.call(caller.proof(), x_original_host="evil.example").status_code == 401
    assert caller.call(caller.proof()).status_code == 200


def test_nonces_of_ours(new_desk: Callable[..., Any]) -> None:
    """Given with the refusal, and with each that follows; the proof with it passes."""
    caller = Caller(new_desk(dpop="verify", proofs=ProofSettings(nonce=True)), "forward_auth")
    refused = caller.call(caller.proof())
    assert (refused.status_code, refused.json()["error"]) == (401, "use_dpop_nonce")
    assert 'error="use_dpop_nonce"' in refused.headers["www-authenticate"]
    assert caller.call(caller.proof(nonce=refused.headers["dpop-nonce"])).status_code == 200
    assert caller.told() == []


def test_certificates_of_gateways(new_desk: Callable[..., Any]) -> None:
    """Of the header that the settings name; one of somebody else is a hard signal, and plain tokens need none."""
    desk = new_desk(mtls="verify", proofs=ProofSettings(certificate_header="X-Client-Cert"))
    caller = Caller(desk, "forward_auth")
    plain, caller.token = desk.issuer.token(), desk.issuer.token(cnf={"x5t#S256": x5t_of(CERTIFICATE)})

    def shown(certificate: Any) -> str:
        der = certificate.public_bytes(Encoding.DER)
        return ":" + base64.b64encode(der).decode() + ":"

    assert caller.call(scheme="Bearer", x_client_cert=shown(CERTIFICATE)).status_code == 200
    refused = caller.call(scheme="Bearer", x_client_cert=shown(make_certificate()))
    assert refused.status_code == 401
    assert 'error="invalid_token"' in refused.headers["www-authenticate"]
    assert caller.call(scheme="Bearer").status_code == 401
    assert caller.told() == [("signal.proof", "certificate-of-another"), ("signal.evidence", "certificate-missing")]
    caller.token = plain
    assert caller.call(scheme="Bearer").status_code == 200


def test_introspection_of_bound_tokens(new_desk: Callable[..., Any]) -> None:
    """The answer says what the token is bound to; a proof that is handed on is judged, and a wrong one is told of."""
    desk = new_desk()
    caller = Caller(desk, "introspection")
    members = desk.introspect(caller.token).json()
    assert (members["active"], members["token_type"], members["cnf"]) == (True, "DPoP", CLIENT.cnf)

    def ask(proof: str, **form: str) -> Any:
        data = {"token": caller.token, "dpop": proof, "htm": "POST", "htu": URL} | form
        return desk.send("POST", "/introspect", desk.auth(), data={k: v for k, v in data.items() if v})

    proof = caller.proof()
    assert ask(proof).json()["active"] is True
    assert ask(proof).json() == {"active": False}
    assert ask(caller.proof(STRANGER)).json() == {"active": False}
    assert ask(caller.proof(), htu="").status_code == 400
    assert caller.told() == [("signal.proof", "proof-replayed"), ("signal.proof", "proof-of-another-key")]
    assert "token_type" not in desk.introspect(desk.issuer.token()).json()


class OwnApi:
    """A caller of our own API with a bound token."""

    def __init__(self, desk: Any, **cnf: str) -> None:
        self.desk = desk
        now, key = int(desk.now), desk.key
        claims = {"iss": LOCAL_ISSUER, "sub": "gateway", "client_id": "gateway", "aud": "trustwatch", "iat": now}
        claims |= {"exp": now + 600, "jti": "t", "scope": " ".join(ALL_SCOPES), "cnf": cnf}
        self.token = jwt.encode(claims, key._key, "ES256", {"typ": "at+jwt", "kid": key.kid})

    def ask(
        self, path: str, method: str = "GET", proof: str = "", scheme: str = "DPoP", **more: Any
    ) -> httpx2.Response:
        headers = {"authorization": f"{scheme} {self.token}"} | ({"dpop": proof} if proof else {})
        answer: httpx2.Response = self.desk.send(method, path, headers | more.pop("headers", {}), **more)
        return answer

    def proof(self, method: str, url: str, client: DpopClient = CLIENT) -> str:
        return client.proof(self.token, method, url, self.desk.now)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/agents/bot/risk"), ("GET", "/v1/decisions"), ("POST", "/v1/events"), ("POST", "/introspect")],
)
def test_our_own_api(new_desk: Callable[..., Any], method: str, path: str) -> None:
    """On every way into it: with the proof as any other caller, once; without it, or by another key, 401."""
    desk = new_desk()
    desk.agent()
    own, url = OwnApi(desk, **CLIENT.cnf), f"http://localhost{path}"
    content: dict[str, Any] = (
        {"json": []} if path == "/v1/events" else {"data": {"token": "x"}} if method == "POST" else {}
    )

    assert own.ask(path, method, scheme="Bearer", **content).status_code == 401
    refused = own.ask(path, method, own.proof(method, url, STRANGER), **content)
    assert refused.status_code == 401
    assert 'DPoP realm="trustwatch", error="invalid_dpop_proof"' in refused.headers["www-authenticate"]
    proof = own.proof(method, url)
    assert own.ask(path, method, proof, **content).status_code in (200, 202)
    assert own.ask(path, method, proof, **content).status_code == 401
    assert own.ask(path, method, own.proof(method, "http://elsewhere/x"), **content).status_code == 401
    told = [(one["type"], one["action"], one["agent"]["id"]) for one in desk.events() if "signal" in one["type"]]
    assert ("signal.proof", "proof-of-another-key", "gateway") in told
    assert ("signal.proof", "proof-replayed", "gateway") in told


@pytest.mark.parametrize(
    "cnf", [{"kid": "k"}, {"jkt": CLIENT.cnf["jkt"], "kid": "k"}, {"x5t#S256": "b", "osc": "o"}, {}]
)
@pytest.mark.parametrize("path", ["/v1/agents/bot/risk", "/v1/decisions"])
def test_what_nobody_checks_is_no_bearer_token_of_our_own_api(
    new_desk: Callable[..., Any], cnf: dict[str, str], path: str
) -> None:
    """Nor is it taken beside a proof of the member that is checked; on the fast way and the ordinary one."""
    own = OwnApi(new_desk(), **cnf)
    for answer in (own.ask(path, scheme="Bearer"), own.ask(path, proof=own.proof("GET", f"http://localhost{path}"))):
        assert answer.status_code == 401
        assert "cnf" in answer.json()["detail"]


@pytest.mark.parametrize("settings", [{}, {"dpop": "gateway"}, {"dpop": "verify"}], ids=str)
def test_what_nobody_checks_is_no_bearer_token_at_gateways(new_desk: Callable[..., Any], settings: Any) -> None:
    desk = new_desk(**settings)
    token = desk.issuer.token(cnf={"kid": "k"})

    assert desk.envoy(token).status_code == 401
    assert desk.introspect(token).json()["cnf"] == {"kid": "k"}


def test_our_own_api_by_certificate(new_desk: Callable[..., Any]) -> None:
    """Refused where no header of certificates is configured; else by the certificate of the proxy's header."""
    digest = x5t_of(CERTIFICATE)
    header = {"x-client-cert": "Hash=" + base64.urlsafe_b64decode(digest + "=").hex()}
    binding = {"x5t#S256": digest}
    assert OwnApi(new_desk(), **binding).ask("/v1/decisions", scheme="Bearer", headers=header).status_code == 401
    desk = new_desk(proofs=ProofSettings(certificate_header="x-client-cert"))
    own = OwnApi(desk, **binding)
    assert own.ask("/v1/decisions", scheme="Bearer", headers=header).status_code == 200
    assert own.ask("/v1/decisions", scheme="Bearer").status_code == 401
    assert own.ask("/v1/decisions", scheme="Bearer", headers={"x-client-cert": "Hash=" + "0" * 64}).status_code == 401
    assert base64url(b"\0" * 32) in str(desk.events())
