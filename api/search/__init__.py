"""Search: one box for agents, people, cases, decisions and events, with a small query language."""
