"""Delivery at least once, with an idempotency key, from the store's outbox to the configured targets."""
