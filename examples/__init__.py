"""Programs that show Trustwatch at work. Those of `client` are for copying; `agents` is one world."""
