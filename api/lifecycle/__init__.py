"""What people see and order of models: one desk for the API, the console and the keeper."""

from .desk import ModelDesk, ModelView
from .ordering import NoSuchModel, NotPromoted

__all__ = ["ModelDesk", "ModelView", "NoSuchModel", "NotPromoted"]
