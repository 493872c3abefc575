"""Histories out of files: unpacked, cut into records, recognised, and turned into native events."""
