"""Intake of events over HTTP and from foreign topics: records are admitted or refused, one by one, and made durable.

`service` takes a body in: `event_bodies` cuts it into records, `intake_limits` bounds it, `batch_admission` and
`admission` judge its records, `intake` makes them durable. `dead_letter_service` has those that were refused.
"""
