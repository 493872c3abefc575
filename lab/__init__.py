"""The analysts' lab: the service's data as pandas frames, and the look of Altair's charts (`docs/notebooks.md`).

    from trustwatch.lab import frames, open_session

    session = open_session("trustwatch.yaml")
    frames.agents(session)

`frames`, `replays` and `charts` need the extra `lab` (pandas, Altair, JupyterLab). They only read: a running service
does not notice.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .session import LabError, LabModel, LabSession, LabWarning, open_session

__all__ = ["LabError", "LabModel", "LabSession", "LabWarning", "open_session"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(".session", __name__), name)
