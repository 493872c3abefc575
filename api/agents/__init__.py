"""Agents: their risk, lists, history and release."""
