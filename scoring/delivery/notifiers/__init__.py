"""Notifiers: alerts to people and programs of a change of level, a silence or a requested approval."""
