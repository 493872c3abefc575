"""The embedded event log: one directory, one partition, one writer, any number of readers (`docs/event-log.md`)."""
