"""The client against the real service, up, stopped, frozen and killed; and each example as its own process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from a2a.client import ClientConfig, create_client
from a2a.helpers import new_text_message
from a2a.types import a2a_pb2 as types
from mcp.client import Client as McpClient
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from trustwatch.api.http.auth.signing import LocalSigningKey
from trustwatch_client import (
    Answer,
    AsyncEventSender,
    AsyncTrustClient,
    AuditEvent,
    EventSender,
    OriginKeys,
    OriginKeyUnavailable,
    OriginTracker,
    Question,
    RiskSettings,
    SenderSettings,
    TrustClient,
    TrustUnavailable,
)
from trustwatch_client.events import EventAgent
from trustwatch_client.mcp import ACCESS_REFUSED

from ..support.checkout import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

EXAMPLES = ROOT / "examples" / "client"
POLICY = """\
version: "7"
mode: enforce
rules:
  - {name: contained, agents: ["evil-*"], levels: {unknown: {allow: false, max_token_lifetime_s: 0, revoke: true}}}
  - {name: watched, agents: ["odd-*"], levels: {unknown: {step_up: true}}}
  - {name: shadowed, agents: ["dark-*"], mode: shadow, levels: {unknown: {allow: false, max_token_lifetime_s: 0}}}
"""
MODES = ("closed", "open", "last_known")


def settings(mode: str, **more: Any) -> RiskSettings:
    return RiskSettings(**{"fail_mode": mode, "budget_s": 5.0, "cache_s": 0.0, "pause_s": 0.0, **more})


def event(agent: str, number: int = 0, **members: Any) -> AuditEvent:
    members = {"type": "tool.call", "action": "read_file", "outcome": "success", "tenant": "acme-corp", **members}
    return AuditEvent(
        time=datetime.fromtimestamp(time.time(), UTC),
        agent=EventAgent(id=agent, issuer="https://as.example", type="Clerk"),
        id=f"{agent}/{number}",
        **members,
    )


def both(service: Any, mode: str, work: Callable[[Any], Any], **more: Any) -> list[Any]:
    """What *work* makes of look-ups by the sync and by the async client."""
    with TrustClient(service.url, service.token, settings(mode, **more)) as client:
        found = [work(client.risk)]

    with asyncio.Runner() as runner:
        made = AsyncTrustClient(service.url, service.token, settings(mode, **more))
        found.append(work(lambda *who, **named: runner.run(made.risk(*who, **named))))
        runner.run(made.close())
    return found


def test_both_clients_read_the_services_answers(running: Any) -> None:
    for issuer in ("https://one.example", "https://two.example"):
        running.send(
            [
                {
                    "id": f"twin/{issuer}",
                    "time": datetime.now(UTC).isoformat(),
                    "type": "tool.call",
                    "tenant": "acme-corp",
                    "agent": {"id": "client-twin", "issuer": issuer},
                    "action": "read_file",
                    "outcome": "success",
                }
            ]
        )
    running.settle()

    def work(risk: Callable[..., Answer]) -> tuple[str, str, float]:
        answer = risk("https://agents.example/7?a=b#c", tenant="acme-corp")
        with pytest.raises(TrustUnavailable, match="ambiguous_agent"):
            risk("client-twin", tenant="acme-corp")
        assert risk("client-twin", tenant="acme-corp", issuer="https://one.example").risk_level == "unknown"
        assert answer.expires_at is not None
        return answer.source, answer.risk_level, answer.confidence

    assert both(running, "closed", work) == [("service", "unknown", 0.0)] * 2
    with TrustClient(running.url, running.token, settings("closed")) as client:
        names = [f"batch-{number}" for number in range(1_000)]
        assert [one.agent_id for one in client.query([Question(name, "acme-corp") for name in names])] == names


class BothClients:
    """The sync and the async client in one fail mode."""

    def __init__(self, service: Any, mode: str) -> None:
        self.mode = mode
        self._sync = TrustClient(service.url, service.token, settings(mode))
        self._async = AsyncTrustClient(service.url, service.token, settings(mode))
        self._runner = asyncio.Runner()

    @property
    def ways(self) -> list[Callable[[str], Answer]]:
        """Ways to ask for the risk of an agent."""
        return [
            lambda agent: self._sync.risk(agent, tenant="acme-corp"),
            lambda agent: self._runner.run(self._async.risk(agent, tenant="acme-corp")),
        ]

    def counts(self) -> list[dict[str, int]]:
        return [self._sync.counts(), self._async.counts()]

    def close(self) -> None:
        self._sync.close()
        self._runner.run(self._async.close())
        self._runner.close()


def test_each_fail_mode_while_the_service_is_stopped(interruptible: Any) -> None:
    service = interruptible
    with contextlib.ExitStack() as stack:
        pairs = [stack.enter_context(contextlib.closing(BothClients(service, mode))) for mode in MODES]
        for pair in pairs:
            assert [way("bot").source for way in pair.ways] == ["service"] * 2, pair.mode

        assert service.stop() == 0

        for pair in pairs:
            for way in pair.ways:
                if pair.mode == "open":
                    assert (way("bot").source, way("bot").token_policy.allow) == ("fail_open", True)
                elif pair.mode == "last_known":
                    assert (way("bot").source, way("bot").risk_level) == ("last_known", "unknown")
                    with pytest.raises(TrustUnavailable):
                        way("never asked for")
                else:
                    with pytest.raises(TrustUnavailable) as raised:
                        way("bot")
                    assert raised.value.cause == "network"
        service.start()
        for pair in pairs:
            assert [way("bot").source for way in pair.ways] == ["service"] * 2, pair.mode
            counted = {"open": "fail_open", "closed": "fail_closed", "last_known": "last_known"}[pair.mode]
            for counts in pair.counts():
                assert counts["cause_network"] >= 1 and counts[counted] >= 1, pair.mode


def test_a_frozen_service_costs_the_budget_and_no_more(interruptible: Any) -> None:
    service = interruptible

    def work(risk: Callable[..., Answer]) -> list[float]:
        service.wait(lambda: risk("warm", tenant="acme-corp").source == "service")
        service.process.send_signal(signal.SIGSTOP)
        took = []
        try:
            for number in range(10):
                began = time.monotonic()
                assert risk(f"agent-{number}", tenant="acme-corp").source == "fail_open"
                took.append(time.monotonic() - began)
        finally:
            service.process.send_signal(signal.SIGCONT)
        service.wait(lambda: risk("after", tenant="acme-corp").source == "service")
        return took

    for took in both(service, "open", work, budget_s=0.2):
        assert min(took) >= 0.2
        assert max(took) < 0.2 + 0.2  # the machine is shared


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_no_event_is_lost_or_doubled_when_the_service_is_killed(interruptible: Any, kind: str) -> None:
    service = interruptible
    agents = [f"{kind}-{number % 10}" for number in range(600)]
    more = SenderSettings(source="urn:gw:1", batch_events=20, linger_s=0.01, backoff_s=0.05, backoff_most_s=0.5)

    def interrupted(send: Callable[[AuditEvent], Any], pause: Callable[[float], None]) -> None:
        for number, agent in enumerate(agents):
            send(event(agent, number))
            if number == 200:
                pause(0.1)
                service.kill()
            if number == 400:
                service.start()
            pause(0.002)

    if kind == "sync":
        with EventSender(service.url, service.token, more) as sender:
            interrupted(sender.send, time.sleep)
            assert sender.flush(60.0)
            counts = sender.counts()
    else:
        with asyncio.Runner() as runner:
            made = AsyncEventSender(service.url, service.token, more)

            async def send(one: AuditEvent) -> str:
                return made.send(one)

            interrupted(lambda one: runner.run(send(one)), lambda seconds: runner.run(asyncio.sleep(seconds)))
            assert runner.run(made.flush(60.0))
            counts = made.counts()
            assert runner.run(made.close())
    service.settle()

    applied = {name: count for name, count in service.counts().items() if name.startswith(kind)}
    assert applied == {f"{kind}-{number}": 60 for number in range(10)}
    assert counts["accepted"] + counts["duplicate"] >= 600
    assert (counts["dropped"], counts["lost"], counts["rejected"]) == (0, 0, 0)
    assert counts["retries"] >= 1


class Example:
    """One of the examples as a separate process."""

    def __init__(self, name: str, service: Any, folder: Path) -> None:
        self.service, self.key = service, LocalSigningKey.open(service.folder / "data")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        (folder / "token").write_text(service.token())
        self.environment = os.environ | {
            "TRUSTWATCH_URL": service.url,
            "TRUSTWATCH_TOKEN_FILE": str(folder / "token"),
            "TENANT": "acme-corp",
            "JWKS_FILE": str(service.folder / "data" / "local-jwks.json"),
            "PORT": str(self.port),
            "BUDGET_S": "5",  # the machine that tests run on is shared
        }
        self.log = (folder / f"{name}.log").open("w+b")
        self.command = [sys.executable, str(EXAMPLES / f"{name}.py")]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, env=self.environment, stdout=self.log, stderr=self.log)
        self.service.wait(self.listens, 60.0)

    def listens(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.said()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        """Events that wait are sent before it ends."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(30) in (0, -signal.SIGINT, 130), self.said()

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read().decode()

    def headers(self, agent: str, audience: str) -> dict[str, str]:
        token = self.key.issue_token("jo", agent, ("a",), audience, 600, time.time(), f"{agent}-{time.time_ns()}")
        return {"authorization": f"Bearer {token}"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, world: Any) -> Iterator[Any]:
    """A service whose policy denies `evil-*`, steps `odd-*` up, and would deny `dark-*`."""
    from ..support.service_process import Service

    folder = tmp_path_factory.mktemp("guarded")
    (folder / "policy.yaml").write_text(POLICY)
    more = f"token_policy_file: {json.dumps(str(folder / 'policy.yaml'))}\n"
    more += "hooks:\n  - {name: pdp, kind: authzen, tenant: acme-corp, issuer: 'urn:trustwatch:local'}\n"
    made = Service(folder / "service", world.model, more)
    made.start()
    yield made
    made.close()


