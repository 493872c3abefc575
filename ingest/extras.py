"""Extras of the distribution: the libraries that a part needs beyond those that are always installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from .errors import ConfigError

ExtraName = Literal["archive", "fast", "jwe", "kafka", "otlp", "postgres", "traces"]

EXTRA_PACKAGES: dict[ExtraName, dict[str, str]] = {
    "archive": {"pyarrow": "pyarrow", "crc32c": "crc32c"},
    "fast": {"confluent_kafka": "confluent-kafka"},
    "jwe": {"joserfc": "joserfc"},
    "kafka": {"kafka": "kafka-python", "crc32c": "crc32c", "lz4": "lz4"},
    "otlp": {"opentelemetry.proto": "opentelemetry-proto"},
    "postgres": {"psycopg": "psycopg"},
    "traces": {
        "opentelemetry.exporter.otlp.proto.http": "opentelemetry-exporter-otlp-proto-http",
        "opentelemetry.instrumentation.asgi": "opentelemetry-instrumentation-asgi",
        "opentelemetry.sdk": "opentelemetry-sdk",
    },
}
"""Extra -> its modules and the packages that they come with. kafka-python works without crc32c at eight times the cost,
and fails at the first record that is compressed with a missing library: an extra is installed whole or not at all."""


def missing_packages(extra: ExtraName) -> list[str]:
    """Return the packages of an extra that are not installed."""
    missing = []
    for module, package in EXTRA_PACKAGES[extra].items():
        try:
            is_installed = find_spec(module) is not None
        except ModuleNotFoundError:  # of its parent package
            is_installed = False
        if not is_installed:
            missing.append(package)
    return missing


def require_extra(extra: ExtraName, needed_by: str) -> None:
    """Raise ConfigError if an extra is not installed."""
    if missing := missing_packages(extra):
        raise ConfigError(extra_missing(extra, needed_by, missing))


def extra_missing(extra: ExtraName, needed_by: str, missing: list[str]) -> str:
    """Return a message that names the extra to install."""
    packages = " and ".join(missing)
    return f"{needed_by}, but {packages} {'is' if len(missing) == 1 else 'are'} not installed: {install_line(extra)}"


def install_line(extra: str) -> str:
    """Return the command that installs an extra; no package index has Trustwatch, so it names a clone or a wheel."""
    return f"pip install '.[{extra}]' in a clone of Trustwatch, or 'path/to/WHEEL[{extra}]'"
