"""The servers that Trustwatch works with, on loopback without Docker: for tests, and for trying things by hand.

Apache Kafka and PostgreSQL carry the distributed form. The others are peers: authorization servers (Ory Hydra,
Keycloak, node-oidc-provider), gateways (Envoy, Caddy, NGINX), an OpenTelemetry Collector, each a `Server`.

Linux, standard library only, so that it runs before any environment exists. `scripts/services` is its command line;
tests use the classes (`tests/conftest.py` has the fixtures). Not for production: secrets are in files next to the data,
everything listens on 127.0.0.1 only, and Kafka keeps records forever, however old their timestamps are.
"""

from .caddy import Caddy
from .envoy import Envoy
from .gateway_server import Gateway
from .hydra import Hydra
from .kafka import KAFKA_VERSION, KafkaCluster, TlsListeners
from .keycloak import Keycloak
from .nginx import Nginx
from .oidc_provider import OidcProvider
from .otel_collector import OtelCollector
from .postgres import Postgres
from .server import Server
from .system import ServiceError, ServiceUnavailable

__all__ = [
    "KAFKA_VERSION",
    "Caddy",
    "Envoy",
    "Gateway",
    "Hydra",
    "KafkaCluster",
    "Keycloak",
    "Nginx",
    "OidcProvider",
    "OtelCollector",
    "Postgres",
    "Server",
    "ServiceError",
    "ServiceUnavailable",
    "TlsListeners",
]