@pytest.fixture
def make_example(guarded: Any, tmp_path: Path) -> Iterator[Callable[[str], Example]]:
    made: list[Example] = []

    def make(name: str) -> Example:
        made.append(Example(name, guarded, tmp_path))
        return made[-1]

    yield make
    for one in made:
        if one.process is not None and one.process.poll() is None:
            one.process.kill()
            one.process.wait()
        one.log.close()


def seen(service: Any, **counts: int) -> None:
    """So much behaviour of each agent is applied, and no more."""
    service.settle()
    found = service.counts()
    names = {name.replace("_", "-"): count for name, count in counts.items()}
    assert {name: found.get(name, 0) for name in names} == names


def taken(service: Any) -> float:
    """Events that the service has accepted, refusals of ours included."""
    lines = service.client.get("/metrics").text.splitlines()
    mine = [one for one in lines if one.startswith("trustwatch_events_total{") and 'outcome="accepted"' in one]
    return sum(float(one.rpartition(" ")[2]) for one in mine)


def test_example_of_a_gateways_look_up(make_example: Any) -> None:
    example = make_example("gateway_lookup")

    done = subprocess.run(
        example.command,
        env=example.environment,
        input="good\nevil-1\nodd-1\ndark-1\ngood\n",
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["action"] for one in said] == ["allow", "deny", "step_up", "allow", "allow"]
    assert [one["source"] for one in said] == ["service"] * 4 + ["cache"]
    assert json.loads(done.stderr.splitlines()[-1])["asked"] == 5


