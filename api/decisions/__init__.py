"""Decisions: lists, look-ups and the stream of level changes."""
