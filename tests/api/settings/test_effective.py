"""The effective settings as a page or a command shows them, without secrets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from trustwatch.api.settings.effective import settings_yaml
from trustwatch.api.settings.loading import load_settings
from trustwatch.ingest.settings import Secret

FILE = """\
issuers:
  - issuer: "https://as.example"
    audiences: [trustwatch]
    jwks_uri: "https://as.example/jwks?page=2&token=in-the-url"
callers: [{name: gateway, client_id: gateway, tenants: [acme], issuers: ["https://as.example"]}]
store: {url: "postgresql://trustwatch@db.example/trustwatch?password=in-the-url", password: hidden-store-password}
listen: {public_url: "https://trust.example"}
console:
  enabled: true
  session_key: {file: session.key}
  oidc:
    issuer: "https://login.example"
    client_id: c
    client_secret: hidden-console-secret
    grants: [{name: a, value: b, scopes: ["trust.admin"], tenants: ["*"]}]
webhooks:
  - name: soc
    url: "https://hooks.example/services/hidden-in-a-path"
    secret: whsec_aGlkZGVuIHdlYmhvb2sgc2VjcmV0IGZvciB0ZXN0cw==
    previous_secret: whsec_aGlkZGVuIGZvcm1lciBzZWNyZXQgZm9yIHRlc3Rz
  - {name: pager, format: pagerduty, url: "https://events.pagerduty.com/v2/enqueue", routing_key: {env: PAGER}}
hooks: [{name: hydra, kind: hydra, tenant: acme, issuer: "https://as.example", secret: hidden-hook-secret-long}]
gateway:
  clients: [{client_id: kong, secret: hidden-gateway-secret, tenants: [acme]}]
actuators:
  - name: kc
    kind: keycloak
    url: "https://k"
    realm: r
    issuers: ["https://as.example"]
    auth: {client_id: tw, client_secret: hidden-actuator, token_url: "https://kc/token"}
  - {name: hy, kind: hydra, url: "https://h", issuers: [other], auth: {bearer: hidden-bearer-token}}
"""


def secrets_in(value: Any) -> Iterator[str]:
    if isinstance(value, Secret):
        yield value.reveal()
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from secrets_in(getattr(value, name))
    elif isinstance(value, dict):
        for below in value.values():
            yield from secrets_in(below)
    elif isinstance(value, list | tuple | set | frozenset):
        for below in value:
            yield from secrets_in(below)


def test_no_secret_of_a_settings_file_is_shown(tmp_path: Path) -> None:
    (tmp_path / "session.key").write_text("hidden-session-key-of-32-bytes-or-more!")
    file = tmp_path / "settings.yaml"
    file.write_text(FILE)
    settings = load_settings(file, {"PAGER": "hidden-routing-key"})

    shown = settings_yaml(settings)

    found = set(secrets_in(settings)) - {"https://events.pagerduty.com/v2/enqueue"}
    assert len(found) >= 11
    assert {secret for secret in found if secret in shown} == set()
    assert "hidden" not in shown and "in-the-url" not in shown and "whsec_" not in shown
    assert "https://as.example/jwks?page=***&token=***" in shown
