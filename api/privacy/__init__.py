"""Erasure with proof, and export of what is known about one agent (`docs/privacy.md`)."""
