"""The app of a Slack workspace, as an operator configures it: the part of a target's settings."""

from __future__ import annotations

from typing import Annotated

import msgspec

from ....ingest.settings import Name, Secret, SettingsPart, setting

SlackChannelId = Annotated[str, msgspec.Meta(pattern=r"^[CGD][A-Z0-9]{6,40}\Z")]
SlackTeamId = Annotated[str, msgspec.Meta(pattern=r"^T[A-Z0-9]{6,40}\Z")]
SlackOrganizationId = Annotated[str, msgspec.Meta(pattern=r"^E[A-Z0-9]{6,40}\Z")]
SlackHomeId = Annotated[str, msgspec.Meta(pattern=r"^[TE][A-Z0-9]{6,40}\Z")]
SlackUserId = Annotated[str, msgspec.Meta(pattern=r"^[UW][A-Z0-9]{6,40}\Z")]

ANY_TENANT = "*"
MIN_SIGNING_SECRET_LENGTH = 16


class SlackPersonSettings(SettingsPart, frozen=True):
    """A person of ours, known by a user of the workspace."""

    user: Annotated[SlackUserId, setting("id of the user, as `U0123456789`: names may change, and be given again")]
    name: Annotated[
        Name, setting("name in records, as the console's `name_claim` has it, so that a person has one name in both")
    ]
    subject: Annotated[
        Name | None,
        setting("the person's `sub` at the issuer, where `actuators[].clients` names it: nobody acts on its own agent"),
    ] = None
    home: Annotated[
        SlackHomeId | None,
        setting(
            "`user.team_id` of the user's clicks where it is not `team`: in an Enterprise Grid another workspace, or "
            "the organization itself (`E…`); `organization` is needed beside it"
        ),
    ] = None


class SlackInteractionSettings(SettingsPart, frozen=True):
    """Buttons in messages about cases, and who may press them."""

    signing_secret: Annotated[
        Secret,
        setting(
            "signing secret of the app, which signs its requests: `{env: NAME}` or `{file: PATH}`, at least 16 "
            "characters"
        ),
    ]
    team: Annotated[SlackTeamId, setting("id of the workspace, as `T0123456789`; clicks of others are refused")]
    tenants: Annotated[
        tuple[Name, ...], setting("tenants whose cases have buttons here, and are acted on; `*` is all", min_length=1)
    ]
    people: Annotated[
        tuple[SlackPersonSettings, ...],
        setting("who may press them, as with the scopes `trust.score:read` and `trust.feedback`", min_length=1),
    ]

    organization: Annotated[
        SlackOrganizationId | None,
        setting(
            "id of the Enterprise Grid that `team` belongs to, as `E0123456789`: `people` may have other homes in it, "
            "and clicks that name no workspace count if they are of it"
        ),
    ] = None

    def __post_init__(self) -> None:
        users = [(person.user, self.home_of(person)) for person in self.people]
        if len(set(users)) < len(users):
            raise ValueError("`people` names a user twice")
        if self.organization is None and any(home != self.team for _, home in users):
            raise ValueError("`people` names a `home` beside `team`: say by `organization` which Enterprise Grid it is")
        secret = self.signing_secret.reveal()
        if len(secret) < MIN_SIGNING_SECRET_LENGTH or not (secret.isascii() and secret.isprintable()):
            raise ValueError(
                f"`signing_secret` must have at least {MIN_SIGNING_SECRET_LENGTH} printable ASCII characters"
            )

    def home_of(self, person: SlackPersonSettings) -> str:
        """Workspace or organization without which the user's id is not unique."""
        return person.home or self.team

    def covers(self, tenant: str) -> bool:
        """True if cases of *tenant* may be acted on."""
        return tenant in self.tenants or ANY_TENANT in self.tenants


class SlackAppSettings(SettingsPart, frozen=True):
    """An app whose bot posts alerts, so that those about one case stand in one thread."""

    bot_token: Annotated[
        Secret, setting("token of the bot, `xoxb-…`, with the scope `chat:write`: `{env: NAME}` or `{file: PATH}`")
    ]
    channel: Annotated[SlackChannelId, setting("id of the channel, as `C0123456789`; the bot is a member of it")]
    interactions: Annotated[
        SlackInteractionSettings | None,
        setting("buttons for people; the app's interactivity is on, its Request URL `…/v1/slack/interactions`"),
    ] = None
