"""Every client of another service is made in one place, and trusts the authorities that the settings name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.support.checkout import ROOT

FOLDERS = ("ingest", "models", "scoring", "api", "lab", "simulator")

MAKES_CLIENTS = {
    "ingest/outgoing_http.py": "the one place",
    "ingest/kafka/kafka_python/client_connection.py": "tokens for brokers, by the brokers' own `ca_file`",
    "api/cli/service_commands.py": "commands that ask the service; they trust what SSL_CERT_FILE names",
    "simulator/demo.py": "the demo asks the service that it has started",
}
"""Modules that make a client or a TLS context, and why each does."""

CONSTRUCTORS = {
    *(f"httpx2.{name}" for name in ("Client", "AsyncClient", "get", "post", "put", "patch", "delete", "request")),
    *(f"httpx2.{name}" for name in ("stream", "HTTPTransport", "AsyncHTTPTransport", "create_ssl_context")),
    *("ssl.create_default_context", "ssl.SSLContext", "requests.Session", "urllib.request.urlopen", "smtplib.SMTP"),
}
TAKES_AUTHORITIES = {
    *("make_http_client", "make_webhook_client", "trusted_authorities", "_EncryptionKeyCache", "JwksCache"),
    *("SetEncryption", "GatewayIssuers", "SignalReceiver", "OpenIdProvider"),
}
"""Callables that make such a client, at once or later."""


def calls(source: str) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def modules() -> Iterator[tuple[str, str]]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), Path(path).read_text(encoding="utf-8")


def passes_authorities(call: ast.Call) -> bool:
    given = [*call.args, *(keyword.value for keyword in call.keywords)]
    return any(ast.unparse(argument).lstrip("_").rpartition(".")[2].lstrip("_") == "ca_file" for argument in given)


def test_clients_are_made_in_one_place() -> None:
    """Another module that makes one would trust the system's authorities alone."""
    found = {name for name, source in modules() if any(called in CONSTRUCTORS for called, _ in calls(source))}
    assert found == set(MAKES_CLIENTS)


def test_no_client_forgets_the_authorities() -> None:
    """Whatever makes a client is given `outgoing.ca_file`."""
    checked, forgotten = 0, []
    for name, source in modules():
        for called, call in calls(source):
            if called in TAKES_AUTHORITIES:
                checked += 1
                if not passes_authorities(call):
                    forgotten.append(f"{name}:{call.lineno}: {called}")
    assert forgotten == []
    assert checked >= 20
