"""Scores in; risk, decisions, store and what leaves. May import models and ingest."""
