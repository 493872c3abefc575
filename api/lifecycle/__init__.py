"""What people see and order of models: one desk for the API, the console and the keeper."""

from .desk import ModelService, ModelVersionView
from .ordering import PromotionRefused, UnknownModelVersion

__all__ = ["ModelService", "ModelVersionView", "PromotionRefused", "UnknownModelVersion"]
