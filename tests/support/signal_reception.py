"""A service that receives signals, and a transmitter whose SETs it takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

from trustwatch.api.settings.shared_signals_settings import SharedSignalsSettings, SignalTransmitterSettings
from trustwatch.api.shared_signals.signal_receiver import SignalReceiver
from trustwatch.ingest.formats.received_signals import WISE
from trustwatch.ingest.settings import Secret

from .shared_signals import ForeignTransmitter

SECRET = "the-secret-of-a-transmitter"
COMPROMISED = WISE + "workload-compromised"


class Reception:
    """A service that receives, and the transmitter whose SETs it takes."""

    def __init__(self, new_site: Callable[..., Any], folder: Path, **settings: Any) -> None:
        self.transmitter = ForeignTransmitter(folder)
        given = {
            "name": "idp",
            "issuer": self.transmitter.issuer,
            "audiences": ("trustwatch-signals",),
            "tenants": ("acme",),
            "issuers": ("https://as.example",),
            "jwks_file": self.transmitter.jwks,
            "push_secret": Secret(SECRET),
            **settings,
        }
        part = SharedSignalsSettings(transmitters=(SignalTransmitterSettings(**given),))
        self.site = new_site(shared_signals=part)

    @property
    def receiver(self) -> SignalReceiver:
        receiver: SignalReceiver = self.site.app.app.state.services.get(SignalReceiver)
        return receiver

    @property
    def outcomes(self) -> Counter[str]:
        return Counter({outcome: count for (_, outcome), count in self.receiver.outcomes.items() if count})

    def claims(self, event_type: str = COMPROMISED, number: int = 1, **more: Any) -> dict[str, Any]:
        return self.transmitter.claims(event_type, number, self.site.clock.now, **more)

    def push(self, token: str | bytes, secret: str = SECRET, **headers: str) -> httpx2.Response:
        """One push, as RFC 8935 has it; underscores in header names are hyphens."""
        given = {"content-type": "application/secevent+jwt", "accept": "application/json"}
        given |= {"authorization": f"Bearer {secret}"} if secret else {}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        content = token.encode() if isinstance(token, str) else token
        answer: httpx2.Response = self.site.client.post("/ssf/receive/idp", content=content, headers=given)
        return answer

    def send(self, event_type: str = COMPROMISED, number: int = 1, **more: Any) -> httpx2.Response:
        """Push a SET with such claims."""
        return self.push(self.transmitter.sign(self.claims(event_type, number, **more)))

    def types(self) -> list[str]:
        return [event["type"] for event in self.site.events()]


def refused(answer: httpx2.Response) -> str:
    """The error of a refusal that is as RFC 8935 has it."""
    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-language"] == "en"
    body = answer.json()
    assert set(body) == {"err", "description"}
    return str(body["err"])
