"""Command line of the services: `scripts/services`. Exit status: 0 done, 1 failed, 2 usage, 3 unavailable here."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import (
    Caddy,
    Envoy,
    Gateway,
    Hydra,
    KafkaCluster,
    Keycloak,
    Nginx,
    OidcProvider,
    OtelCollector,
    Postgres,
    Server,
    ServiceError,
    ServiceUnavailable,
)
from .caddy import caddy_program
from .chromium import chromium_program
from .envoy import envoy_program
from .hydra import hydra_program
from .kafka_jars import kafka_jars
from .keycloak import keycloak_home
from .nginx import nginx_program
from .oidc_provider import node_modules
from .otel_collector import collector_program
from .postgres import binaries
from .promtool import promtool_program
from .system import cache_folder

HOOK_HEADER = "X-Trustwatch-Key"
"""Header of the secret if the hook's settings name no other."""

HOOK_CLAIMS = ("risk_level", "policy_version")
"""What the hook writes into tokens, in addition to `ext` at their top, as described in docs/hooks.md."""

STORES = ("kafka", "kafka3", "postgres")
PEERS: dict[str, type[Server]] = {
    kind.NAME: kind for kind in (Hydra, Keycloak, OidcProvider, OtelCollector, Envoy, Caddy, Nginx)
}
SERVICES = (*STORES, *PEERS)
FETCHED: dict[str, Callable[[], str | Path]] = {
    "kafka": kafka_jars,
    "kafka3": kafka_jars,
    "postgres": binaries,
    "hydra": hydra_program,
    "keycloak": keycloak_home,
    "oidc-provider": node_modules,
    "otel-collector": collector_program,
    "envoy": envoy_program,
    "caddy": caddy_program,
    "nginx": nginx_program,
    "chromium": chromium_program,
    "promtool": promtool_program,
}
Service = KafkaCluster | Postgres | Server


