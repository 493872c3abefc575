"""Real authorization servers and gateways for every test that asks for them.

`hydra`, `keycloak` and `oidc_provider` start at the first such test and end with the run; each test gets them running,
with their default configuration, whatever the test before did to them. `envoy`, `caddy`, `nginx` and
`otel_collector` are each test's own.
Where a server cannot be had, the test is skipped with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from scripts.service_stack import (
        Caddy,
        Envoy,
        Hydra,
        Keycloak,
        Nginx,
        OidcProvider,
        OtelCollector,
        Server,
    )


def _started(server: Server) -> Iterator[Server]:
    from scripts.service_stack import ServiceUnavailable

    try:
        server.start()
    except ServiceUnavailable as reason:
        server.remove()
        pytest.skip(f"SERVER NOT TO BE HAD: {server.NAME}: {reason}")
    yield server
    server.remove(keep_logs=True)


@pytest.fixture(scope="session")
def _hydra(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    from scripts.service_stack import Hydra

    yield from _started(Hydra(tmp_path_factory.mktemp("hydra"), bound=True))


@pytest.fixture
def hydra(_hydra: Hydra) -> Hydra:
    """Ory Hydra with JWT access tokens and no hook."""
    _hydra.configure()
    _hydra.start()
    return _hydra


@pytest.fixture(scope="session")
def _keycloak(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    from scripts.service_stack import Keycloak

    yield from _started(Keycloak(tmp_path_factory.mktemp("keycloak"), bound=True))


@pytest.fixture
def keycloak(_keycloak: Keycloak) -> Keycloak:
    """Keycloak; each test makes realms of its own."""
    _keycloak.configure()
    _keycloak.start()
    return _keycloak


@pytest.fixture(scope="session")
def _oidc_provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    from scripts.service_stack import OidcProvider

    yield from _started(OidcProvider(tmp_path_factory.mktemp("oidc-provider"), bound=True))


@pytest.fixture
def oidc_provider(_oidc_provider: OidcProvider) -> OidcProvider:
    _oidc_provider.configure()
    _oidc_provider.start()
    return _oidc_provider


@pytest.fixture
def envoy(tmp_path: Path) -> Iterator[Envoy]:
    """Envoy of this test alone, for it to configure and to start (`start_gateway`)."""
    from scripts.service_stack import Envoy

    yield from _unstarted(Envoy(tmp_path / "envoy", bound=True))


@pytest.fixture
def caddy(tmp_path: Path) -> Iterator[Caddy]:
    from scripts.service_stack import Caddy

    yield from _unstarted(Caddy(tmp_path / "caddy", bound=True))


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Nginx]:
    from scripts.service_stack import Nginx

    yield from _unstarted(Nginx(tmp_path / "nginx", bound=True))


@pytest.fixture(scope="session")
def _collector_program() -> Path:
    """Path of the collector, built once; where it cannot be built, that is not tried again in this run."""
    from scripts.service_stack import ServiceUnavailable
    from scripts.service_stack.otel_collector import collector_program

    try:
        return collector_program()
    except ServiceUnavailable as reason:
        pytest.skip(f"SERVER NOT TO BE HAD: otel-collector: {reason}")


@pytest.fixture
def otel_collector(tmp_path: Path, _collector_program: Path) -> Iterator[OtelCollector]:
    """An OpenTelemetry Collector, likewise; it hands nothing on unless it is configured."""
    from scripts.service_stack import OtelCollector

    yield from _unstarted(OtelCollector(tmp_path / "otel-collector", bound=True))


def _unstarted(server: Any) -> Iterator[Any]:
    yield server
    server.remove(keep_logs=True)


def start_gateway(gateway: Any, *configuration: str, **more: Any) -> None:
    """Configure and start a gateway or collector; skips the test where it cannot be had."""
    from scripts.service_stack import ServiceUnavailable

    gateway.configure(*configuration, **more)
    try:
        gateway.start()
    except ServiceUnavailable as reason:
        pytest.skip(f"SERVER NOT TO BE HAD: {gateway.NAME}: {reason}")
