"""The real servers that Trustwatch works with do what its hooks, actuators, gateway checks and parsers rely on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from ..support.checkout import ROOT
from ..support.oauth_peers import (
    RESOURCE,
    Endpoint,
    OAuthClient,
    access_lines,
    claims_of,
    hydra_client,
    oidc_client,
    realm,
    upstream,
)
from ..support.peer_fixtures import start_gateway

if TYPE_CHECKING:
    from scripts.service_stack import Caddy, Envoy, Hydra, Keycloak, Nginx, OidcProvider

pytestmark = pytest.mark.integration


def active(hydra: Hydra, token: str) -> bool:
    answer = httpx2.post(f"{hydra.admin_url}/admin/oauth2/introspect", data={"token": token})
    return bool(answer.json()["active"])


def lifetime(token: str) -> Any:
    """Seconds; equal to some more or less, too: Hydra sets the end as it begins to answer, and `iat` as it signs, which
    a busy machine does seconds later."""
    claims = claims_of(token)
    return pytest.approx(claims["exp"] - claims["iat"], abs=5)


@pytest.mark.parametrize("access_token", ["jwt", "opaque"])
def test_hydra_deletes_tokens_of_one_client(hydra: Hydra, access_token: str) -> None:
    """By the admin API they die at introspection at once, JWTs too; another client's live on."""
    hydra.configure(access_token=access_token)
    hydra.start()
    bad, good = hydra_client(hydra), hydra_client(hydra)
    of_bad, of_good = bad.token(), good.token()
    assert active(hydra, of_bad) and active(hydra, of_good)
    assert (of_bad.count(".") == 2) == (access_token == "jwt")

    done = httpx2.delete(f"{hydra.admin_url}/admin/oauth2/tokens", params={"client_id": bad.client_id})

    assert done.status_code == 204
    assert not active(hydra, of_bad)
    assert active(hydra, of_good)
    assert active(hydra, bad.token())


def test_hydra_lifespans_are_lowered_and_restored(hydra: Hydra) -> None:
    """`null` is how a client that had none is as before: byte by byte but for the time of the change."""
    agent = hydra_client(hydra)
    url = f"{hydra.admin_url}/admin/clients/{agent.client_id}"
    before = httpx2.get(url).json()
    name = "client_credentials_grant_access_token_lifespan"

    assert httpx2.put(f"{url}/lifespans", json={name: "60s"}).status_code == 200
    assert httpx2.get(url).json()[name] == "1m0s"
    assert lifetime(agent.token()) == 60
    assert httpx2.put(f"{url}/lifespans", json={name: before[name]}).status_code == 200

    assert lifetime(agent.token()) == 3600
    assert httpx2.get(url).json() | {"updated_at": ""} == before | {"updated_at": ""}


def test_hydra_obeys_its_hook(hydra: Hydra) -> None:
    """204 issues, 200 sets claims, 403 denies at once; one that fails is asked three times, then there is no token."""
    with Endpoint(lambda _: (204, {}, b"")) as hook:
        hydra.configure(token_hook=f"{hook.url}/hooks/hydra", hook_key=("X-Key", "k"), top_level_claims=("risk_level",))
        hydra.start()
        agent = hydra_client(hydra)
        assert "risk_level" not in claims_of(agent.token())
        ((method, path, headers, body),) = hook.seen
        assert (method, path, headers["x-key"]) == ("POST", "/hooks/hydra", "k")
        asked = json.loads(body)
        assert asked["request"]["client_id"] == agent.client_id
        assert asked["request"]["payload"] == {"grant_type": ["client_credentials"], "scope": ["tools:read"]}
        assert agent.proof()["client_assertion"][:20] not in body.decode()

        answer = {"session": {"access_token": {"risk_level": "low", "policy_version": "7"}, "id_token": {}}}
        hook.answer = lambda _: (200, {"content-type": "application/json"}, json.dumps(answer).encode())
        claims = claims_of(agent.token())
        assert claims["risk_level"] == "low"
        assert claims["ext"] == {"risk_level": "low", "policy_version": "7"}

        hook.answer = lambda _: (403, {}, b"")
        denied = agent.ask()
        assert (denied.status_code, denied.json()["error"]) == (403, "access_denied")

        hook.seen.clear()
        hook.answer = lambda _: (500, {}, b"")
        failed = agent.ask()
        assert (failed.status_code, failed.json()["error"]) == (500, "server_error")
        assert len(hook.seen) == 3
    hydra.configure()
    hydra.start()
    assert agent.ask().status_code == 200


