"""What tests of shared signals share: announced decisions, a receiver of pushes, and one that polls."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt import PyJWKSet
from jwt.algorithms import RSAAlgorithm

from trustwatch.scoring.delivery.notifiers.alert_events import build_alert_row
from trustwatch.scoring.delivery.shared_signals.event_types import EVENTS_SUPPORTED
from trustwatch.scoring.records.commits import OutboxRow
from trustwatch.scoring.records.security_events import POLL_METHOD, PUSH_METHOD

from .console_records import decision_of, row_of
from .endpoint import Endpoint

POLICY = {"allow": True, "revoke": False}
REVOKING = {"allow": False, "revoke": True}
SERVICE = "https://trust.example"
Answer = tuple[int, bytes]


def announced(number: int = 1, level: int = 4, before: int = 1, *, revokes: bool = True, **more: Any) -> OutboxRow:
    """The outbox row of the decision *number*, as a commit writes it. `agent_id` and `tenant` name the agent."""
    agent = row_of(more.pop("agent_id", "bot"), more.pop("tenant", "acme"), level)
    return build_alert_row(decision_of(agent, number, before, **more), REVOKING if revokes else POLICY, SERVICE)


class SetReceiver(Endpoint):
    """Takes pushes (RFC 8935): answers as told, then 202, and keeps what it got."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.got: list[tuple[dict[str, str], str]] = []
        self.go = threading.Event()
        self.go.set()
        super().__init__(self._take)

    @property
    def url(self) -> str:
        return f"{super().url}/events"

    def _take(self, request: Endpoint.Request) -> Endpoint.Answer:
        self.go.wait(5)
        self.got.append((request[2], request[3].decode()))
        status, text = self.answers.pop(0) if self.answers else (202, b"")
        return status, {}, text

    def refuse(self, code: str) -> None:
        """Answer the next push with a SET error."""
        self.answers.append((400, json.dumps({"err": code, "description": "so it is"}).encode()))

    @property
    def tokens(self) -> list[str]:
        """SETs in the order in which they came."""
        return [token for _, token in self.got]

    def close(self) -> None:
        self.go.set()
        super().close()


class Receiver:
    """Manages and polls streams over HTTP as a third party does: from the metadata alone.

    Args:
        client: of the service, whose base URL stands for the host that the metadata names.
        token: access token with `ssf.manage`.
    """

    def __init__(
        self, client: httpx2.Client, token: str, metadata_path: str = "/.well-known/ssf-configuration"
    ) -> None:
        self.client = client
        self.headers = {"authorization": f"Bearer {token}"}
        answer = client.get(metadata_path)
        answer.raise_for_status()
        self.metadata: dict[str, Any] = answer.json()

    def path(self, name: str) -> str:
        return urlsplit(self.metadata[name]).path

    def ask(self, method: str, endpoint: str, body: Any = None, **params: str) -> httpx2.Response:
        """A request to an endpoint of the metadata; *body* is JSON, or bytes as they are."""
        content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        return self.client.request(
            method, self.path(endpoint), content=content, params=params or None, headers=self.headers
        )

    def create(self, events: tuple[str, ...] = EVENTS_SUPPORTED, **members: Any) -> dict[str, Any]:
        """A new stream; by poll unless `delivery` says otherwise."""
        body = {"events_requested": list(events), "delivery": {"method": POLL_METHOD}, **members}
        answer = self.ask("POST", "configuration_endpoint", body)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def create_push(self, url: str, authorization: str = "", **members: Any) -> dict[str, Any]:
        """A new stream that is pushed to *url*."""
        delivery = {"method": PUSH_METHOD, "endpoint_url": url}
        more = {"authorization_header": authorization} if authorization else {}
        return self.create(delivery=delivery | more, **members)

    def poll(self, stream: dict[str, Any], **members: Any) -> httpx2.Response:
        """One poll; returns at once unless it says otherwise."""
        body = {"returnImmediately": True, **members}
        path = urlsplit(stream["delivery"]["endpoint_url"]).path
        return self.client.post(path, json=body, headers=self.headers)

    def sets(self, stream: dict[str, Any], **members: Any) -> list[dict[str, Any]]:
        """Claims of the SETs of one poll, verified, in order."""
        answer = self.poll(stream, **members)
        assert answer.status_code == 200, answer.text
        return [self.verified(token, stream) for token in answer.json()["sets"].values()]

    def verified(self, token: str, stream: dict[str, Any]) -> dict[str, Any]:
        """Claims of a SET that holds what RFC 8417 and the CAEP interoperability profile ask, by the JWKS alone."""
        keys = PyJWKSet.from_dict(self.client.get(self.path("jwks_uri")).json())
        header = jwt.get_unverified_header(token)
        assert (header["typ"], header["alg"]) == ("secevent+jwt", "RS256")
        options: Any = {"require": ["iss", "iat", "jti"], "verify_iat": False}
        claims: dict[str, Any] = jwt.decode(
            token,
            keys[header["kid"]].key,
            algorithms=["RS256"],
            audience=stream["aud"],
            issuer=self.metadata["issuer"],
            options=options,
        )
        assert not {"sub", "exp"} & claims.keys()
        assert len(claims["events"]) == 1
        assert claims["sub_id"]["format"]
        return claims


