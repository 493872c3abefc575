"""Buttons in Slack's messages about cases, and what is read from one that was pressed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple, get_args

import msgspec

from .alert_content import AlertContent, text_or_empty
from .slack_app_settings import SlackInteractionSettings

CaseButton = Literal["acknowledge", "ask-contain", "ask-close-true", "ask-close-false", "ask-close-expected"]
"""Buttons of an alert. `ask-` answers with what it will do, and with a button that does it."""
ConfirmingButton = Literal[
    "contain", "close-true", "close-false", "close-expected", "close-false-release", "close-expected-release"
]
"""Buttons of such an answer."""

BUTTONS: Final[frozenset[str]] = frozenset((*get_args(CaseButton), *get_args(ConfirmingButton)))

_LABELS: Final[tuple[tuple[CaseButton, str], ...]] = (
    ("acknowledge", "Acknowledge"),
    ("ask-contain", "Contain…"),
    ("ask-close-true", "Close as true…"),
    ("ask-close-false", "Close as false…"),
    ("ask-close-expected", "Close as expected…"),
)
_MAX_VALUE: Final = 2_000
"""Characters that Slack takes in the value of a button."""


class ButtonValue(msgspec.Struct, frozen=True, rename={"target": "t", "case_id": "c", "revision": "r"}):
    """Value of a button; *revision* is that of the case which the person was shown, None = it was not."""

    target: str
    case_id: str
    revision: int | None = None


class ButtonsOfTarget(NamedTuple):
    """Buttons that messages to a target have."""

    target: str
    settings: SlackInteractionSettings


_decode = msgspec.json.Decoder(ButtonValue).decode


def read_value(text: str) -> ButtonValue | None:
    """Value of a button; None = it is none of ours."""
    try:
        return _decode(text)
    except msgspec.DecodeError:
        return None


def button(action: CaseButton | ConfirmingButton, label: str, value: ButtonValue, style: str = "") -> dict[str, Any]:
    """One button. *style* may be `primary` or `danger`."""
    made = {
        "type": "button",
        "action_id": action,
        "text": {"type": "plain_text", "text": label, "emoji": False},
        "value": msgspec.json.encode(value).decode(),
    }
    return made | ({"style": style} if style else {})


def row_of(buttons: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A block of buttons."""
    return {"type": "actions", "elements": list(buttons)}


def case_buttons(alert: AlertContent, of_target: ButtonsOfTarget | None) -> list[dict[str, Any]]:
    """Blocks with the buttons of an alert: none where it belongs to no open case of the target's tenants."""
    if of_target is None or alert.kind not in ("level", "case"):
        return []
    case_id, tenant = text_or_empty(alert.case.get("case_id")), text_or_empty(alert.data.get("tenant"))
    value = ButtonValue(of_target.target, case_id)
    if not case_id or alert.case.get("status") == "closed" or not of_target.settings.covers(tenant):
        return []
    if len(msgspec.json.encode(value)) > _MAX_VALUE:
        return []
    return [row_of([button(action, label, value) for action, label in _LABELS])]
