"""SETs for receivers of other domains: signed, then encrypted to a key that they publish; never in clear."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from trustwatch.api.settings.access_settings import CallerSettings
from trustwatch.api.settings.root import Settings
from trustwatch.api.settings.shared_signals_settings import EncryptionSettings, SharedSignalsSettings
from trustwatch.api.shared_signals.transmitter_context import TransmitterContext
from trustwatch.ingest import extras
from trustwatch.ingest.errors import ConfigError
from trustwatch.scoring.delivery.shared_signals.event_types import RISK_LEVEL_CHANGE

from ...support.proofs import decrypted, encryption_jwk, public_jwk
from ...support.shared_signals import SetReceiver, announced

Transmit = Callable[..., Any]
OWN, NEXT = encryption_jwk(), encryption_jwk(kid="enc-2")


def publish(jwks: Path, *keys: dict[str, Any]) -> EncryptionSettings:
    jwks.write_text(json.dumps({"keys": [public_jwk(key) for key in keys]}))
    return EncryptionSettings(jwks_file=jwks)


def polled(receiver: Any, stream: dict[str, Any]) -> httpx2.Response:
    answer: httpx2.Response = receiver.poll(stream)
    return answer


def test_by_poll_and_push(transmit: Transmit, tmp_path: Path, receiver_of_pushes: SetReceiver) -> None:
    """The receiver of the settings decrypts, then verifies; another one's are as ever."""
    transmitter = transmit(encryption={"gateway": publish(tmp_path / "jwks.json", OWN)})
    receiver, plain = transmitter.receiver(), transmitter.receiver("all")
    streams = [receiver.create((RISK_LEVEL_CHANGE,)), plain.create((RISK_LEVEL_CHANGE,))]
    pushed = receiver.create_push(receiver_of_pushes.url, events=(RISK_LEVEL_CHANGE,))
    transmitter.commit(announced())

    (jti, token), *_ = polled(receiver, streams[0]).json()["sets"].items()
    claims = receiver.verified(decrypted(token, OWN), streams[0])
    assert (claims["jti"], claims["txn"]) == (jti, "d-1")
    assert receiver.verified(decrypted(receiver_of_pushes.tokens[0], OWN), pushed)["txn"] == "d-1"
    assert receiver_of_pushes.got[0][0]["content-type"] == "application/secevent+jwt"
    assert plain.sets(streams[1])[0]["txn"] == "d-1"


def test_without_a_key_nothing_leaves(transmit: Transmit, tmp_path: Path, receiver_of_pushes: SetReceiver) -> None:
    """Pushes are tried again, polls get 503 and lose nothing; with the key that comes, all of it does."""
    jwks = tmp_path / "jwks.json"
    signing_key_alone = {**OWN, "use": "sig"}
    transmitter = transmit(encryption={"gateway": publish(jwks, signing_key_alone)})
    receiver = transmitter.receiver()
    stream = receiver.create((RISK_LEVEL_CHANGE,))
    receiver.create_push(receiver_of_pushes.url, events=(RISK_LEVEL_CHANGE,))
    transmitter.commit(announced())

    assert polled(receiver, stream).status_code == 503
    assert receiver_of_pushes.got == []
    assert transmitter.context.outcomes["retry"] == 1
    publish(jwks, NEXT, OWN)
    encryption = transmitter.context.encryption
    transmitter.site.wait(encryption._cache._refresh(encryption._cache._issuers["gateway"]))
    transmitter.site.clock.now += 10
    transmitter.step()
    (token,) = polled(receiver, stream).json()["sets"].values()
    assert receiver.verified(decrypted(token, NEXT), stream)["txn"] == "d-1"
    assert decrypted(receiver_of_pushes.tokens[0], NEXT).count(".") == 2


def test_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At start, not at the first SET; a receiver that is no caller is a wrong setting."""
    monkeypatch.setattr(extras, "find_spec", lambda module: None if module == "joserfc" else module)
    part = SharedSignalsSettings(enabled=True, encryption={"soc": publish(tmp_path / "jwks.json", OWN)})
    with pytest.raises(ValueError, match=r"no caller is called 'soc' - at `\$\.shared_signals\.encryption`"):
        Settings(shared_signals=part)
    settings = Settings(callers=(CallerSettings(name="soc", client_id="soc"),), shared_signals=part)
    with pytest.raises(ConfigError, match=r"\.\[jwe\]"):
        TransmitterContext(settings, lambda: 0.0, lambda: 0.0)
    with pytest.raises(ValueError, match="`jwks_uri` or `jwks_file`"):
        EncryptionSettings()
