"""Ory Hydra, an OAuth 2.0 authorization server: built once with Go into the cache, run in dev mode over plain HTTP."""

from __future__ import annotations

import functools
import json
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from .go_program import go_command
from .postgres import Postgres
from .server import HOST, Server, answers
from .system import ServiceError, ServiceUnavailable, cache_folder, last_lines, locked, run

HYDRA_VERSION = "2.3.0"
"""The newest that the Go module proxy has under /v2."""

BUILD_S = 1800

# `go install module@version` refuses modules with replace directives, which count in the main module alone: hence our
# own main module with those of Hydra. (The one for hydra-client-go is left out: its target is not in the archive.)
GO_MOD = f"""\
module trustwatch/hydra

go 1.22

require github.com/ory/hydra/v2 v{HYDRA_VERSION}

replace github.com/gobuffalo/pop/v6 => github.com/ory/pop/v6 v6.2.1-0.20241121111754-e5dfc0f3344b
"""
MAIN_GO = """\
package main

import "github.com/ory/hydra/v2/cmd"

func main() { cmd.Execute() }
"""


def hydra_program() -> Path:
    """Path of the program, built if it is not in the cache: two minutes on two cores, 300 MiB of modules.

    Raises:
        Unavailable: no Go, or it cannot be fetched or built.
    """
    program = cache_folder() / f"hydra-{HYDRA_VERSION}" / "hydra"
    if not program.exists():
        with locked(program.parent.with_name(program.parent.name + ".lock")):
            if not program.exists():
                _build(program)
    return program


def _build(program: Path) -> None:
    go = go_command()
    work = Path(tempfile.mkdtemp(prefix="hydra-", dir=cache_folder()))
    try:
        (work / "go.mod").write_text(GO_MOD)
        (work / "main.go").write_text(MAIN_GO)
        version = f"-X github.com/ory/hydra/v2/driver/config.Version=v{HYDRA_VERSION}"
        command: list[str | Path] = [
            "nice",
            go,
            "build",
            "-mod=mod",
            "-p",
            "1",
            "-trimpath",
            "-ldflags",
            f"-s -w {version}",
            "-o",
            work / "out" / "hydra",
            ".",
        ]
        done = run(command, folder=work, environment={"CGO_ENABLED": "0"}, timeout_s=BUILD_S)
        if done.returncode != 0:
            raise ServiceUnavailable(f"Go can not fetch or build Ory Hydra {HYDRA_VERSION}:\n{last_lines(done.stdout)}")
        (work / "out").rename(program.parent)
    except subprocess.TimeoutExpired:
        raise ServiceUnavailable(f"Go did not build Ory Hydra {HYDRA_VERSION} within {BUILD_S} s") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


