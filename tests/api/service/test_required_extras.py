"""What the settings need and is not installed is told at start, by the extra that brings it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from trustwatch.api.cli.main import make_app
from trustwatch.api.service.backends import check_extras
from trustwatch.api.settings.loading import load_settings
from trustwatch.api.settings.root import Settings
from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.extras import install_line
from trustwatch.ingest.kafka import open_admin, open_writer
from trustwatch.ingest.kafka.settings import KafkaClientSettings
from trustwatch.scoring.store.sql_store import open_store

NEEDED = {
    "archive: {directory: kept}": ("archive", "pyarrow", "`archive` names a folder"),
    "archive: {vectors: kept}": ("archive", "crc32c", "`archive` names a folder"),
    "kafka: {bootstrap_servers: ['127.0.0.1:1']}": ("kafka", "kafka", "`kafka.bootstrap_servers` names brokers"),
    "kafka: {bootstrap_servers: ['127.0.0.1:1'], client: confluent}": (
        "fast",
        "confluent_kafka",
        "`kafka.client` is `confluent`",
    ),
    "store: {url: 'postgresql://u@127.0.0.1:1/d'}": ("postgres", "psycopg", "`store.url` names PostgreSQL"),
}


def hide(monkeypatch: pytest.MonkeyPatch, modules: Iterable[str]) -> None:
    """Python finds no such modules; those that are loaded are forgotten."""
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)


def settings_of(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "t.yaml"
    path.write_text(text + "\n")
    return load_settings(path, {})


@pytest.mark.parametrize("text", NEEDED)
def test_a_missing_extra_is_named(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the setting that asks for it and the command that installs it."""
    extra, module, setting = NEEDED[text]
    settings = settings_of(tmp_path, text)
    check_extras(settings)

    hide(monkeypatch, [module])
    with pytest.raises(ConfigError) as error:
        check_extras(settings)

    assert str(error.value).startswith(f"{setting}, but ")
    assert str(error.value).endswith(f"not installed: {install_line(extra)}")


def test_all_that_is_missing_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who installs one extra should not meet the next error; without them the defaults are in order."""
    hide(monkeypatch, [module for _, module, _ in NEEDED.values()])
    twice = ("vectors", "servers: ['127.0.0.1:1']}")  # sections that another line has
    text = "\n".join(text for text in NEEDED if not any(word in text for word in twice))

    with pytest.raises(ConfigError) as error:
        check_extras(settings_of(tmp_path, text))
    check_extras(settings_of(tmp_path, "{}"))

    assert str(error.value).count("pip install") == 4


def test_serve_ends_before_it_makes_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No traceback, no folder, no model needed."""
    hide(monkeypatch, ["pyarrow"])
    (tmp_path / "t.yaml").write_text("archive: {directory: kept}\ndata_dir: data\n")

    done = CliRunner().invoke(make_app(), ["serve", "--settings", str(tmp_path / "t.yaml")])

    assert done.exit_code != 0
    assert install_line("archive") in f"{done.output}{done.exception}"
    assert [path.name for path in tmp_path.iterdir()] == ["t.yaml"]


@pytest.mark.parametrize("client", ["kafka-python", "confluent"])
def test_commands_that_use_kafka_name_it(client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where no service starts: `topics create`, `simulate --kafka`."""
    settings = msgspec.structs.replace(KafkaClientSettings(bootstrap_servers=("127.0.0.1:1",)), client=client)
    hide(monkeypatch, ["kafka", "confluent_kafka"])

    extra = "kafka" if client == "kafka-python" else "fast"
    with pytest.raises(ConfigError, match=r"kafka-python is not installed: pip install '\.\[kafka\]'"):
        open_admin(settings)
    with pytest.raises(ConfigError, match=rf"is not installed: pip install '\.\[{extra}\]'"):
        open_writer(settings)


def test_commands_that_open_postgresql_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the server is asked."""
    hide(monkeypatch, ["psycopg"])

    with pytest.raises(ConfigError, match=r"pip install '\.\[postgres\]'"):
        open_store("postgresql://u@127.0.0.1:1/d")


def test_otlp_without_protobuf_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON needs no extra, so the service starts, and says which callers may be refused."""
    callers = (
        "callers: [{name: collector, client_id: c, tenants: [acme], issuers: ['https://as.example'], sources: ['*'], "
        "agents: ['*'], format: otlp}]"
    )
    settings = settings_of(tmp_path, callers)
    with capture_logs() as logs:
        check_extras(settings)
    assert logs == []

    hide(monkeypatch, ["opentelemetry.proto"])
    with capture_logs() as logs:
        check_extras(settings)

    assert [(line["callers"], line["protobuf_needs"]) for line in logs] == [(["collector"], install_line("otlp"))]