def test_example_of_an_api(make_example: Any) -> None:
    example = make_example("asgi_app")
    example.start()
    before = taken(example.service)

    with httpx2.Client(base_url=example.url, timeout=30) as http:

        def ask(agent: str, path: str = "/orders/42", audience: str = "orders") -> httpx2.Response:
            return http.get(path, headers=example.headers(agent, audience))

        assert [ask("good-api").status_code for _ in range(5)] == [200] * 5
        denied, challenged = ask("evil-api"), ask("odd-api")
        assert (denied.status_code, denied.json()["code"]) == (403, "access_denied")
        assert challenged.status_code == 401
        assert 'error="insufficient_user_authentication"' in challenged.headers["www-authenticate"]
        assert 'acr_values="urn:example:mfa"' in challenged.headers["www-authenticate"]
        assert ask("dark-api").status_code == 200
        assert ask("good-api", audience="elsewhere").status_code == 401
        assert http.get("/orders/42").status_code == 401
    example.stop()

    assert taken(example.service) - before == 8
    seen(example.service, good_api=5, evil_api=0, odd_api=0, dark_api=1)
    assert "Traceback" not in example.said()


def test_a_person_lets_a_step_up_pass(make_example: Any) -> None:
    """Asked for at the service's decision point, approved there, seen by the example. Other scopes and agents wait."""
    example = make_example("asgi_app")
    example.start()
    service = example.service

    def ask(agent: str, method: str = "GET") -> int:
        path = "/orders/42" if method == "GET" else "/orders"
        headers = example.headers(agent, "orders")
        return httpx2.request(method, example.url + path, headers=headers, timeout=30).status_code

    assert ask("odd-human") == 401
    question = {
        "subject": {"type": "client", "id": "odd-human"},
        "action": {"name": "orders:read"},
        "resource": {"type": "order", "id": "42"},
    }
    decided = service.client.post("/access/v1/evaluation", json=question, headers=service.auth())
    assert decided.json()["decision"] is False
    (waiting,) = service.wait(lambda: service.pages("/v1/approvals", status="pending", tenant="acme-corp"))
    assert (waiting["agent_id"], waiting["scopes"]) == ("odd-human", ["orders:read"])
    assert ask("odd-human") == 401

    approve = f"/v1/approvals/{waiting['intervention_id']}/approve"
    done = service.client.post(approve, json={"why": "seen on paper"}, headers=service.auth())

    assert done.status_code == 200, done.text
    service.wait(lambda: ask("odd-human") == 200, 10.0)
    assert ask("odd-human", "POST") == 401
    assert ask("odd-other") == 401
    example.stop()