def test_hydra_tells_whose_token_it_was(hydra: Hydra) -> None:
    """By span events, soon, and with the token that the receiver asks for: its log has no client in it."""
    with Endpoint(lambda _: (200, {"content-type": "application/x-protobuf"}, b"")) as receiver:
        hydra.configure(spans=receiver.url, spans_token="t-1")
        hydra.start()
        agent = hydra_client(hydra)
        agent.token()
        assert agent.ask(scope="nope").status_code == 400
        told = [b"OAuth2AccessTokenIssued", b"OAuth2TokenExchangeError", agent.client_id.encode()]
        deadline = time.monotonic() + 90
        while not all(word in b"".join(body for *_, body in receiver.seen) for word in told):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert {(path, headers["authorization"]) for _, path, headers, _ in receiver.seen} == {
            ("/v1/traces", "Bearer t-1")
        }
        hydra.configure()
        hydra.start()
    assert agent.client_id not in "".join(
        line for line in hydra.log.read_text().splitlines() if "/oauth2/token" in line
    )


def test_hydra_comes_back(hydra: Hydra) -> None:
    """After kill -9 with the clients and keys it had, on the same ports."""
    agent, url = hydra_client(hydra), hydra.url
    token = agent.token()

    hydra.kill()
    assert not hydra.alive()
    hydra.start()

    assert hydra.url == url
    assert active(hydra, token)
    assert agent.ask().status_code == 200


def test_keycloak_shortens_disables_and_restores(keycloak: Keycloak) -> None:
    """What its Admin REST API does to a client's tokens, and that others are not touched."""
    agents = realm(keycloak)
    bad, good = agents.client("bad", ("gateway",)), agents.client("good", ("gateway",))
    gateway = agents.client("gateway")

    def alive(token: str) -> bool:
        return bool(gateway.post(f"{agents.token_url}/introspect", token=token).json()["active"])

    token, other = bad.token(), good.token()
    assert lifetime(token) == 3600 and alive(token) and alive(other)

    before = agents.change("bad", attributes={"access.token.lifespan": "60"})
    assert lifetime(bad.token()) == 60
    assert lifetime(good.token()) == 3600
    agents.change("bad", attributes={"access.token.lifespan": ""})
    assert lifetime(bad.token()) == 3600
    assert agents.change("bad") == before

    agents.change("bad", enabled=False)
    assert not alive(token)
    assert bad.ask().status_code == 401
    assert alive(other)
    agents.change("bad", enabled=True)
    assert alive(token)
    agents.change("bad", notBefore=int(time.time()) + 1)
    assert not alive(token)


def test_keycloak_logs_what_agents_do(keycloak: Keycloak) -> None:
    """Success and failure, with the client and the address, in the log as soon as the answer is there."""
    agents = realm(keycloak)
    agent = agents.client("agent-7")
    token = agent.token()
    form = {"grant_type": "client_credentials"} | agent.proof()
    elsewhere = httpx2.post(agents.token_url, data=form, headers={"x-forwarded-for": "192.0.2.7"})
    assert elsewhere.status_code == 200, elsewhere.text
    assert agent.ask(scope="nope").status_code == 400

    lines = [line for line in keycloak.log.read_text().splitlines() if f'realmName="{agents.name}"' in line]
    logins = [line for line in lines if 'type="CLIENT_LOGIN"' in line]
    assert len(logins) == 2
    assert f'token_id="{claims_of(token)["jti"]}"' in logins[0]
    assert 'clientId="agent-7"' in logins[0]
    assert 'ipAddress="127.0.0.1"' in logins[0]
    assert 'ipAddress="192.0.2.7"' in logins[1]
    (failure,) = [line for line in lines if 'type="CLIENT_LOGIN_ERROR"' in line]
    assert " WARN " in failure and 'error="invalid_request"' in failure


