"""Shared signals (OpenID SSF 1.0): which security event tokens follow from a decision, and whom they are about."""