def test_the_example_api_stays_open_when_the_service_is_gone(interruptible: Any, tmp_path: Path) -> None:
    service = interruptible
    example = Example("asgi_app", service, tmp_path)
    try:
        example.start()
        with httpx2.Client(base_url=example.url, timeout=30) as http:
            headers = example.headers("loyal", "orders")
            assert http.get("/orders/1", headers=headers).status_code == 200
            service.stop()
            assert [http.get("/orders/1", headers=headers).status_code for _ in range(20)] == [200] * 20
            service.start()
            assert http.get("/orders/1", headers=headers).status_code == 200
        example.stop()
        seen(service, loyal=22)
    finally:
        if example.process is not None and example.process.poll() is None:
            example.process.kill()
            example.process.wait()
        example.log.close()


def test_example_of_an_a2a_agent(make_example: Any) -> None:
    """A real A2A client reads the card, talks, and is refused by the real answer."""
    example = make_example("a2a_agent")
    example.start()
    before = taken(example.service)

    async def talk(agent: str) -> list[Any]:
        async with httpx.AsyncClient(headers=example.headers(agent, "clerk"), timeout=30) as http:  # a2a-sdk's library
            client = await create_client(example.url, ClientConfig(streaming=False, httpx_client=http))
            request = types.SendMessageRequest(
                message=new_text_message("secret plans", context_id="conv-9", role=types.ROLE_USER)
            )
            return [one async for one in client.send_message(request)]

    assert asyncio.run(talk("good-a2a"))[0].message.parts[0].text == "heard: secret plans"
    for agent, word in (("evil-a2a", "Access is denied"), ("odd-a2a", "A person must")):
        with pytest.raises(Exception, match=word):
            asyncio.run(talk(agent))
    example.stop()

    assert taken(example.service) - before == 3
    seen(example.service, good_a2a=1, evil_a2a=0, odd_a2a=0)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_example_of_an_mcp_server(make_example: Any, mode: str) -> None:
    """A real MCP client over HTTP lists and calls tools; the policy decides who may."""
    example = make_example("mcp_server")
    example.start()

    async def call(agent: str) -> str:
        headers = example.headers(agent, f"{example.url}/mcp")
        async with (
            httpx2.AsyncClient(headers=headers, timeout=30) as http,
            McpClient(streamable_http_client(f"{example.url}/mcp", http_client=http), mode=mode) as client,
        ):
            result = await client.call_tool("pay", {"account": "acct-1", "amount": 7})
            return str(result.content[0].text)

    assert asyncio.run(call(f"good-{mode}")) == "paid 7 to acct-1"
    for agent in (f"evil-{mode}", f"odd-{mode}"):
        with pytest.RaisesGroup(pytest.RaisesExc(MCPError), allow_unwrapped=True, flatten_subgroups=True) as raised:
            asyncio.run(call(agent))
        error = raised.value.exceptions[0] if isinstance(raised.value, BaseExceptionGroup) else raised.value
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        assert error.code == ACCESS_REFUSED
    example.stop()

    example.service.settle()
    found = example.service.counts()
    assert found[f"good-{mode}"] >= 1
    assert (found.get(f"evil-{mode}", 0), found.get(f"odd-{mode}", 0)) == (0, 0)


def test_origins_of_arguments_reach_the_log_as_hashes(running: Any) -> None:
    with (
        OriginKeys(running.url, lambda: running.token("acme")) as keys,
        EventSender(running.url, running.token, SenderSettings(source="urn:gateway:origins")) as sender,
    ):
        keys.fetch("acme-corp")
        with pytest.raises(OriginKeyUnavailable, match="403"):
            keys.fetch("globex")
        conversation = OriginTracker(keys).conversation("conv-81", tenant="acme-corp")
        conversation.finish_call(conversation.start_call("read_mail", {}), "pay mallory-4711-xyzzy", untrusted=True)
        call = conversation.start_call("pay", {"to": "Mallory-4711-Xyzzy"})
        assert call.arguments is not None
        untrusted = conversation.finish_call(call, "paid")
        told = event("origin-bot", session="conv-81", arguments=call.arguments, untrusted_result=untrusted)
        sender.send(told)
        assert sender.flush(20)
        assert sender.counts()["accepted"] == 1
    running.settle()

    logged = b"".join(path.read_bytes() for path in running.folder.rglob("log/**/*") if path.is_file()).lower()
    assert f'"hash":"{call.arguments[0].hash}"'.encode() in logged
    assert b"xyzzy" not in logged
    assert running.get("/v1/agents/origin-bot/risk", tenant="acme-corp").json()["risk_level"] != "critical"
