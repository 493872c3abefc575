"""node-oidc-provider, an authorization server that asks Trustwatch at issuance: `oidc-provider/server.mjs`."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, ClassVar

from .server import Server, answers
from .system import ServiceUnavailable, cache_folder, ensure_command, last_lines, locked, run

SOURCE = Path(__file__).parent / "oidc-provider"
OIDC_PROVIDER_VERSION: str = json.loads((SOURCE / "package.json").read_text())["dependencies"]["oidc-provider"]
NODE_AT_LEAST = 20
INSTALL_S = 600
RESOURCES = {"https://mcp.example": {"scope": "tools:read tools:write", "format": "jwt"}}


def node() -> str:
    """Path of a Node.js that can run it.

    Raises:
        Unavailable: none, none can be installed, or it is too old.
    """
    found = ensure_command("node", "nodejs")
    said = run([found, "--version"]).stdout.strip()
    if not said.startswith("v") or int(said[1:].split(".")[0]) < NODE_AT_LEAST:
        raise ServiceUnavailable(f"oidc-provider needs Node.js {NODE_AT_LEAST} or newer; {found} is {said}")
    return found


def node_modules() -> Path:
    """Folder with oidc-provider and what it needs, as the lock file pins them.

    Raises:
        Unavailable: they are not in the cache and npm cannot fetch them.
    """
    folder = cache_folder() / f"oidc-provider-{OIDC_PROVIDER_VERSION}"
    if not folder.is_dir():
        with locked(folder.with_name(folder.name + ".lock")):
            if not folder.is_dir():
                _install(folder)
    return folder / "node_modules"


def _install(folder: Path) -> None:
    node()
    npm = ensure_command("npm", "npm")
    work = Path(tempfile.mkdtemp(prefix="fetch-", dir=folder.parent))
    try:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(SOURCE / name, work)
        done = run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder=work, timeout_s=INSTALL_S)
        if done.returncode != 0:
            raise ServiceUnavailable(
                f"npm can not fetch oidc-provider {OIDC_PROVIDER_VERSION}:\n{last_lines(done.stdout)}"
            )
        work.rename(folder)
    except subprocess.TimeoutExpired:
        raise ServiceUnavailable(f"npm did not fetch oidc-provider within {INSTALL_S} s") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


class OidcProvider(Server):
    """The server; clients register at `POST {url}/reg` (RFC 7591, open to all on loopback) or are configured.

    Grants: client_credentials, authorization_code (OpenID Connect) for `users`, and token exchange (RFC 8693) of its
    own JWT access tokens, which nests `act`. Client metadata `agent_type`, `capabilities`, `delegated_user_id` and
    `organization_id` become claims. Access tokens of a resource with format `jwt` can be neither introspected nor
    revoked (oidc-provider refuses it); `opaque` ones can.
    Its log (`log`) is a JSON object per line: `type` is `token`, `token.error`, `introspection`, `registration`, …
    """

    NAME = "oidc-provider"
    DEFAULTS: ClassVar[dict[str, Any]] = {
        "resources": RESOURCES,
        "lifetime_s": 3600,
        "policy_version": "1",
        "clients": (),
        "operators": (),
        "users": {},
        "trustwatch": None,
    }

    @property
    def issuer(self) -> str:
        """As in the `iss` of its tokens."""
        return self.url

    @property
    def token_url(self) -> str:
        """The token endpoint; introspection is at `/token/introspection`, revocation at `/token/revocation`."""
        return f"{self.url}/token"

    @property
    def jwks_url(self) -> str:
        """Public keys of its tokens."""
        return f"{self.url}/jwks"

    def configure(
        self,
        *,
        resources: dict[str, dict[str, str]] | None = None,
        lifetime_s: int = 3600,
        policy_version: str = "1",
        clients: tuple[dict[str, Any], ...] = (),
        operators: tuple[str, ...] = (),
        users: dict[str, dict[str, Any]] | None = None,
        evaluations_url: str | None = None,
        token_file: Path | None = None,
        timeout_ms: int = 1000,
        fail: str = "closed",
    ) -> None:
        """Set what the next `start` starts.

        Args:
            resources: by identifier (`resource` of requests, `aud` of tokens), `scope` (words) and `format` (`jwt` or
                `opaque`); the first is the default. None is one example.
            lifetime_s: of access tokens, unless Trustwatch sets a shorter one.
            policy_version: claim of tokens, unless Trustwatch sets another.
            clients: client metadata, in addition to those that register themselves.
            operators: ids of clients that may revoke the (opaque) tokens of others.
            users: people by name, with further claims of their ID token (`name`, `groups`); each signs in by that name,
                without a password. Clients that ask for them need `authorization_code` among their grants.
            evaluations_url: AuthZEN access evaluations endpoint, called at each issuance; None calls none.
            token_file: file with the bearer token for it, read each time.
            timeout_ms: how long to wait for an answer, milliseconds.
            fail: `closed` denies a token when there is no answer, `open` issues it as if there were no policy.
        """
        asked = {
            "url": evaluations_url,
            "token_file": None if token_file is None else str(token_file),
            "timeout_ms": timeout_ms,
            "fail": fail,
        }
        self._configure(
            {
                "resources": resources or RESOURCES,
                "lifetime_s": lifetime_s,
                "policy_version": policy_version,
                "clients": list(clients),
                "operators": list(operators),
                "users": users or {},
                "trustwatch": None if evaluations_url is None else asked,
            }
        )

    def status(self) -> dict[str, Any]:
        """As of every server, with the issuer."""
        return super().status() | {"issuer": self.issuer}

    def _files(self) -> dict[str, str]:
        configuration = {"issuer": self.issuer, "port": self.port} | self.settings
        return {
            "configuration.json": json.dumps(configuration, indent=2) + "\n",
            "server.mjs": (SOURCE / "server.mjs").read_text(),
        }

    def _before(self) -> None:
        link = self.folder / "node_modules"  # Node looks for packages next to the program
        link.unlink(missing_ok=True)
        link.symlink_to(node_modules())

    def _command(self) -> list[str | Path]:
        node_modules()
        return [node(), "--no-warnings", self.folder / "server.mjs", self.folder / "configuration.json"]

    def _environment(self) -> dict[str, str]:
        return {"NODE_ENV": "production"}

    def _ready(self) -> bool:
        return answers(f"{self.url}/.well-known/openid-configuration")
