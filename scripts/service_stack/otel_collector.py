"""An OpenTelemetry Collector, built once with Go into the cache: it writes what it gets to a file, and hands it on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from .go_program import built_go_program
from .server import HOST, Server, listens

COLLECTOR_VERSION = "0.160.0"
"""The newest whose core and file exporter the Go module proxy is known to have whole."""
STABLE_VERSION = "1.66.0"
"""Version of the collector's modules that are past 1.0."""

GO_MOD = f"""\
module trustwatch/otelcollector

go 1.25.0

require (
	github.com/open-telemetry/opentelemetry-collector-contrib/exporter/fileexporter v{COLLECTOR_VERSION}
	go.opentelemetry.io/collector/component v{STABLE_VERSION}
	go.opentelemetry.io/collector/confmap v{STABLE_VERSION}
	go.opentelemetry.io/collector/confmap/provider/envprovider v{STABLE_VERSION}
	go.opentelemetry.io/collector/confmap/provider/fileprovider v{STABLE_VERSION}
	go.opentelemetry.io/collector/exporter v{STABLE_VERSION}
	go.opentelemetry.io/collector/exporter/otlphttpexporter v{COLLECTOR_VERSION}
	go.opentelemetry.io/collector/otelcol v{COLLECTOR_VERSION}
	go.opentelemetry.io/collector/processor v{STABLE_VERSION}
	go.opentelemetry.io/collector/processor/batchprocessor v{COLLECTOR_VERSION}
	go.opentelemetry.io/collector/receiver v{STABLE_VERSION}
	go.opentelemetry.io/collector/receiver/otlpreceiver v{COLLECTOR_VERSION}
	go.opentelemetry.io/collector/service v{COLLECTOR_VERSION}
)
"""


def collector_program() -> Path:
    """Path of the program, built if it is not in the cache: 140 s of one core.

    Raises:
        Unavailable: no Go, or it cannot be fetched or built.
    """
    source = Path(__file__).with_name("otel_collector.go").read_text(encoding="utf-8")
    return built_go_program("otel-collector", source, GO_MOD)


class OtelCollector(Server):
    """A collector that takes OTLP over HTTP on `url`, protobuf or JSON, and writes it to `spans_file`.

    Configured with another collector (Trustwatch's intake is one), it hands all on to that, too.
    """

    NAME = "otel-collector"
    PORTS: ClassVar[tuple[str, ...]] = ("otlp",)
    DEFAULTS: ClassVar[dict[str, Any]] = {"forward": None, "encoding": "json", "token": None}

    @property
    def spans_file(self) -> Path:
        """OTLP/JSON, an export request on each line."""
        return self.folder / "spans.jsonl"

    def configure(self, *, forward: str | None = None, encoding: str = "json", token: str | None = None) -> None:
        """Set what the next `start` starts.

        Args:
            forward: `http://host:port` that spans go to as well; `/v1/traces` is added.
            encoding: `json` or `proto`, of what is handed on.
            token: bearer token for that.
        """
        self._configure({"forward": forward, "encoding": encoding, "token": token})

    def _files(self) -> dict[str, str]:
        return {"collector.json": json.dumps(self._configuration(), indent=2) + "\n"}

    def _configuration(self) -> dict[str, Any]:
        exporters: dict[str, Any] = {
            "file": {"path": str(self.spans_file), "append": True, "flush_interval": "100ms"},
        }
        if self.settings["forward"] is not None:
            exporters["otlp_http/trustwatch"] = {
                "endpoint": self.settings["forward"],
                "encoding": self.settings["encoding"],
                "headers": {"authorization": "Bearer ${env:TOKEN}"},
            }
        pipeline = {"receivers": ["otlp"], "processors": ["batch"], "exporters": list(exporters)}
        return {
            "receivers": {"otlp": {"protocols": {"http": {"endpoint": f"{HOST}:{self.port}"}}}},
            "processors": {"batch": {"timeout": "200ms"}},
            "exporters": exporters,
            "service": {"telemetry": {"metrics": {"level": "none"}}, "pipelines": {"traces": pipeline}},
        }

    def _environment(self) -> dict[str, str]:
        return {"TOKEN": self.settings["token"] or ""}

    def _command(self) -> list[str | Path]:
        return [collector_program(), "--config", f"file:{self.folder / 'collector.json'}"]

    def _ready(self) -> bool:
        return listens(self.port)
