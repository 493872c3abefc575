"""Back-test: history through the live path, and what of it would have been alerts, refusals and revocations."""
