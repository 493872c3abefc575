"""The analysts' lab: the service's data as pandas frames, and charts of them (`docs/notebooks.md`).

    from trustwatch.lab import charts, frames, open_session

    session = open_session("trustwatch.yaml")
    charts.levels(frames.agents(session))

`charts` and `frames` need the extra `lab` (pandas, matplotlib, JupyterLab). Reads only: a running service notices
nothing of it.
"""

from .session import LabError, LabModel, LabSession, LabWarning, open_session

__all__ = ["LabError", "LabModel", "LabSession", "LabWarning", "open_session"]
