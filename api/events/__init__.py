"""Intake of events over HTTP and from foreign topics: records are admitted or refused, one by one, and made durable.

`service` takes a body in and cuts it into records, `intake_limits` bounds it, `admission` judges its records, `intake`
makes them durable. `service` also has those that were refused.
"""
