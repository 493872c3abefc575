"""The running service: composition of its parts, the pipeline process, and everything that runs next to the answers."""
