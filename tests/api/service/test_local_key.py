"""The local key that settings trust is there when the service starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from trustwatch.api.composition import RESTORING_FOLDER
from trustwatch.api.http.auth.signing import LOCAL_ISSUER, LOCAL_JWKS_FILE, LOCAL_KEY_FILE, LocalSigningKey
from trustwatch.api.service.serve import make_local_key
from trustwatch.api.settings.access_settings import IssuerSettings
from trustwatch.api.settings.root import Settings
from trustwatch.ingest.errors import ConfigError


def settings(folder: Path, file: Path, issuer: str = LOCAL_ISSUER) -> Settings:
    trusted = IssuerSettings(issuer=issuer, jwks_file=file, audiences=("trustwatch",))
    return Settings(data_dir=folder, issuers=(trusted,))


def test_it_is_made_once(tmp_path: Path) -> None:
    made = settings(tmp_path / "data", tmp_path / "data" / LOCAL_JWKS_FILE)
    make_local_key(made)
    before = (tmp_path / "data" / LOCAL_JWKS_FILE).read_bytes()
    make_local_key(made)
    assert LocalSigningKey.open(tmp_path / "data").jwks() == before


def test_none_is_made_where_a_restore_did_not_finish(tmp_path: Path) -> None:
    (tmp_path / "data" / RESTORING_FOLDER).mkdir(parents=True)
    with pytest.raises(ConfigError, match="is not finished"):
        make_local_key(settings(tmp_path / "data", tmp_path / "data" / LOCAL_JWKS_FILE))


@pytest.mark.parametrize(
    ("file", "issuer"), [("elsewhere/local-jwks.json", LOCAL_ISSUER), ("data/local-jwks.json", "https://as.example")]
)
def test_no_key_is_made_that_nobody_trusts(tmp_path: Path, file: str, issuer: str) -> None:
    make_local_key(settings(tmp_path / "data", tmp_path / file, issuer))
    assert not (tmp_path / "data" / LOCAL_KEY_FILE).exists()
