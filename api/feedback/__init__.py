"""Feedback at the edge: who may say what, previews in a process of their own, and the way into the pipeline."""

from .desk import Author, FeedbackDesk, Told, author_of
from .drafts import Draft
from .previews import Previews

__all__ = ["Author", "Draft", "FeedbackDesk", "Previews", "Told", "author_of"]
