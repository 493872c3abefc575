"""What every process of this world is told: where things are. A JSON file that its owner alone can read."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple, Protocol


class Environment(NamedTuple):
    """Addresses of this world, and who is who.

    Attributes:
        issuer: of the authorization server.
        tools_url: MCP endpoint as agents know it: behind Envoy. It is also the resource that tokens name.
        tools_port: where the tool server listens behind it.
        trust_url: of Trustwatch.
        token_file: token for it, to send events and ask for risk.
        agents: by name: `client_id`, `key` (PEM), and `url` and `port` of those that can be talked to.
    """

    issuer: str
    tools_url: str
    tools_port: int
    trust_url: str
    token_file: str
    agents: dict[str, dict[str, Any]]

    def service_token(self) -> str:
        """Read anew each time."""
        return Path(self.token_file).read_text().strip()

    def name_of(self, client_id: str) -> str:
        """The name of an agent; an id that is nobody's stays as it is."""
        return next((name for name, one in self.agents.items() if one["client_id"] == client_id), client_id)


def write_environment(path: Path, place: Environment) -> None:
    """Write the file."""
    path.touch(mode=0o600)
    path.write_text(json.dumps(place._asdict()))


def read_environment(path: str) -> Environment:
    """Read it again."""
    return Environment(**json.loads(Path(path).read_text()))


class ActivityLogger(Protocol):
    """Takes what an agent notes."""

    def __call__(self, agent: str, what: str, **facts: Any) -> None: ...


def log_activity(agent: str, what: str, **facts: Any) -> None:
    """A line of an agent's diary, on its standard output: what the terminal shows comes from these."""
    print(json.dumps({"agent": agent, "what": what, **facts}), file=sys.stdout, flush=True)