def test_oidc_provider_nests_actors(oidc_provider: OidcProvider) -> None:
    """Registered dynamically, its agents' metadata are claims; exchange keeps the subject and nests who acts for it."""
    first = oidc_client(oidc_provider, agent_type="Clerk", organization_id="acme-corp", delegated_user_id="user-1")
    second, third = oidc_client(oidc_provider, agent_type="Helper"), oidc_client(oidc_provider)
    token = first.token()
    claims = claims_of(token)
    assert (claims["agent_type"], claims["organization_id"], claims["delegated_user_id"]) == (
        "Clerk",
        "acme-corp",
        "user-1",
    )
    assert claims["aud"] == RESOURCE

    one = second.exchange(token).json()["access_token"]
    two = third.exchange(one).json()["access_token"]

    assert claims_of(one)["act"] == {"sub": second.client_id, "act": {"sub": first.client_id}}
    claims = claims_of(two)
    assert claims["sub"] == first.client_id
    assert claims["client_id"] == third.client_id
    assert claims["act"] == {"sub": third.client_id, "act": claims_of(one)["act"]}
    assert claims["delegated_user_id"] == "user-1"
    assert claims["exp"] <= claims_of(token)["exp"]
    assert second.exchange(token, scope="tools:write").json()["error"] == "invalid_scope"
    assert second.exchange(token[:-4] + "AAAA").json()["error"] == "invalid_grant"


def test_oidc_provider_asks_at_issuance(oidc_provider: OidcProvider, tmp_path: Path) -> None:
    """The answer cuts life and scopes and adds claims; a denial, and no answer, are no token (its profile says so)."""
    decisions: dict[str, Any] = {"gate": {"decision": True}, "write": True}

    def decide(request: Endpoint.Request) -> Endpoint.Answer:
        names = [item["action"]["name"] for item in json.loads(request[3])["evaluations"]]
        found = [decisions["gate"]] + [{"decision": name != "tools:write" or decisions["write"]} for name in names[1:]]
        return 200, {"content-type": "application/json"}, json.dumps({"evaluations": found}).encode()

    secret = tmp_path / "token"
    secret.write_text("t-1\n")
    with Endpoint(decide) as pdp:
        oidc_provider.configure(evaluations_url=f"{pdp.url}/access/v1/evaluations", token_file=secret)
        oidc_provider.start()
        agent = oidc_client(oidc_provider)
        assert lifetime(agent.token()) == 3600
        ((_, path, headers, body),) = pdp.seen
        assert (path, headers["authorization"]) == ("/access/v1/evaluations", "Bearer t-1")
        asked = json.loads(body)
        assert asked["subject"] == {"type": "client", "id": agent.client_id, "properties": {}}
        assert asked["resource"] == {"type": "audience", "id": RESOURCE}
        names = [item["action"]["name"] for item in asked["evaluations"]]
        assert names == ["issue:access_token:client_credentials", "tools:read"]

        issuance = {"token_lifetime": 120, "claims": {"risk_level": "medium", "policy_version": "7"}}
        decisions["gate"]["context"] = {"issuance": issuance}
        claims = claims_of(agent.token())
        assert claims["exp"] - claims["iat"] == 120
        assert (claims["risk_level"], claims["policy_version"]) == ("medium", "7")

        decisions["write"] = False
        assert agent.ask(scope="tools:read tools:write").json()["scope"] == "tools:read"
        assert agent.ask(scope="tools:write").json()["error"] == "invalid_scope"
        issuance["token_lifetime"] = 0
        assert agent.ask().json()["error"] == "access_denied"
        decisions["gate"] = {"decision": False}
        assert agent.ask().json()["error"] == "access_denied"
        pdp.close()
        assert agent.ask().json()["error"] == "access_denied"
        oidc_provider.configure(evaluations_url=f"{pdp.url}/access/v1/evaluations", fail="open")
        oidc_provider.start()
        assert lifetime(agent.token()) == 3600


def test_oidc_provider_revokes_opaque_tokens_alone(oidc_provider: OidcProvider) -> None:
    """Its JWTs can be neither revoked nor introspected: a gateway refuses them. An operator revokes for all."""
    operator = oidc_client(oidc_provider)
    resources = {RESOURCE: {"scope": "tools:read tools:write", "format": "jwt"}}
    opaque = {"https://opaque.example": {"scope": "tools:read", "format": "opaque"}}
    oidc_provider.configure(resources=resources | opaque, operators=(operator.client_id,))
    oidc_provider.start()
    agent, stranger = oidc_client(oidc_provider), oidc_client(oidc_provider)
    token = agent.token(resource="https://opaque.example")

    def introspected(value: str) -> httpx2.Response:
        return operator.post(f"{oidc_provider.token_url}/introspection", token=value)

    def revoke(client: OAuthClient) -> int:
        return client.post(f"{oidc_provider.token_url}/revocation", token=token).status_code

    assert introspected(token).json()["active"] is True
    assert revoke(stranger) == 200
    assert introspected(token).json()["active"] is True
    assert revoke(operator) == 200
    assert introspected(token).json() == {"active": False}
    assert introspected(agent.token()).json()["error"] == "unsupported_token_type"


