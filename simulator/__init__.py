"""A seeded enterprise of agents with attacks laid over it: drives the demo, load tests and documentation."""
