"""Decryption of what transmitters encrypt to keys of ours: which algorithms and keys count, how keys are replaced."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwe, jwk

from trustwatch.api.http.auth.set_encryption import encrypt_token, parse_encryption_keys
from trustwatch.api.http.auth.set_verification import SetErrorCode, SetRefused
from trustwatch.api.http.auth.signing import SetDecryption
from trustwatch.ingest import extras
from trustwatch.ingest.errors import ConfigError

from ....support.proofs import encryption_jwk

DAY = 86_400.0
START = 1_764_000_000.0
TOKEN = "a.b.c"


class Process:
    """Keys of one process, and its clock."""

    def __init__(self, folder: Path) -> None:
        self.now = START
        self.decryption = SetDecryption(folder, 90 * DAY, lambda: self.now, lambda: self.now, "a setting asks")

    def published(self) -> dict[str, Any]:
        (key,) = json.loads(self.decryption.jwks())["keys"]
        return dict(key)

    def refusal(self, token: str) -> str:
        with pytest.raises(SetRefused) as refused:
            self.decryption.decrypt(token)
        return f"{refused.value.err}: {refused.value.description}"


@pytest.fixture
def process(tmp_path: Path) -> Process:
    return Process(tmp_path)


def encrypt(member: dict[str, Any], token: str = TOKEN, **header: Any) -> str:
    """As a transmitter does with our published key, by joserfc alone; None leaves a member of the header out."""
    said = {"alg": "RSA-OAEP-256", "enc": "A256GCM", "cty": "JWT", "kid": member["kid"], **header}
    kept = {name: value for name, value in said.items() if value is not None}
    public = {name: member[name] for name in ("kty", "n", "e")}
    registry = jwe.JWERegistry(algorithms=[kept["alg"], kept["enc"], "DEF"], strict_check_header=False)
    return jwe.encrypt_compact(kept, token, jwk.import_key(public), registry=registry)


def test_our_own_transmitter_to_our_own_key(process: Process) -> None:
    """What our encrypting side makes of the published set is read; nothing private is published."""
    document = process.decryption.jwks()
    (key,) = parse_encryption_keys(document).keys
    token = encrypt_token(TOKEN, key)

    assert process.decryption.decrypt(token) == TOKEN
    assert sorted(process.published()) == ["alg", "e", "kid", "kty", "n", "use"]
    assert (process.published()["alg"], process.published()["use"]) == ("RSA-OAEP-256", "enc")


@pytest.mark.parametrize("enc", ["A256GCM", "A192GCM", "A128GCM", "A256CBC-HS512", "A128CBC-HS256"])
def test_content_algorithms(process: Process, enc: str) -> None:
    assert process.decryption.decrypt(encrypt(process.published(), enc=enc)) == TOKEN


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ({"alg": "RSA-OAEP"}, "invalid_key: the encryption algorithm"),
        ({"zip": "DEF"}, "invalid_request: the encrypted SET uses compression"),
        ({"cty": "text/plain"}, "invalid_request: the header `cty`"),
        ({"kid": "of-somebody"}, "invalid_key: the SET is encrypted to a key that we do not publish"),
        ({"kid": "x" * 300}, "invalid_request: the header `kid`"),
    ],
    ids=["oaep-sha1", "zip", "cty", "kid", "long-kid"],
)
def test_headers_that_are_refused(process: Process, header: dict[str, Any], why: str) -> None:
    """Before anything is computed with a key; one algorithm for each key of ours (RFC 8725)."""
    assert process.refusal(encrypt(process.published(), **header)).startswith(why)


def test_what_is_lenient(process: Process) -> None:
    """Neither `kid` nor `cty` has to be there, and claims may be repeated in the header (RFC 7519, section 5.3)."""
    assert process.decryption.decrypt(encrypt(process.published(), kid=None, cty=None, iss="https://idp")) == TOKEN


def test_what_is_no_jwe(process: Process) -> None:
    ours = process.published()
    token = encrypt(ours)
    direct = base64.urlsafe_b64encode(b'{"alg":"dir","enc":"A128GCM"}').rstrip(b"=").decode()
    head, key, iv, content, tag = token.split(".")
    stranger = encryption_jwk() | {"kid": ours["kid"]}
    for wrong, why in (
        ("a.b.c.d.e", "invalid_request"),
        ("....", "invalid_request"),
        (f"{direct}..{iv}.{content}.{tag}", "invalid_key: the encryption algorithm"),
        (f"{head}.{key}.{iv}.{content}.", "invalid_key"),
        (f"{head}....", "invalid_key"),
        (f"{head}.{key}.{iv}.{content[:-4]}AAAA.{tag}", "invalid_key"),
        (f"{head}.!!!.{iv}.{content}.{tag}", "invalid_key"),
        (f"{head}.{'A' * 20_000}.{iv}.{content}.{tag}", "invalid_key"),
        (encrypt(stranger), "invalid_key"),
        (encrypt(stranger, kid=None), "invalid_key: the SET is not encrypted to a key of ours"),
        (encrypt(ours, token="a.b.\xe4"), "invalid_request: the content is not a SET"),
    ):
        assert process.refusal(wrong).startswith(why), wrong[:80]


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Process:
    """One process for many texts."""
    return Process(tmp_path_factory.mktemp("keys"))


@settings(deadline=None)
@given(st.data())
def test_whatever_comes_is_decrypted_or_refused(steady: Process, data: st.DataObject) -> None:
    """Damaged anywhere, with any header, or any text with four dots: never another error."""
    parts = encrypt(steady.published()).split(".")
    header = base64.urlsafe_b64encode(data.draw(st.binary(max_size=60))).rstrip(b"=").decode()
    text = st.text(st.characters(codec="ascii"), max_size=40).filter(lambda part: "." not in part)
    changed = data.draw(st.dictionaries(st.integers(0, 4), st.just(header) | text, max_size=3))
    token = ".".join(changed.get(at, part) for at, part in enumerate(parts))
    try:
        assert steady.decryption.decrypt(token) == TOKEN
    except SetRefused as refused:
        assert refused.err in get_args(SetErrorCode)


def test_a_key_of_another_process_counts_at_once(tmp_path: Path) -> None:
    """Made by one, published by it, and not read by the other yet: a name that is unknown has the folder read again."""
    one, other = Process(tmp_path), Process(tmp_path)
    first = other.published()
    one.now = other.now = START + 90 * DAY
    assert other.decryption.decrypt(encrypt(first)) == TOKEN
    one.decryption.rotate()
    second = one.published()

    assert second["kid"] != first["kid"]
    assert other.decryption.decrypt(encrypt(second)) == TOKEN


def test_rotation_overlaps(process: Process) -> None:
    """The newest is published; what comes to the one before is read for a week and a day, then the key is gone."""
    first = process.published()
    process.now += 90 * DAY
    process.decryption.rotate()
    assert process.published() != first
    process.now += 7 * DAY
    process.decryption.rotate()
    assert process.decryption.decrypt(encrypt(first)) == TOKEN
    process.now += 2 * DAY
    process.decryption.rotate()
    process.decryption.jwks()
    assert process.refusal(encrypt(first)).startswith("invalid_key")


def test_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda module: None if module == "joserfc" else module)
    with pytest.raises(ConfigError, match=r"a setting asks, but joserfc is not installed: .*\.\[jwe\]"):
        Process(tmp_path)
