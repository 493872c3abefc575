"""The command line, a stable contract. Exit status 0 is done, 1 failed, 2 usage."""
