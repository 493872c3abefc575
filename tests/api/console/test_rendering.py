"""Parts of pages, and the vendored files."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import pytest

from trustwatch.api import console
from trustwatch.api.console import rendering
from trustwatch.api.console.rendering import StaticAssets
from trustwatch.api.settings.loading import load_settings
from trustwatch.ingest.errors import ConfigError

VENDOR = Path(str(console.__file__)).parent / "static" / "vendor"
MANIFEST = json.loads((VENDOR / "manifest.json").read_text(encoding="utf-8"))
FILES = [(package, file) for package in MANIFEST["packages"] for file in package["files"]]


@pytest.mark.parametrize(("package", "file"), FILES, ids=[file["path"] for _, file in FILES])
def test_vendored_files_are_what_the_manifest_says(package: dict[str, Any], file: dict[str, str]) -> None:
    assert hashlib.sha256((VENDOR / file["path"]).read_bytes()).hexdigest() == file["sha256"]
    assert any(one["path"].endswith("LICENSE") for one in package["files"])
    assert package["version"] and package["licence"]


def test_nothing_else_is_vendored() -> None:
    found = {path.relative_to(VENDOR).as_posix() for path in VENDOR.rglob("*") if path.is_file()}

    assert found == {file["path"] for _, file in FILES} | {"manifest.json"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("console: {enabled: true}", "no person could sign in"),
        ("console: {enabled: true, development_login: true}\nlisten: {host: 0.0.0.0}", "only for this machine"),
        (
            "console: {enabled: true, oidc: {issuer: 'https://i.example', client_id: c, name_claim: email, grants: "
            "[{name: a, claim: groups, value: a, tenants: [t]}]}}\nlisten: {host: 0.0.0.0}",
            "must not travel unencrypted",
        ),
        ("console: {development_login: true}\nlisten: {public_url: 'https://t.example'}", "only for this machine"),
        ("console: {session_key: short}", "at least 32"),
    ],
)
def test_settings_that_would_open_too_much_are_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "trustwatch.yaml").write_text(text)

    with pytest.raises(ConfigError, match=told):
        load_settings(tmp_path / "trustwatch.yaml", {})


def test_the_text_of_the_pages_needs_every_value() -> None:
    renderer = rendering.PageRenderer(StaticAssets(), (), lambda: 0)
    request: Any = SimpleNamespace(url=SimpleNamespace(path="/"), headers={})
    with pytest.raises(jinja2.UndefinedError):
        renderer.page(request, "sign_in.html", None)


def test_a_name_turns_nothing_round_and_form_fields_are_exact() -> None:
    renderer = rendering.PageRenderer(StaticAssets(), (), lambda: 0)
    environment = renderer._environment
    name = "nimda\u202e\u2066\x9b31m<b>\u00fc"
    shown = environment.from_string("<td>{{ name }}, {{ name | breakable }}</td>{{ '%s' | format(name) }}")
    text = shown.render(name=name)
    assert not any(mark in text for mark in "\u202e\u2066\x9b")
    assert text.count("nimda\\u202e\\u2066\\x9b31m&lt;b&gt;\u00fc") == 3
    field = environment.from_string('<input value="{{ name | e }}">')
    assert field.render(name=name) == '<input value="nimda\u202e\u2066\x9b31m&lt;b&gt;\u00fc">'


def test_every_form_field_of_the_templates_is_exact() -> None:
    for template in (Path(str(console.__file__)).parent / "templates").glob("*.html"):
        for value in re.findall(r'value="\{\{ ([^}]*) \}\}"', template.read_text(encoding="utf-8")):
            assert value.endswith("| e"), f"{template.name}: {value}"
