"""The other side of a signed webhook: what whoever receives alerts has to check."""

from __future__ import annotations

from collections.abc import Mapping

from standardwebhooks import Webhook, WebhookVerificationError


def verify_signature(secret: str, body: bytes, headers: Mapping[str, str]) -> bool:
    """Whether a body was signed with *secret* of late, as the Standard Webhooks specification says.

    Args:
        secret: `whsec_` + base64.
        body: as received.
        headers: names in small letters.
    """
    try:
        Webhook(secret).verify(body, dict(headers), json_parse=False)
    except (WebhookVerificationError, ValueError):  # a header that is not even of the form, a body that is no text
        return False
    return True
