"""Our settings in librdkafka's words, and its errors in ours."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from ...errors import ConfigError, Unavailable
from ..settings import KafkaClientSettings

LIBRDKAFKA_LOGGER = logging.getLogger("trustwatch.kafka")
"""Takes librdkafka's own log lines, which would go to standard error otherwise."""

_RECONNECT_MS = 2_000
_CRITICAL_LOG_LEVEL = 2
"""Level of syslog: lost connections are told by `error_cb`, librdkafka would log each attempt too."""

_MAX_MESSAGE_BYTES = 1024 * 1024
_REFUSED_ERRORS = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError._INVALID_ARG,
    }
)


def connection_options(settings: KafkaClientSettings) -> dict[str, Any]:
    """What every client of librdkafka takes: addresses, security, time limits."""
    return {
        "bootstrap.servers": ",".join(settings.bootstrap_servers),
        "client.id": settings.client_id,
        "socket.timeout.ms": settings.request_timeout_ms,
        "reconnect.backoff.max.ms": _RECONNECT_MS,
        "message.max.bytes": _MAX_MESSAGE_BYTES,
        "log_level": _CRITICAL_LOG_LEVEL,
        "security.protocol": settings.security_protocol,
        **_tls_options(settings),
        **_sasl_options(settings),
    }


def _tls_options(settings: KafkaClientSettings) -> dict[str, Any]:
    if "SSL" not in settings.security_protocol:
        return {}
    tls = settings.tls
    files = {
        "ssl.ca.location": tls.ca_file,
        "ssl.certificate.location": tls.certificate_file,
        "ssl.key.location": tls.key_file,
        "ssl.key.password": tls.key_password,
    }
    check = "https" if tls.check_hostname else "none"
    return {"ssl.endpoint.identification.algorithm": check} | {name: value for name, value in files.items() if value}


def _sasl_options(settings: KafkaClientSettings) -> dict[str, Any]:
    sasl = settings.sasl
    if sasl is None or not settings.security_protocol.startswith("SASL"):
        return {}
    if sasl.mechanism != "OAUTHBEARER":
        return {
            "sasl.mechanisms": sasl.mechanism,
            "sasl.username": sasl.username,
            "sasl.password": sasl.password,
        }
    optional = {"sasl.oauthbearer.scope": sasl.scope, "https.ca.location": settings.tls.ca_file}
    return {
        "sasl.mechanisms": sasl.mechanism,
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.client.id": sasl.client_id,
        "sasl.oauthbearer.client.secret": sasl.client_secret,
        "sasl.oauthbearer.token.endpoint.url": sasl.token_endpoint,
    } | {name: value for name, value in optional.items() if value}


def translate_error(what: str, error: KafkaError) -> ConfigError | Unavailable:
    """Our error for one of librdkafka's; *what* was tried."""
    told = f"{what}: {error.name()}: {error.str()}"
    return ConfigError(told) if error.code() in _REFUSED_ERRORS else Unavailable(told)


@contextlib.contextmanager
def translated_errors(what: str) -> Iterator[None]:
    """Errors of librdkafka inside become ours.

    Raises:
        ConfigError: the broker refuses our login or our rights, or an option is wrong.
        Unavailable: anything else.
    """
    try:
        yield
    except KafkaException as error:
        raise translate_error(what, error.args[0]) from error
