"""The running service: composition of its parts, the pipeline process, and everything that runs beside the answers."""
