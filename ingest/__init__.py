"""Events in, feature vectors out. Imports nothing of the other layers."""
