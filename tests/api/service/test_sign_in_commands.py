"""`trustwatch token` and `console-link` for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from trustwatch.api.cli.main import make_app
from trustwatch.api.http.auth.signing import LOCAL_ISSUER

SETTINGS = f"""
issuers: [{{issuer: "{LOCAL_ISSUER}", jwks_file: var/local-jwks.json, audiences: [trustwatch]}}]
console: {{enabled: true, development_login: true}}
"""


def document(*arguments: str) -> Any:
    return json.loads(CliRunner().invoke(make_app(), [*arguments, "--json"]).stdout)


def test_a_token_and_a_link_are_one_document(tmp_path: Path) -> None:
    """The members of a token response; the address of the link."""
    (tmp_path / "t.yaml").write_text(SETTINGS)
    given = ("--settings", str(tmp_path / "t.yaml"))
    token = document("token", *given, "--scope", "trust.ingest", "--lifetime", "60")

    assert token["access_token"].count(".") == 2
    assert (token["expires_in"], token["scope"]) == (60, "trust.ingest")
    assert document("console-link", *given)["url"].startswith("http://127.0.0.1:8420/console/dev-login?code=")
