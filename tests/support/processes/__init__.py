"""Programs that tests start, kill and stop: `python -m tests.support.processes.NAME`, from the checkout's root."""
