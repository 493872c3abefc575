"""Settings of cases."""

from __future__ import annotations

from typing import Annotated

from trustwatch.ingest.settings import SettingsPart, setting


class CaseSettings(SettingsPart, frozen=True):
    """Settings that say which rises belong to one case."""

    window_s: Annotated[
        int,
        setting(
            "a rise joins the case of an agent that it delegates to or was delegated by, or that had the same new "
            "target, key or network, if that agent rose within this time, s",
            ge=60,
            le=2_592_000,
        ),
    ] = 86_400
    max_agents: Annotated[int, setting("agents of one case; further ones open a case of their own", ge=1, le=1_000)] = (
        200
    )
