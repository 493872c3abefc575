"""Starts everything, in order, and ends everything, whatever happens."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scripts.service_stack import Envoy, OidcProvider
from scripts.service_stack.envoy import envoy_program
from scripts.service_stack.oidc_provider import node, node_modules
from scripts.service_stack.server import listens
from scripts.service_stack.system import ServerProcess, free_ports

from .environment import Environment, write_environment
from .generated_history import write_history
from .identity import SCOPES, register
from .roles import ROLES, SERVERS
from .trustwatch_operator import TrustwatchOperator, write_settings

ROOT = Path(__file__).parents[2]
READY_S = 120.0
"""Compiling Trustwatch's kernels takes a minute on a machine where it never ran."""

METADATA = "/.well-known/oauth-protected-resource"
"""What resources say of themselves (RFC 9728) is open to all."""

Say = Callable[[str], None]


class World:
    """All of it, running.

    Attributes:
        place: where things are.
        dana: a person at Trustwatch's API.
        folder: state, gone at the end.
    """

    def __init__(self, folder: Path, say: Say) -> None:
        self.folder, self._say = folder, say
        self._provider = OidcProvider(folder / "provider", bound=True)
        self._envoy = Envoy(folder / "envoy", bound=True)
        self._mine: list[ServerProcess] = []
        self._ends = contextlib.ExitStack()

    def fetch(self) -> None:
        """See that the servers can be had. Raises Unavailable."""
        node()
        node_modules()
        envoy_program()

    def start(self) -> None:
        """Start everything. Raises ServiceError, RuntimeError."""
        trust_port, tools_port, *ports = free_ports(2 + len(SERVERS))
        trust_url, token = f"http://127.0.0.1:{trust_port}", self.folder / "agents.token"
        urls = {name: f"http://127.0.0.1:{port}/" for name, port in zip(SERVERS, ports, strict=True)}
        tools_url = f"{self._envoy.url}/mcp"
        self._start_provider(trust_url, [tools_url, *urls.values()])
        agents = {name: register(self._provider.issuer, name, role) for name, role in ROLES.items()}
        for name, port in zip(SERVERS, ports, strict=True):
            agents[name] |= {"url": urls[name], "port": port}
        self.place = Environment(self._provider.issuer, tools_url, tools_port, trust_url, str(token), agents)
        self._say(f"registered {len(agents)} agents (RFC 7591) at {self._provider.issuer}")
        write_environment(self.folder / "place.json", self.place)
        self._start_trustwatch(trust_port)
        self._start_tools(tools_port)
        for name, port in zip(SERVERS, ports, strict=True):
            self._launch(
                name,
                ["-m", "examples.agents.agent", str(self.folder / "place.json"), name],
                lambda port=port: listens(port),
            )

    def stop(self) -> None:
        """End everything, those first that others need last."""
        for process in reversed(self._mine):
            process.signal(signal.SIGTERM)
        for process in reversed(self._mine):
            if not process.wait_gone(10):
                process.kill()
        self._envoy.stop()
        self._provider.stop()
        self._ends.close()

    def log_of(self, name: str) -> Path:
        """What a process of ours wrote."""
        return self.folder / f"{name}.log"

    def _start_provider(self, trust_url: str, resources: list[str]) -> None:
        self._provider.configure(
            resources={url: {"scope": SCOPES, "format": "jwt"} for url in resources},
            evaluations_url=f"{trust_url}/access/v1/evaluations",
            token_file=self.folder / "as.token",
            fail="closed",
        )
        self._provider.start()

    def _start_trustwatch(self, port: int) -> None:
        settings = write_settings(self.folder, self.place, port)
        history = self.folder / "history.jsonl"
        count = write_history(history, self.place, datetime.now(UTC), seed=7)
        self._say(f"learning what is normal here from {count} events of a month on paper (trustwatch train)")
        train = ["train", str(history), "--model", str(self.folder / "model"), "--settings", str(settings)]
        command = [sys.executable, "-m", "trustwatch", *train]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"trustwatch train failed:\n{done.stderr}")
        self.dana = TrustwatchOperator(self.place, (self.folder / "dana.token").read_text())
        self._ends.callback(self.dana.close)
        self._launch("trustwatch", ["-m", "trustwatch", "serve", "--settings", str(settings)], self.dana.ready)
        self._say(f"Trustwatch watches at {self.place.trust_url}")

    def _start_tools(self, port: int) -> None:
        self._launch("tools", ["-m", "examples.agents.tools", str(self.folder / "place.json")], lambda: listens(port))
        check = f"{self.place.trust_url}/ext-authz"
        keys = {self._provider.issuer: self._provider.jwks_url}
        self._envoy.configure(f"http://127.0.0.1:{port}", check, identity=keys)
        self._envoy.configure_raw(with_open_path(self._envoy.configuration(), METADATA))
        self._envoy.start()
        ship = f"tail -n +1 --pid=$$ -F {self._envoy.access_log} | {sys.executable} -m trustwatch ingest -"
        token = (self.folder / "gateway.token").read_text()
        environment = {"TRUSTWATCH_URL": self.place.trust_url, "TRUSTWATCH_TOKEN": token}
        self._run("shipper", ["sh", "-c", ship], environment)
        self._say(f"Envoy guards the tools at {self.place.tools_url}; its access log goes to Trustwatch")

    def _launch(self, name: str, arguments: list[str], ready: Callable[[], bool]) -> None:
        process = self._run(name, [sys.executable, *arguments], {"PYTHONUNBUFFERED": "1"})
        process.wait_ready(ready, READY_S)

    def _run(self, name: str, command: list[str], environment: dict[str, str]) -> ServerProcess:
        process = ServerProcess(name, str(self.folder), self.log_of(name), None, bound=True)
        process.start(command, ROOT, environment)
        self._mine.append(process)
        return process


def with_open_path(configuration: dict[str, Any], prefix: str) -> dict[str, Any]:
    """An Envoy configuration in which the check is not asked about paths below *prefix*."""
    (manager,) = configuration["static_resources"]["listeners"][0]["filter_chains"][0]["filters"]
    routes = manager["typed_config"]["route_config"]["virtual_hosts"][0]["routes"]
    per_route = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"
    unasked = {"envoy.filters.http.ext_authz": {"@type": per_route, "disabled": True}}
    routes.insert(0, {**routes[0], "match": {"prefix": prefix}, "typed_per_filter_config": unasked})
    return configuration


@contextlib.contextmanager
def running(say: Say) -> Iterator[World]:
    """A world for a while, in a folder that is gone afterwards. Raises Unavailable, ServiceError."""
    with tempfile.TemporaryDirectory(prefix="trustwatch-agents-") as name:
        world = World(Path(name), say)
        world.fetch()
        try:
            world.start()
            yield world
        finally:
            world.stop()
