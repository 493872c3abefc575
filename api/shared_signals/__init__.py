"""Shared signals: streams of security event tokens to receivers (OpenID SSF 1.0), by poll and push."""
