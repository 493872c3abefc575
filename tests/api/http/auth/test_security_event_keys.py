"""Keys of the transmitter: one follows another without a gap, and secrets of receivers are sealed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest

from trustwatch.api.http.auth.signing import SecurityEventKeys
from trustwatch.ingest.errors import ConfigError

DAY = 86_400.0
START = 1_764_000_000.0


class Site:
    """Keys of one process, and its clock."""

    def __init__(self, folder: Path) -> None:
        self.now = START
        self.keys = SecurityEventKeys(folder, 90 * DAY, lambda: self.now, lambda: self.now)

    def kid(self) -> str:
        """The key that signs."""
        return str(jwt.get_unverified_header(self.keys.sign({"iss": "x"}))["kid"])

    def published(self) -> list[str]:
        return [key["kid"] for key in msgspec.json.decode(self.keys.jwks())["keys"]]


def test_rotation_overlaps(tmp_path: Path) -> None:
    """A new key is published a day before it signs, the old one a week after it did; another process agrees."""
    site, other = Site(tmp_path), Site(tmp_path)
    first = site.kid()
    assert other.kid() == first

    def after(days: float) -> tuple[str, list[str]]:
        site.now = other.now = START + days * DAY
        site.keys.rotate()
        site.keys.rotate()
        assert (other.kid(), other.published()) == (site.kid(), site.published())
        return site.kid(), site.published()

    assert after(89) == (first, [first])
    signs, published = after(90)
    assert (signs, len(published)) == (first, 2)
    second = published[1]
    assert after(91) == (second, [first, second])
    assert after(97) == (second, [first, second])
    assert after(99) == (second, [second])
    assert len(after(180)[1]) == 2


def test_a_set_is_verified_by_the_published_keys_alone(tmp_path: Path) -> None:
    """RS256 with 2,048 bits, `typ` and `kid`; nothing of the private key is published."""
    site = Site(tmp_path / "made" / "here")
    token = site.keys.sign({"iss": "https://trust.example", "jti": "1"})
    (key,) = msgspec.json.decode(site.keys.jwks())["keys"]
    header = jwt.get_unverified_header(token)

    assert header == {"alg": "RS256", "typ": "secevent+jwt", "kid": key["kid"]}
    assert sorted(key) == ["alg", "e", "kid", "kty", "n", "use"]
    assert jwt.decode(token, jwt.PyJWK(key).key, algorithms=["RS256"])["jti"] == "1"
    (path,) = (tmp_path / "made" / "here").glob("set-*.pem")
    assert path.stat().st_mode & 0o777 == 0o600


def test_secrets_are_sealed(tmp_path: Path) -> None:
    """Each time otherwise; read by who has the folder, and by nobody else."""
    keys = Site(tmp_path / "a").keys
    sealed = keys.seal("Bearer secret")

    assert "secret" not in sealed
    assert sealed != keys.seal("Bearer secret")
    assert Site(tmp_path / "a").keys.unseal(sealed) == "Bearer secret"
    assert (keys.seal(""), keys.unseal("")) == ("", "")
    with pytest.raises(ConfigError, match="sealing-key"):
        Site(tmp_path / "b").keys.unseal(sealed)


def open_to_others(folder: Path) -> None:
    next(folder.glob("set-*.pem")).chmod(0o644)


def no_key(folder: Path) -> None:
    next(folder.glob("set-*.pem")).write_text("no key")


def no_time(folder: Path) -> None:
    path = next(folder.glob("set-*.pem"))
    path.rename(path.with_name("set-new.pem"))


@pytest.mark.parametrize(
    ("spoil", "says"), [(open_to_others, "0600"), (no_key, "not a private key"), (no_time, "set-SECONDS.pem")]
)
def test_keys_that_can_not_be_used(tmp_path: Path, spoil: Any, says: str) -> None:
    Site(tmp_path).kid()
    spoil(tmp_path)
    with pytest.raises(ConfigError, match=says):
        Site(tmp_path).kid()


def test_a_folder_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file"):
        Site(tmp_path / "file" / "keys").kid()
