"""The configurations of docs/gateways.md work as they stand, but for their ports."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from ..support.checkout import DOCS
from ..support.oauth_peers import RESOURCE, Endpoint, oidc_client, upstream
from ..support.service_reviewer import SETTINGS, ServiceReviewer, bearer

if TYPE_CHECKING:
    from scripts.service_stack import OidcProvider

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

PAGE = (DOCS / "gateways.md").read_text()
DOWN = {"envoy": 403, "caddy": 502, "nginx": 500}
SLOW = {"envoy": 403, "caddy": 504, "nginx": 500}


def documented(name: str) -> str:
    """The only block of the docs that is marked as *name*'s configuration."""
    (found,) = re.findall(rf"^```\w+ {name}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


def program(name: str) -> Path:
    from scripts.service_stack import ServiceUnavailable, caddy, envoy, nginx

    programs: dict[str, Callable[[], Path]] = {
        "envoy": envoy.envoy_program,
        "caddy": caddy.caddy_program,
        "nginx": nginx.nginx_program,
    }
    try:
        return programs[name]()
    except ServiceUnavailable as reason:
        pytest.skip(f"SERVER NOT TO BE HAD: {name}: {reason}")


def command(name: str, folder: Path, text: str) -> list[str | Path]:
    """Starts *name* with a configuration."""
    file = folder / {"envoy": "envoy.yaml", "caddy": "Caddyfile", "nginx": "nginx.conf"}[name]
    if name == "nginx":  # where it may write, which is no business of the docs
        kept = "".join(
            f"{kind}_temp_path {folder}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        text = f"daemon off; master_process off; pid {folder}/pid;\n" + text.replace(
            "http {", f"http {{ access_log off; {kept}", 1
        )
    file.write_text(text)
    started = program(name)
    if name == "envoy":
        return [started, "-c", file, "--disable-hot-restart", "--concurrency", "1", "-l", "warning"]
    if name == "caddy":
        return [started, "run", "--adapter", "caddyfile", "--config", file]
    return [started, "-p", folder, "-e", "stderr", "-c", file]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str, str, str], str]]:
    """Starts a documented gateway in front of an API; returns its URL."""
    running: list[subprocess.Popen[bytes]] = []

    def started(name: str, api: str, check: str) -> str:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        text = documented(name)
        for documented_port, real in (("10000", port), ("8080", api), ("8420", check)):
            assert documented_port in text
            text = text.replace(documented_port, real)
        environment = os.environ | {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}
        running.append(subprocess.Popen(command(name, tmp_path, text), env=environment))
        deadline = time.monotonic() + 90
        while True:
            try:
                socket.create_connection(("127.0.0.1", int(port)), timeout=1).close()
                return f"http://127.0.0.1:{port}"
            except OSError:
                assert running[-1].poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)

    yield started
    for process in running:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize("name", DOWN)
def test_a_documented_configuration_works(
    name: str, start: Callable[[str, str, str], str], make_service: Callable[..., Any], oidc_provider: OidcProvider
) -> None:
    """Allowed with the level for the upstream, whatever the agent says of itself; stepped up, denied; closed while we
    are down, and within seconds while we hang."""
    more = SETTINGS.format(issuer=oidc_provider.issuer, keys=oidc_provider.jwks_url, audience=RESOURCE)
    service = make_service(more + "  tell_approval: true\n")
    service.start()
    site = ServiceReviewer(service, oidc_provider.issuer)
    agent = oidc_client(oidc_provider)
    token = agent.token(scope="tools:read tools:write")
    with Endpoint(upstream) as api:
        gateway = start(name, api.url.rpartition(":")[2], str(service.port))
        http = httpx2.Client(base_url=gateway, timeout=30)
        lying = bearer(token) | {"x-risk-level": "low", "x-forwarded-method": "GET", "x-original-method": "GET"}
        assert http.post("/mcp", headers=lying).text == "upstream"
        assert api.seen[-1][2]["x-risk-level"] == "unknown"

        site.pin(agent.client_id, "medium")
        assert http.get("/mcp", headers=bearer(token)).status_code == 200
        held = http.post("/mcp", headers=lying)
        assert held.status_code == 401
        assert 'error="insufficient_user_authentication"' in held.headers["www-authenticate"]
        assert held.headers["x-approval-id"]
        site.pin(agent.client_id, "critical")
        assert http.get("/mcp", headers=bearer(token)).status_code == 403
        site.agent(agent.client_id, "unpin", why="for this test")
        assert http.get("/mcp", headers=bearer(token)).status_code == 200

        passed = len(api.seen)
        service.process.send_signal(signal.SIGSTOP)
        try:
            begun = time.monotonic()
            assert http.get("/mcp", headers=bearer(token)).status_code == SLOW[name]
            assert time.monotonic() - begun < 5
        finally:
            service.process.send_signal(signal.SIGCONT)
        service.stop()
        assert http.get("/mcp", headers=bearer(token)).status_code == DOWN[name]
        assert len(api.seen) == passed
        http.close()
