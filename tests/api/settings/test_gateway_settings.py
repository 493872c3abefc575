"""Settings of gateways: errors, and the example of the docs."""

from __future__ import annotations

from pathlib import Path

import pytest

from trustwatch.api.settings.loading import load_settings
from trustwatch.api.settings.root import Settings
from trustwatch.ingest.errors import ConfigError

ISSUER = 'issuer: "https://as.example", jwks_uri: "https://as.example/jwks", audiences: [a]'


def load(tmp_path: Path, text: str, **environ: str) -> Settings:
    file = tmp_path / "trustwatch.yaml"
    file.write_text(text)
    return load_settings(file, environ)


@pytest.mark.parametrize(
    ("gateway", "told"),
    [
        (f"issuers: [{{{ISSUER}}}]", ["`tenant`, `tenant_claim`", "gateway.issuers[0]"]),
        (f"issuers: [{{{ISSUER}, tenant: t}}, {{{ISSUER}, tenant: u}}]", ["two entries have the same name"]),
        (f"issuers: [{{{ISSUER}, tenant: t, client_id: c}}]", ["`client_secret` or a `private_key`"]),
        (f"issuers: [{{{ISSUER}, tenant: t, client_secret: c}}]", ["need a `client_id`"]),
        (f"issuers: [{{{ISSUER}, tenant: t, client_id: c, private_key: k}}]", ["`key_id`"]),
        (f"issuers: [{{{ISSUER}, tenant: t, revocation_url: 'http://as.example'}}]", ["https URL"]),
        (f"issuers: [{{{ISSUER}, tenant: t, introspection: {{url: 'ftp://x'}}}}]", ["https URL"]),
        ("clients: [{client_id: kong, secret: short}]", ["16", "gateway.clients[0]"]),
        ("clients: [{client_id: kong, secret: sixteen-letters-, tenants: []}]", ["tenants"]),
        ("safe_methods: [get]", ["safe_methods"]),
        ("risk_header: 'X-Risk: high'", ["risk_header"]),
        ("resource_metadata: 'http://api.example'", ["https URL"]),
        ("on_failure: maybe", ["open", "closed"]),
    ],
)
def test_wrong_settings_say_what_and_where(tmp_path: Path, gateway: str, told: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"gateway: {{{gateway}}}")

    for part in told:
        assert part in str(caught.value)
    assert "sixteen" not in str(caught.value)
    assert "short" not in str(caught.value).replace("shorter", "")
