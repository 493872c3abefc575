"""Feedback at the edge: who may say what, previews in a process of their own, and the way into the pipeline."""

from .authors import Author, author_of
from .desk import FeedbackDesk, Told
from .drafts import Draft
from .previews import Previews

__all__ = ["Author", "Draft", "FeedbackDesk", "Previews", "Told", "author_of"]
