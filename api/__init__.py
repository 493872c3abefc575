"""The edge: HTTP, tokens, commands. May import every layer; nobody imports it."""
