"""The rule that says which rises of risk belong to one case."""

from __future__ import annotations

from typing import NamedTuple


class CaseSettings(NamedTuple):
    """Bounds of cases. No operator sets them: a day is how far apart people look for one cause.

    Attributes:
        window_s: a rise joins the case of an agent that it delegates to or was delegated by, or that had the same new
            target, key or network, if that agent rose within this time.
        max_agents: agents of one case; further ones open another: nobody reads a longer list.
    """

    window_s: int = 86_400
    max_agents: int = 200


DEFAULT_CASES = CaseSettings()
