"""Plain values that the store keeps and the parts of the service exchange."""
