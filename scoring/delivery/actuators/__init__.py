"""Actuators: what changes clients at authorization servers after tokens were issued, and what revokes tokens."""
