"""Feedback that counts: rules that people made of false positives, what they do to scoring, and labels for training."""

from .labels import FeedbackLabel, feedback_labels
from .values import Feedback, FeedbackPreview, FeedbackRule, FeedbackStep, PartitionRule

__all__ = [
    "Feedback",
    "FeedbackLabel",
    "FeedbackPreview",
    "FeedbackRule",
    "FeedbackStep",
    "PartitionRule",
    "feedback_labels",
]
