"""Migrations of the store, run by `trustwatch.scoring.store.migrate`."""
