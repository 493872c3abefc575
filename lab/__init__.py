"""The analyst's way in: what the service knows as pandas frames, and pictures of them (`docs/notebooks.md`).

    from trustwatch.api.lab import charts, open_session

    lab = open_session("trustwatch.yaml")
    charts.levels(lab.agents())

Needs the extra `lab` (pandas, matplotlib, JupyterLab). Reads only: a running service notices nothing of it.
"""

from importlib.util import find_spec

if find_spec("pandas") is None or find_spec("matplotlib") is None:
    raise ImportError("trustwatch.lab needs pandas and matplotlib: pip install 'trustwatch[lab]'")

from . import charts
from .backtest_frames import BacktestFrames
from .chart_canvas import Chart
from .facade import LabSession
from .model_frames import LabModel
from .session import LabError, LabWarning, open_session

__all__ = ["BacktestFrames", "Chart", "LabError", "LabModel", "LabSession", "LabWarning", "charts", "open_session"]
