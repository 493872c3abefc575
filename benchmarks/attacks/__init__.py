"""Attacks over an enterprise with a week of history, beyond those of the simulator."""
