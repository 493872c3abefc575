"""Requests of Slack about buttons: whether Slack's signature is on them, and what was pressed by whom.

As Slack's pages "Verifying requests from Slack" (version `v0`) and "Interaction payloads" (`block_actions`) have it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import msgspec

from ...ingest.errors import TrustwatchError
from ...scoring.delivery.notifiers.slack_buttons import BUTTONS, ButtonValue, read_value
from ...scoring.delivery.notifiers.webhook_target import WebhookTarget
from ..http.auth.proof_window import ProofWindow

WINDOW_S: Final = 300.0
"""Age at which a request is refused, or how far it may be ahead: Slack's five minutes."""
MAX_REMEMBERED: Final = 20_000
"""Signatures that are remembered, so that no request counts twice."""
RESPONSE_HOST: Final = "hooks.slack.com"
"""The only host that answers go to."""

_SIGNATURE_LENGTH: Final = len("v0=") + 64
_HOLDER: Final = b"slack"


class SlackRequestRefused(TrustwatchError):
    """The request is not of Slack for an app of ours, or not now: nothing was done."""

    code = "slack_request_refused"

    def __init__(self, outcome: str, why: str) -> None:
        super().__init__(why)
        self.outcome = outcome


class SignedHeaders(NamedTuple):
    """Time and signature of a request, as its headers say."""

    timestamp: int
    signature: str


class SlackClick(NamedTuple):
    """A button that somebody pressed.

    Attributes:
        action: one of `BUTTONS`.
        team: workspace of the message; "" = Slack names none, as for an app of a whole organization.
        organization: Enterprise Grid of the message; "" = it is of none, or Slack did not say.
        user_team: workspace of the user, without which its id is not unique, or its Enterprise Grid (`E…`); "" = Slack
            did not say.
        response_url: where the person is answered; on `RESPONSE_HOST`.
    """

    action: str
    value: ButtonValue
    user: str
    user_team: str
    team: str
    organization: str
    channel: str
    response_url: str


class _Named(msgspec.Struct):
    id: str = ""


class _Team(msgspec.Struct):
    id: str = ""
    enterprise_id: str | None = None


class _User(msgspec.Struct):
    id: str = ""
    team_id: str | None = None


class _Action(msgspec.Struct):
    action_id: str = ""
    value: str = ""


class _Payload(msgspec.Struct):
    type: str = ""
    team: _Team | None = None
    enterprise: _Named | None = None
    user: _User | None = None
    channel: _Named | None = None
    response_url: str = ""
    actions: Sequence[_Action] = ()


_decode = msgspec.json.Decoder(_Payload).decode


class SlackSignatures:
    """Checks signatures, and that no request comes twice to this process.

    Args:
        began: when the process began, s since 1970: what was sent before is refused, since nobody knows of it.
    """

    def __init__(self, began: float) -> None:
        self._shown = ProofWindow(WINDOW_S, MAX_REMEMBERED, began)

    @staticmethod
    def read_headers(timestamps: Sequence[bytes], signatures: Sequence[bytes], now: float) -> SignedHeaders:
        """Time and signature, before a byte of the body is read. Raises SlackRequestRefused."""
        if len(timestamps) != 1 or len(signatures) != 1:
            raise SlackRequestRefused("unsigned", "X-Slack-Request-Timestamp and X-Slack-Signature are needed, once")
        timestamp, signature = timestamps[0].decode("latin-1"), signatures[0].decode("latin-1")
        digits = timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12
        if not digits or not signature.isascii() or len(signature) != _SIGNATURE_LENGTH:
            raise SlackRequestRefused("unsigned", "time or signature are not as Slack writes them")
        if abs(now - int(timestamp)) > WINDOW_S:
            raise SlackRequestRefused("stale", f"the request is not of the last {WINDOW_S:g} s; compare the clocks")
        return SignedHeaders(int(timestamp), signature)

    def check(
        self, headers: SignedHeaders, body: bytes, targets: Sequence[WebhookTarget], now: float
    ) -> list[WebhookTarget]:
        """Targets whose app signed *body*. Raises SlackRequestRefused: none did, or it came before."""
        signed = b"v0:%d:%s" % (headers.timestamp, body)
        given = headers.signature.encode()
        fitting = [
            target
            for target in targets
            if target.interactions is not None
            and hmac.compare_digest(_sign(target.interactions.signing_secret.reveal(), signed), given)
        ]
        if not fitting:
            raise SlackRequestRefused("forged", "no signing secret of `webhooks` fits the signature")
        if not self._shown.add(_HOLDER, hashlib.sha256(given).digest(), headers.timestamp, now):
            raise SlackRequestRefused("replayed", "the request came before, or is from before this process began")
        return fitting


def _sign(secret: str, signed: bytes) -> bytes:
    return b"v0=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest().encode()


def read_click(body: bytes) -> SlackClick | None:
    """The button that was pressed; None where something else was, which is not ours.

    Raises SlackRequestRefused: the body is not as Slack writes it.
    """
    payload = _read_payload(body)
    if payload.type != "block_actions" or len(payload.actions) != 1:
        return None
    (action,) = payload.actions
    value = read_value(action.value)
    if action.action_id not in BUTTONS or value is None:
        return None
    if payload.user is None or payload.channel is None:
        return None
    team, organization = payload.team or _Team(), payload.enterprise or _Named()
    names = payload.user.id, payload.user.team_id or "", team.id, organization.id or team.enterprise_id or ""
    return SlackClick(action.action_id, value, *names, payload.channel.id, payload.response_url)


def _read_payload(body: bytes) -> _Payload:
    try:
        fields = parse_qsl(body.decode(), strict_parsing=True, errors="strict", max_num_fields=8)
        (payload,) = [value for name, value in fields if name == "payload"]
        return _decode(payload)
    except (ValueError, msgspec.DecodeError):
        raise SlackRequestRefused("malformed", "expected a form with the member `payload`, which is JSON") from None


def is_response_url(url: str) -> bool:
    """True if *url* is one of Slack's own: nobody has us send what we say elsewhere.

    >>> is_response_url("https://hooks.slack.com/actions/T1/2/abc"), is_response_url("https://hooks.slack.com.evil/")
    (True, False)
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    own = parts.scheme == "https" and parts.hostname == RESPONSE_HOST and port is None and "@" not in parts.netloc
    return own and url.isascii() and url.isprintable() and " " not in url and "\\" not in url