class Hydra(Server):
    """Hydra with its own PostgreSQL: on SQLite it answers 500 as soon as two ask at once ("database is locked").

    The public API is at `url`, the admin API (open to all on loopback) at `admin_url`.

    Clients: `POST {admin_url}/admin/clients` or, dynamically, `POST {url}/oauth2/register`. A `client_assertion` must
    have the token endpoint as its audience: Hydra refuses the issuer.
    """

    NAME = "hydra"
    PORTS: ClassVar[tuple[str, ...]] = ("public", "admin")
    DEFAULTS: ClassVar[dict[str, Any]] = {
        "access_token": "jwt",
        "token_hook": None,
        "hook_key": None,
        "lifetime": "1h",
        "top_level_claims": (),
        "spans": None,
        "spans_token": None,
    }

    @property
    def issuer(self) -> str:
        """As in the `iss` of its tokens, slash at the end included."""
        return f"{self.url}/"

    @property
    def admin_url(self) -> str:
        """`http://host:port` of the admin API."""
        return self.url_of("admin")

    @property
    def token_url(self) -> str:
        """The token endpoint."""
        return f"{self.url}/oauth2/token"

    @property
    def jwks_url(self) -> str:
        """Public keys of its tokens."""
        return f"{self.url}/.well-known/jwks.json"

    def configure(
        self,
        *,
        access_token: str = "jwt",
        token_hook: str | None = None,
        hook_key: tuple[str, str] | None = None,
        lifetime: str = "1h",
        top_level_claims: tuple[str, ...] = (),
        spans: str | None = None,
        spans_token: str | None = None,
    ) -> None:
        """Set what the next `start` starts.

        Args:
            access_token: `jwt` or `opaque`.
            token_hook: URL that is called at each issuance.
            hook_key: (name, value) of the header by which Hydra authenticates to the hook.
            lifetime: of access tokens, as Go writes durations; a client's own lifespans come first.
            top_level_claims: claims of the hook that are copied from `ext` to the top of a JWT.
            spans: `http://host:port` that spans go to (OTLP, `/v1/traces`, protobuf), within a fifth of a second: its
                log does not name the client of a request, its span events do.
            spans_token: bearer token for that.
        """
        self._configure(
            {
                "access_token": access_token,
                "token_hook": token_hook,
                "hook_key": None if hook_key is None else list(hook_key),
                "lifetime": lifetime,
                "top_level_claims": list(top_level_claims),
                "spans": spans,
                "spans_token": spans_token,
            }
        )

    def stop(self) -> None:
        """End it and its database in good order. Data stay."""
        super().stop()
        self._database.stop()

    def remove(self, *, keep_logs: bool = False) -> None:
        """End both at once and delete *folder*, but for the log if that is to be kept."""
        self.kill()
        self._database.remove()
        super().remove(keep_logs=keep_logs)

    def status(self) -> dict[str, Any]:
        """As of every server, with the admin API's address."""
        return super().status() | {"admin_url": self.admin_url, "issuer": self.issuer}

    def _secrets(self) -> dict[str, Any]:
        return {"secret": secrets.token_urlsafe(32)}

    def _files(self) -> dict[str, str]:
        return {"hydra.json": json.dumps(self._configuration(), indent=2) + "\n"}

    def _configuration(self) -> dict[str, Any]:
        given = self.settings
        quiet = {"disable_for_health": True}
        oauth2 = {"allowed_top_level_claims": given["top_level_claims"]}
        made = {
            "dsn": self._dsn(),
            "serve": {
                name: {"host": HOST, "port": self.port_of(name), "request_log": quiet} for name in ("public", "admin")
            },
            "urls": {"self": {"issuer": self.issuer, "public": self.issuer}},
            "strategies": {"access_token": given["access_token"], "jwt": {"scope_claim": "both"}},
            "oauth2": oauth2 if given["token_hook"] is None else oauth2 | {"token_hook": _hook(given)},
            "oidc": {"dynamic_client_registration": {"enabled": True}},
            "ttl": {"access_token": given["lifetime"]},
            "secrets": {"system": [self._state["secret"]]},
            "log": {"format": "json", "level": "info"},
        }
        return made if given["spans"] is None else made | {"tracing": _tracing(given)}

    @functools.cached_property
    def _database(self) -> Postgres:
        return Postgres(self.folder / "postgres", bound=self._process.bound)

    def _dsn(self) -> str:
        return f"{self._database.url}?sslmode=disable&max_conns=20&max_idle_conns=10"

    def _command(self) -> list[str | Path]:
        return [hydra_program(), "serve", "all", "--dev", "--sqa-opt-out", "--config", self.folder / "hydra.json"]

    def _before(self) -> None:
        self._database.start()
        file = self.folder / "hydra.json"
        command: list[str | Path] = [hydra_program(), "migrate", "sql", "up", "--yes", "--config", file, self._dsn()]
        done = run(command, folder=self.folder)
        if done.returncode != 0:
            raise ServiceError(f"hydra migrate of {self.folder} failed:\n{last_lines(done.stdout)}")

    def _environment(self) -> dict[str, str]:
        return {"OTEL_BSP_SCHEDULE_DELAY": "200"}  # milliseconds; five seconds otherwise

    def _ready(self) -> bool:
        return answers(f"{self.admin_url}/health/ready") and answers(f"{self.url}/health/ready")


def _hook(given: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"url": given["token_hook"]}
    if given["hook_key"] is not None:
        name, value = given["hook_key"]
        made["auth"] = {"type": "api_key", "config": {"in": "header", "name": name, "value": value}}
    return made


def _tracing(given: dict[str, Any]) -> dict[str, Any]:
    otlp: dict[str, Any] = {
        "server_url": urlsplit(given["spans"]).netloc,
        "insecure": True,
        "sampling": {"sampling_ratio": 1},
    }
    if given["spans_token"] is not None:
        otlp["authorization_header"] = f"Bearer {given['spans_token']}"
    return {"provider": "otel", "service_name": "Ory Hydra", "providers": {"otlp": otlp}}