def main(arguments: list[str]) -> int:
    """Run the command line. Returns the exit status."""
    given = _parser().parse_args(arguments)
    try:
        given.do(given)
    except ServiceUnavailable as error:
        print(f"services: can not be had here: {error}", file=sys.stderr)
        return 3
    except (ServiceError, OSError) as error:
        print(f"services: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("scripts/services", description="What Trustwatch works with, on loopback.")
    parser.add_argument("--state", type=Path, help="folder of the services (default: services in the cache folder)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    start = _command(commands, "start", _start, f"start, and wait until they answer; all: {', '.join(STORES)}")
    _which(start)
    start.add_argument("--port", type=int, help="of a peer, its first one; others follow (first start; default: free)")
    start.add_argument("--upstream", metavar="URL", help="gateways: where requests go (first start)")
    start.add_argument("--check", metavar="URL", help="gateways: who is asked about each request (first start)")
    start.add_argument(
        "--identity",
        metavar="ISSUER=JWKS_URL",
        action="append",
        type=_pair,
        help="envoy: whose tokens it verifies to log who called (first start; may be repeated)",
    )
    start.add_argument("--token-hook", metavar="URL", help="hydra: who is asked at each issuance")
    start.add_argument(
        "--hook-secret", metavar="FILE", type=Path, help="hydra: with the secret by which it proves itself to that"
    )
    start.add_argument(
        "--hook-header", metavar="NAME", default=HOOK_HEADER, help="hydra: header of the secret (default: %(default)s)"
    )
    start.add_argument("--evaluations", metavar="URL", help="oidc-provider: AuthZEN endpoint, asked at each issuance")
    start.add_argument("--forward", metavar="URL", help="otel-collector: who gets all spans beside its file")
    start.add_argument(
        "--token-file", metavar="FILE", type=Path, help="oidc-provider, otel-collector: with the bearer token for that"
    )
    start.add_argument("--secure", action="store_true", help="kafka: listeners with TLS and SASL too (first start)")
    start.add_argument("--kafka-port", type=int, help="port of the (first) broker (first start; default: a free one)")
    start.add_argument("--postgres-port", type=int, help="port of PostgreSQL (first start; default: a free one)")
    _which(_command(commands, "stop", _stop, "end them in good order; data stay"))
    _which(_command(commands, "remove", _remove, "end them and delete their data"))
    status = _command(commands, "status", _status, "what runs where")
    _which(status)
    status.add_argument("--json", action="store_true", help="all that is known, passwords included")
    for name, action, text in (
        ("kill-broker", _kill, "kill -9 of one broker of kafka3"),
        ("start-broker", _start_broker, "start one broker of kafka3 again"),
    ):
        _command(commands, name, action, text).add_argument("number", type=int, choices=(1, 2, 3))
    _which(_command(commands, "fetch", _fetch, "download and install what is needed, start nothing"), tuple(FETCHED))
    return parser


def _command(commands: Any, name: str, action: Any, text: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(name, help=text)
    made.set_defaults(do=action)
    return made


def _which(parser: argparse.ArgumentParser, names: tuple[str, ...] = SERVICES) -> None:
    parser.add_argument("service", nargs="?", default="all", choices=(*names, "all"))


def _folder(given: argparse.Namespace, name: str) -> Path:
    return (given.state or cache_folder() / "services") / name


def _chosen(given: argparse.Namespace) -> list[str]:
    if given.service != "all":
        return [given.service]
    return list({_start: STORES, _fetch: FETCHED}.get(given.do, SERVICES))


def _open(given: argparse.Namespace, name: str) -> Service:
    folder = _folder(given, name)
    if name in PEERS:
        return PEERS[name](folder, port=getattr(given, "port", None))
    if name == "postgres":
        return Postgres(folder, port=getattr(given, "postgres_port", None))
    port = getattr(given, "kafka_port", None)
    if name == "kafka3":
        return KafkaCluster(folder, 3, heap_mb=256, port=None if port is None else port + 10)
    return KafkaCluster(folder, secure=getattr(given, "secure", False), port=port)


def _existing(given: argparse.Namespace) -> dict[str, Service]:
    names = [name for name in _chosen(given) if (_folder(given, name) / "state.json").exists()]
    return {name: _open(given, name) for name in names}


def _start(given: argparse.Namespace) -> None:
    for name in _chosen(given):
        began = time.monotonic()
        service = _open(given, name)
        _configure(given, service)
        service.start()
        print(f"{name}: {_where(service)} (ready after {time.monotonic() - began:.1f} s)")


def _configure(given: argparse.Namespace, service: Service) -> None:
    """Apply the options of the command line; all other settings stay as they were."""
    if isinstance(service, Hydra) and (given.token_hook is not None or given.hook_secret is not None):
        _configure_hook(given, service)
    if isinstance(service, OidcProvider) and given.evaluations is not None:
        file = None if given.token_file is None else given.token_file.absolute()
        service.configure(evaluations_url=given.evaluations, token_file=file)
    if isinstance(service, OtelCollector) and given.forward is not None:
        token = None if given.token_file is None else given.token_file.read_text(encoding="ascii").strip()
        service.configure(forward=given.forward, token=token)
    if isinstance(service, Gateway):
        _configure_gateway(given, service)


def _configure_hook(given: argparse.Namespace, hydra: Hydra) -> None:
    """A hook without a secret would refuse every request, and Hydra every token."""
    settings = hydra.settings
    hook, key = given.token_hook or settings["token_hook"], settings["hook_key"]
    if given.hook_secret is not None:
        secret = given.hook_secret.read_text(encoding="ascii").strip()
        if not secret:
            raise ServiceError(f"hydra: {given.hook_secret} is empty")
        key = (given.hook_header, secret)
    if hook is None or key is None:
        raise ServiceError("hydra: --token-hook URL and --hook-secret FILE go together; FILE is `hooks[].secret`")
    claims = settings["top_level_claims"] or HOOK_CLAIMS
    hydra.configure(**settings | {"token_hook": hook, "hook_key": key, "top_level_claims": tuple(claims)})


def _configure_gateway(given: argparse.Namespace, gateway: Gateway) -> None:
    if given.upstream is not None and given.check is not None:
        gateway.configure(given.upstream, given.check, identity=dict(given.identity or ()))
    elif not gateway.configured:
        raise ServiceError(f"{gateway.NAME}: the first start needs --upstream URL and --check URL")


def _pair(text: str) -> tuple[str, str]:
    issuer, separator, url = text.rpartition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not ISSUER=JWKS_URL")
    return issuer, url


def _where(service: Service) -> str:
    if isinstance(service, KafkaCluster):
        return service.bootstrap
    return service.url.rpartition("@")[2] if isinstance(service, Postgres) else service.url


def _stop(given: argparse.Namespace) -> None:
    for name, service in _existing(given).items():
        service.stop()
        print(f"{name}: stopped")


def _remove(given: argparse.Namespace) -> None:
    for name, service in _existing(given).items():
        service.remove()
        print(f"{name}: removed")


def _kill(given: argparse.Namespace) -> None:
    _cluster(given).kill_node(given.number)


def _start_broker(given: argparse.Namespace) -> None:
    _cluster(given).start_node(given.number)


def _cluster(given: argparse.Namespace) -> KafkaCluster:
    folder = _folder(given, "kafka3")
    if not (folder / "state.json").exists():
        raise ServiceError(f"{folder}: no cluster; first: scripts/services start kafka3")
    return KafkaCluster(folder)


def _fetch(given: argparse.Namespace) -> None:
    for name in _chosen(given):
        print(f"{name}: {FETCHED[name]()}")


def _status(given: argparse.Namespace) -> None:
    found = {name: service.status() for name, service in _existing(given).items()}
    if given.json:
        print(json.dumps(found, indent=2))
        return
    rows = [("service", "runs", "pid", "address", "log")]
    for name in _chosen(given):
        rows += _rows(name, found[name]) if name in found else [(name, "no", "-", "-", "-")]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, (*widths, 0), strict=True)).rstrip())


def _rows(name: str, status: dict[str, Any]) -> list[tuple[str, str, str, str, str]]:
    parts = status.get("nodes", [status])
    return [
        (
            f"{name}/{part['number']}" if len(parts) > 1 else name,
            "yes" if part["alive"] else "no",
            str(part["pid"] or "-"),
            f"127.0.0.1:{part['port']}",
            part["log"],
        )
        for part in parts
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
