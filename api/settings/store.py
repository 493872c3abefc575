"""Where state is kept."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from .about import SettingsPart, setting
from .secret import Secret


class StoreSettings(SettingsPart, frozen=True):
    """The database. By default a file of its own below `data_dir`."""

    url: Annotated[str | None, setting("`postgresql://USER@HOST/NAME`; null is SQLite below `data_dir`")] = None
    password: Annotated[Secret | None, setting("password of the database user: `{env: NAME}` or `{file: PATH}`")] = None
    agents_days: Annotated[
        int, setting("calm agents that were not seen for so long are forgotten, days", ge=1, le=36_500)
    ] = 365

    def __post_init__(self) -> None:
        if self.url is None:
            return
        try:
            parts = urlsplit(self.url)
        except ValueError:
            raise ValueError("`url` is no URL") from None
        if parts.password:
            raise ValueError("`url` may not hold a password; put it in `password`")
        if parts.scheme != "postgresql" or not parts.path.strip("/") or not parts.username:
            raise ValueError("`url` must be postgresql://USER@HOST:PORT/NAME")
