"""Feedback: drafts, previews in a process of their own, and rules on their way into the pipeline."""
