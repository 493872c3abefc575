"""Apache Kafka and PostgreSQL on loopback without Docker: for tests, and for trying the distributed form by hand.

Linux, standard library only, so that it runs before any environment exists. `scripts/services` is its command line;
tests use the classes (`tests/conftest.py` has the fixtures). Not for production: secrets lie in files beside the data,
everything listens on 127.0.0.1 alone, and Kafka keeps records for ever, however old their timestamps are.
"""

from .kafka import KAFKA_VERSION, KafkaCluster, Secured
from .postgres import Postgres
from .system import ServiceError, Unavailable

__all__ = ["KAFKA_VERSION", "KafkaCluster", "Postgres", "Secured", "ServiceError", "Unavailable"]
