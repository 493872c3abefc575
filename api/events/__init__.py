"""Intake of events over HTTP and from foreign topics: records are admitted or refused, one by one, and made durable.

`service` reads a body and splits it into records, `intake_limits` bounds it, `admission` judges its records, `intake`
makes them durable. `service` also lists and replays the refused ones.
"""
