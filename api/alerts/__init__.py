"""Alerts that were delivered to webhooks, and test alerts."""
