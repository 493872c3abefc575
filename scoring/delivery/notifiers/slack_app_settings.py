"""The app of a Slack workspace, as an operator configures it: the part of a target's settings."""

from __future__ import annotations

from typing import Annotated

import msgspec

from ....ingest.settings import Secret, SettingsPart, setting

SlackChannelId = Annotated[str, msgspec.Meta(pattern=r"^[CGD][A-Z0-9]{6,40}\Z")]


class SlackAppSettings(SettingsPart, frozen=True):
    """An app whose bot posts alerts, so that those about one case stand in one thread."""

    bot_token: Annotated[
        Secret, setting("token of the bot, `xoxb-…`, with the scope `chat:write`: `{env: NAME}` or `{file: PATH}`")
    ]
    channel: Annotated[SlackChannelId, setting("id of the channel, as `C0123456789`; the bot is a member of it")]
