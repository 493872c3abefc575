"""A small world of agents around an authorization server, a gateway and Trustwatch: `python -m examples.agents.run`."""
