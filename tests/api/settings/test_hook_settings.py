"""Settings of hooks: errors name the place, and never the secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from trustwatch.api.settings.loading import load_settings
from trustwatch.ingest.errors import ConfigError

SECRET = "a secret of 24 letters!!"
HYDRA = f'name: hydra, kind: hydra, tenant: acme, issuer: "https://as.example", secret: "{SECRET}"'


@pytest.mark.parametrize(
    ("hooks", "said"),
    [
        ("{name: h, kind: hydra, tenant: acme, issuer: i}", "missing required field `secret`"),
        (f'{{name: h, kind: okta, issuer: i, secret: "{SECRET}"}}', "missing required field `tenant`"),
        (f'{{name: h, kind: wso2, tenant: acme, secret: "{SECRET}"}}', "missing required field `issuer`"),
        ("{name: h, kind: hydra, tenant: acme, issuer: i, secret: short}", "at least 16 printable ASCII characters"),
        (f"{{{HYDRA.replace('24', 'ü')}}}", "at least 16 printable ASCII characters"),
        (f"{{{HYDRA}, proof: basic}}", "`user:password`"),
        (f"{{{HYDRA}, proof: mtls}}", "one of header, bearer, basic"),
        (f"{{{HYDRA}, header: X-Key}}", "$.hooks[0].header"),
        (f"{{{HYDRA}, agent: 'a['}}", "`agent`: no JMESPath expression"),
        (f"{{{HYDRA.replace('name: hydra', 'name: Hydra/1')}}}", "$.hooks[0].name"),
        (f"{{{HYDRA}}}, {{{HYDRA}}}", "$.hooks[1].name"),
        (f"{{{HYDRA}, on_failure: maybe}}", "one of open, closed"),
        (f'{{name: a, kind: authzen, secret: "{SECRET}"}}', "is not allowed for kind `authzen`"),
        ("{name: a, kind: authzen}, {name: b, kind: authzen}", "only one hook may be of kind `authzen`"),
        ("{name: k, kind: keycloak}", "one of hydra, okta, wso2, zitadel, authzen"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, hooks: str, said: str) -> None:
    file = tmp_path / "trustwatch.yaml"
    file.write_text(f"hooks: [{hooks}]", encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        load_settings(file, {})

    assert said in str(refused.value)
    assert SECRET not in str(refused.value)


def test_secrets_come_from_files_and_the_environment(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(SECRET + "\n")
    file = tmp_path / "trustwatch.yaml"
    for given in ("{file: key}", "{env: HOOK_KEY}"):
        file.write_text(f"hooks: [{{{HYDRA.replace(repr(SECRET).replace(chr(39), chr(34)), given)}}}]")
        settings = load_settings(file, {"HOOK_KEY": SECRET})

        assert settings.hooks[0].secret is not None
        assert settings.hooks[0].secret.reveal() == SECRET
        assert SECRET not in repr(settings)
