"""Feedback at the edge: who may say what, previews in a process of their own, and the way into the pipeline."""

from .authors import Reviewer, reviewer_of
from .desk import FeedbackService, FeedbackStatus
from .drafts import FeedbackDraft
from .previews import PreviewRunner

__all__ = ["FeedbackDraft", "FeedbackService", "FeedbackStatus", "PreviewRunner", "Reviewer", "reviewer_of"]
