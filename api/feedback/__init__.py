"""Feedback: drafts, previews in a separate process, and rules on their way into the pipeline."""