def check(request: Endpoint.Request) -> Endpoint.Answer:
    """Allows one token; says to the others what they have to do."""
    if request[2].get("authorization") == "Bearer good":
        return 200, {"X-Risk-Level": "low"}, b""
    if "authorization" in request[2]:
        return (
            401,
            {"WWW-Authenticate": 'Bearer error="insufficient_user_authentication"', "X-Approval-Id": "a-1"},
            b"no",
        )
    return 403, {}, b"no"


OUTAGE = {"envoy": 403, "caddy": 502, "nginx": 500}


@pytest.mark.parametrize("name", OUTAGE)
def test_gateways_ask_for_each_request(request: pytest.FixtureRequest, name: str) -> None:
    """One that is allowed, one to step up, one that is denied, and none when nobody answers."""
    gateway: Envoy | Caddy | Nginx = request.getfixturevalue(name)
    with Endpoint(upstream) as api, Endpoint(check) as checks, httpx2.Client(timeout=120) as agent:
        start_gateway(gateway, api.url, f"{checks.url}/check")

        allowed = agent.get(f"{gateway.url}/tools/list?page=1", headers={"authorization": "Bearer good"})
        assert (allowed.status_code, allowed.text) == (200, "upstream")
        ((_, path, headers, _),) = api.seen
        assert (path, headers["x-risk-level"]) == ("/tools/list?page=1", "low")
        asked = checks.seen[0]
        told = asked[1].removeprefix("/check") if name == "envoy" else asked[2]["x-forwarded-uri"]
        assert told == "/tools/list?page=1"
        assert asked[2]["authorization"] == "Bearer good"

        stepped = agent.post(f"{gateway.url}/tools/call", headers={"authorization": "Bearer bad"}, content=b"{}")
        assert stepped.status_code == 401
        assert "insufficient_user_authentication" in stepped.headers["www-authenticate"]
        assert stepped.headers["x-approval-id"] == "a-1"
        assert agent.get(gateway.url).status_code == 403
        checks.close()
        assert agent.get(gateway.url, headers={"authorization": "Bearer good"}).status_code == OUTAGE[name]

        assert len(api.seen) == 1
        assert [status(line) for line in access_lines(gateway, 4)] == [200, 401, 403, OUTAGE[name]]


def status(line: dict[str, Any]) -> int:
    """Of a line of any of the three access logs."""
    return int(line["response_code"] if "response_code" in line else line["status"])


def test_envoy_says_whose_token_it_was(envoy: Envoy, oidc_provider: OidcProvider) -> None:
    """Claims of a real token, the actor's too, are in the access log; our refusals and our outage can be told apart."""
    first, second = oidc_client(oidc_provider), oidc_client(oidc_provider)
    token = second.exchange(first.token()).json()["access_token"]
    verdict = [200]
    with Endpoint(upstream) as api, Endpoint(lambda _: (verdict[0], {"x-internal": "1"}, b"")) as checks:
        start_gateway(envoy, api.url, checks.url, identity={oidc_provider.issuer: oidc_provider.jwks_url})
        headers = {"authorization": f"Bearer {token}", "mcp-method": "tools/call", "mcp-name": "read_file"}
        assert httpx2.get(envoy.url, headers=headers).status_code == 200
        verdict[0] = 403
        denied = httpx2.get(envoy.url, headers=headers)
        assert denied.status_code == 403
        assert "x-internal" not in denied.headers
        forged = {"authorization": f"Bearer {token[:-4]}AAAA"}
        assert httpx2.get(envoy.url, headers=forged).status_code == 403
        checks.close()
        assert httpx2.get(envoy.url, headers=headers).status_code == 403

        allowed, refused, unknown, outage = access_lines(envoy, 4)
    assert allowed["jwt.sub"] == first.client_id
    assert allowed["jwt.client_id"] == allowed["jwt.act.sub"] == second.client_id
    assert allowed["jwt.jti"] == claims_of(token)["jti"]
    assert (allowed["mcp.method.name"], allowed["mcp.name"]) == ("tools/call", "read_file")
    assert allowed["response_code_details"] == "via_upstream"
    assert (refused["response_code_details"], refused["jwt.sub"]) == ("ext_authz_denied", first.client_id)
    assert unknown["jwt.sub"] is None
    assert outage["response_code_details"] == "ext_authz_error"


