"""Feedback at the edge: who may say what, previews in a process of their own, and the way into the pipeline."""
