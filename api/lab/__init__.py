"""The analyst's way in: what the service knows as pandas frames, and pictures of them (`docs/notebooks.md`).

    from trustwatch.api.lab import charts, open_session

    lab = open_session("trustwatch.yaml")
    charts.levels(lab.agents())

Needs the extra `lab` (pandas, matplotlib, JupyterLab). Reads only: a running service notices nothing of it.
"""

from importlib.util import find_spec

if find_spec("pandas") is None or find_spec("matplotlib") is None:
    raise ImportError("trustwatch.api.lab needs pandas and matplotlib: pip install 'trustwatch[lab]'")

from . import charts as charts
from .backtesting import BacktestFrames
from .chart import Chart
from .lab import LabSession
from .learned import LabModel
from .opening import LabError, LabWarning, open_session

__all__ = ["BacktestFrames", "Chart", "LabError", "LabModel", "LabSession", "LabWarning", "charts", "open_session"]
