"""What leaves the service: at least once, with an idempotency key, from the store's outbox to configured targets."""