class ForeignTransmitter:
    """Somebody else's transmitter: a key, its JWKS in a file, and SETs of any content."""

    def __init__(self, folder: Path, issuer: str = "https://idp.example", kid: str = "k1") -> None:
        self.issuer, self.kid = issuer, kid
        self.key = rsa.generate_private_key(65_537, 2048)
        self.jwks = folder / f"jwks-{kid}.json"
        jwk = RSAAlgorithm.to_jwk(self.key.public_key(), as_dict=True) | {"kid": kid, "alg": "RS256", "use": "sig"}
        self.jwks.write_text(json.dumps({"keys": [jwk]}))

    def claims(self, event_type: str, number: int = 1, now_s: float = 0.0, **more: Any) -> dict[str, Any]:
        """Claims of a SET about `bot` of the issuer `https://as.example`; *more* replaces some."""
        members = more.pop("members", {})
        return {
            "iss": self.issuer,
            "aud": "trustwatch-signals",
            "iat": int(now_s),
            "jti": f"jti-{number}",
            "sub_id": {"format": "iss_sub", "iss": "https://as.example", "sub": "bot"},
            "events": {event_type: members},
            **more,
        }

    def sign(self, claims: Mapping[str, Any], **headers: Any) -> str:
        """A SET; *headers* replace those of its JOSE header."""
        given = {"typ": "secevent+jwt", "kid": self.kid, **headers}
        return jwt.encode(dict(claims), self.key, algorithm="RS256", headers=given)


class PollServer(Endpoint):
    """Gives SETs by poll (RFC 8936), again and again until they are acknowledged; never waits."""

    def __init__(self) -> None:
        self.waiting: dict[str, str] = {}
        self.errors: dict[str, Any] = {}
        self.given: list[str] = []
        self._lock = threading.Lock()
        super().__init__(
            lambda request: (200, {"content-type": "application/json"}, self._poll(json.loads(request[3])))
        )

    @property
    def url(self) -> str:
        return f"{super().url}/poll/1"

    def put(self, jti: str, token: str) -> None:
        with self._lock:
            self.waiting[jti] = token

    def _poll(self, asked: Mapping[str, Any]) -> bytes:
        with self._lock:
            self.errors |= asked.get("setErrs", {})
            for jti in (*asked.get("ack", ()), *asked.get("setErrs", {})):
                self.waiting.pop(jti, None)
            sets = dict(list(self.waiting.items())[: min(asked.get("maxEvents", 3), 3)])
            self.given += sets
            return json.dumps({"sets": sets, "moreAvailable": len(self.waiting) > len(sets)}).encode()