def test_envoy_ends_with_a_killed_run(tmp_path: Path) -> None:
    """Though it is started as nobody's child: it would end with whoever starts it, `scripts/services` above all."""
    from scripts import service_stack

    script = (
        "import sys, time; from pathlib import Path; from scripts.service_stack import Envoy, ServiceUnavailable\n"
        "server = Envoy(Path(sys.argv[1]), bound=True)\n"
        "server.configure('http://127.0.0.1:9', 'http://127.0.0.1:9')\n"
        "try: server.start()\n"
        "except ServiceUnavailable as reason: print(reason, flush=True)\n"
        "else: print(server.status()['pid'], flush=True)\n"
        "time.sleep(300)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as run:
        assert run.stdout is not None
        said = run.stdout.readline().strip()
        run.send_signal(signal.SIGKILL)
        run.wait()
    if not said.isdigit():
        pytest.skip(f"SERVER NOT TO BE HAD: envoy: {said}")
    left = service_stack.Envoy(tmp_path)
    deadline = time.monotonic() + 90
    while left.alive():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    left.remove()


def services(state: Path, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "scripts" / "services", "--state", state, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_services_for_a_person(tmp_path: Path, nginx: Nginx) -> None:
    """A gateway has to be told whom it guards and asks, once; it outlives the command, and is found by the next one."""
    with Endpoint(upstream) as api, Endpoint(check) as checks:
        start_gateway(nginx, api.url, checks.url)  # skips where there is none
        state = tmp_path / "state"
        refused = services(state, "start", "envoy")
        assert refused.returncode == 1
        assert "--upstream" in refused.stderr

        given = ("--upstream", api.url, "--check", checks.url)
        assert services(state, "start", "nginx", *given).returncode == 0
        found = json.loads(services(state, "status", "nginx", "--json").stdout)["nginx"]
        assert found["alive"]
        assert httpx2.get(found["url"], headers={"authorization": "Bearer good"}).text == "upstream"
        assert services(state, "stop", "nginx").returncode == 0
        assert services(state, "start", "nginx").stdout.startswith(f"nginx: {found['url']} ")
        assert services(state, "remove").returncode == 0
        assert not (state / "nginx").exists()


@pytest.mark.parametrize(("name", "missing"), [("keycloak", "java"), ("oidc-provider", "node")])
def test_without_its_tool_it_says_what_is_missing(tmp_path: Path, name: str, missing: str) -> None:
    """Exit status 3, by which scripts tell "not here" from "broken"; nothing is left half made."""
    (tmp_path / "python3").symlink_to(sys.executable)
    for tool in ("bash", "dirname"):
        (tmp_path / tool).symlink_to(Path("/usr/bin") / tool)

    done = services(tmp_path / "state", "start", name, PATH=str(tmp_path), TRUSTWATCH_CACHE=str(tmp_path / "cache"))

    assert done.returncode == 3, done.stdout + done.stderr
    assert missing in done.stderr
    assert not list((tmp_path / "cache").glob("*/"))


def test_hydra_without_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same; Go is looked for beside PATH too."""
    from scripts.service_stack import ServiceUnavailable, go_program, hydra

    monkeypatch.setattr(go_program, "GO", tmp_path / "go")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TRUSTWATCH_CACHE", str(tmp_path / "cache"))

    with pytest.raises(ServiceUnavailable, match="golang-go"):
        hydra.hydra_program()


def test_a_go_that_is_too_old_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the version that is needed, before anything is fetched; nothing is left half made."""
    from scripts.service_stack import ServiceUnavailable
    from scripts.service_stack.go_program import built_go_program

    (tmp_path / "go").write_text("#!/bin/sh\necho go version go1.19.8 linux/amd64\n")
    (tmp_path / "go").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("TRUSTWATCH_CACHE", str(tmp_path / "cache"))

    with pytest.raises(ServiceUnavailable, match=r"program needs Go 1\.25 or newer; .*/go is 1\.19"):
        built_go_program("program", "package main", "module x\n\ngo 1.25.0\n")
    assert not list((tmp_path / "cache").glob("*/"))


def test_hydra_takes_many_at_once(hydra: Hydra) -> None:
    """Agents come together, and some are revoked meanwhile: nobody gets an error for that."""
    clients = [hydra_client(hydra) for _ in range(8)]

    def work(number: int) -> int:
        client = clients[number % len(clients)]
        if number % 10 == 0:
            httpx2.delete(f"{hydra.admin_url}/admin/oauth2/tokens", params={"client_id": client.client_id})
        return client.ask().status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(120))) == {200}
