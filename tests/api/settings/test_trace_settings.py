"""Settings of traces: where spans go, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from trustwatch.api.settings.loading import load_settings
from trustwatch.api.settings.service_settings import TraceSettings
from trustwatch.ingest.errors import ConfigError


def load(tmp_path: Path, text: str, **environ: str) -> TraceSettings:
    file = tmp_path / "trustwatch.yaml"
    file.write_text(text)
    return load_settings(file, environ).traces


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
        ("http://collector.monitoring:4318/", "http://collector.monitoring:4318/v1/traces"),
        ("https://collector.example/otlp/v1/traces", "https://collector.example/otlp/v1/traces"),
    ],
)
def test_where_spans_go(tmp_path: Path, endpoint: str, url: str) -> None:
    """The path of OTLP is added where there is none."""
    assert load(tmp_path, f"traces: {{endpoint: '{endpoint}'}}").traces_url() == url


def test_nothing_is_traced_by_default(tmp_path: Path) -> None:
    """And a secret of the collector comes from where secrets are kept, or the environment."""
    assert load(tmp_path, "").endpoint is None
    made = load(
        tmp_path,
        "traces: {endpoint: 'https://c.example', headers: {api-key: {env: KEY}}}",
        KEY="s3cret",
        TRUSTWATCH__TRACES__SAMPLE_RATIO="0.5",
    )

    assert (made.headers["api-key"].reveal(), made.sample_ratio) == ("s3cret", 0.5)


@pytest.mark.parametrize(
    ("traces", "told"),
    [
        ("endpoint: collector:4318", ["`endpoint`", "URL", "$.traces"]),
        ("endpoint: 'ftp://collector'", ["`endpoint` must be an https URL"]),
        ("endpoint: 'grpc://collector:4317'", ["`endpoint` must be an https URL"]),
        ("endpoint: 'http://'", ["`endpoint`"]),
        ("endpoint: 'https://me:hunter2@collector'", ["may not hold a user or password"]),
        ("endpoint: 'https://collector/?key=hunter2'", ["no query", "`headers`"]),
        ("endpoint: 'http://collector', headers: {key: hunter2}", ["with `headers`", "http only to loopback"]),
        ("endpoint: 'https://c', headers: {'a b': hunter2}", ["'a b'"]),
        ('endpoint: "https://c", headers: {a: "hunter2\\r\\nx: y"}', ["`headers`", "'a'"]),
        ("sample_ratio: 1.5", ["$.traces.sample_ratio"]),
        ("service_name: ''", ["$.traces.service_name"]),
    ],
)
def test_wrong_settings_say_what_and_where(tmp_path: Path, traces: str, told: list[str]) -> None:
    """And never the value of a secret."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"traces: {{{traces}}}")

    for part in told:
        assert part in str(caught.value)
    assert "hunter2" not in str(caught.value)
