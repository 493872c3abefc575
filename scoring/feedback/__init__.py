"""Feedback that counts: rules that people made of false positives, what they do to scoring, and labels for training."""

from .labels import Label, labels_of
from .values import Feedback, Holding, PreviewRow, Rule, Step

__all__ = ["Feedback", "Holding", "Label", "PreviewRow", "Rule", "Step", "labels_of"]
