"""The application: HTTP, tokens, console, commands. May import every layer; no layer imports it."""
