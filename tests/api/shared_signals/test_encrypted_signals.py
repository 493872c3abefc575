"""SETs that come encrypted (JWE): taken where the settings say so, from our own transmitter too, and never kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from types import SimpleNamespace

import msgspec
import pytest

from trustwatch.api.http.auth.set_encryption import encrypt_token, parse_encryption_keys
from trustwatch.api.http.auth.signing import SetDecryption
from trustwatch.api.http.runtime import Runtime
from trustwatch.api.settings.shared_signals_settings import SharedSignalsSettings
from trustwatch.api.shared_signals.slice import _make_decryption
from trustwatch.ingest import extras
from trustwatch.ingest.errors import ConfigError

from ...support.proofs import encryption_jwk, public_jwk
from ...support.signal_reception import Reception, refused

RECEIVER_KEYS = "/ssf/receiver-jwks.json"


def encrypted(document: bytes | str, token: str, **header: str) -> str:
    """A token, encrypted to the first key of a JWKS."""
    (key,) = parse_encryption_keys(document.encode() if isinstance(document, str) else document).keys
    return encrypt_token(token, key._replace(header=dict(key.header) | header))


def sealed(reception: Reception, number: int = 1, **header: str) -> str:
    """A SET as a transmitter encrypts it that fetched our key."""
    keys = reception.site.client.get(RECEIVER_KEYS)
    assert keys.status_code == 200, keys.text
    return encrypted(keys.content, reception.transmitter.sign(reception.claims(number=number)), **header)


def test_an_encrypted_set_is_taken(receive: Callable[..., Reception]) -> None:
    """The key stands open to everybody; signed within encrypted counts as any other, once."""
    reception = receive(encrypted="accept")
    assert reception.push(sealed(reception)).status_code == 202
    assert reception.push(sealed(reception)).status_code == 202
    assert reception.types() == ["signal.hard"]
    assert reception.outcomes == {"hard": 1, "duplicate": 1}
    assert reception.send(number=2).status_code == 202


def test_only_encrypted_ones(receive: Callable[..., Reception]) -> None:
    """`require`: what travels in clear is refused, though its signature is right."""
    reception = receive(encrypted="require")
    assert refused(reception.send()) == "invalid_request"
    assert reception.push(sealed(reception)).status_code == 202


def test_none_unless_the_settings_say_so(reception: Reception) -> None:
    """No key is published then, and none is made."""
    assert reception.site.client.get(RECEIVER_KEYS).status_code == 404
    document = json.dumps({"keys": [public_jwk(encryption_jwk())]})
    assert refused(reception.push(encrypted(document, "a.b.c"))) == "invalid_request"
    assert list(reception.site.settings.data_dir.rglob("enc-*.pem")) == []


def test_what_is_refused(receive: Callable[..., Reception]) -> None:
    """Another key, a key of ours under another name, another algorithm, no signature within, and one within another."""
    reception = receive(encrypted="accept")
    ours = reception.site.client.get(RECEIVER_KEYS).content
    stranger = json.dumps({"keys": [public_jwk(encryption_jwk())]})
    signed = reception.transmitter.sign(reception.claims())
    twice = encrypted(ours, encrypted(ours, signed))
    for wrong, err in (
        (encrypted(stranger, signed), "invalid_key"),
        (sealed(reception, kid="enc-of-nobody"), "invalid_key"),
        (sealed(reception, alg="RSA-OAEP"), "invalid_key"),
        (encrypted(ours, "no token"), "invalid_request"),
        (encrypted(ours, signed[:-8] + "AAAAAAAA"), "invalid_key"),
        (encrypted(ours, reception.transmitter.sign(reception.claims(iss="https://evil.example"))), "invalid_issuer"),
        (twice, "invalid_request"),
    ):
        assert refused(reception.push(wrong)) == err
    assert reception.site.events() == []


def test_keys_that_can_not_be_read_cost_no_set(receive: Callable[..., Reception]) -> None:
    """503, and nothing is acknowledged; once they are back, it is taken."""
    reception = receive(encrypted="accept")
    token = sealed(reception)
    (key,) = reception.site.settings.data_dir.rglob("enc-*.pem")
    key.chmod(0o644)
    # A process that has not read them yet: this one may be reading them this very moment, to replace old ones.
    reception.receiver.decryption = SetDecryption(key.parent, 1e9, time.time, time.monotonic, "a test asks")
    assert reception.push(token).status_code == 503
    key.chmod(0o600)
    assert reception.push(token).status_code == 202


def test_nothing_of_it_stays(receive: Callable[..., Reception], capsys: pytest.CaptureFixture[str]) -> None:
    """Neither the token nor what was in it stands in store, log or a file: the event has what it says alone."""
    reception = receive(encrypted="accept")
    token = sealed(reception)
    signed = reception.transmitter.sign(reception.claims())
    for pushed in (token, token, sealed(reception, kid="another"), sealed(reception, 2)[:-4] + "AAAA"):
        reception.push(pushed)
    kept = b"".join(path.read_bytes() for path in reception.site.settings.data_dir.rglob("*") if path.is_file())
    kept += capsys.readouterr().out.encode()
    assert b"workload-compromised" in kept
    for part in (*token.split("."), *signed.split(".")):
        assert part[:60].encode() not in kept


def test_the_extra_is_named_at_start(reception: Reception, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the transmitters that need it; where none does, it is not asked for."""
    monkeypatch.setattr(extras, "find_spec", lambda module: None if module == "joserfc" else module)
    runtime = reception.site.app.app.state.services.get(Runtime)
    assert _make_decryption(runtime) is None
    (entry,) = runtime.settings.shared_signals.transmitters
    part = SharedSignalsSettings(transmitters=(msgspec.structs.replace(entry, encrypted="accept"),))
    asking = SimpleNamespace(
        settings=msgspec.structs.replace(runtime.settings, shared_signals=part),
        clock=time.time,
        monotonic=time.monotonic,
    )
    with pytest.raises(ConfigError, match=r"`encrypted` of `shared_signals.transmitters` \(idp\).*\.\[jwe\]"):
        _make_decryption(asking)  # type: ignore[arg-type]
