"""The door for events: what comes in over HTTP is judged record by record and made durable. Knows no web framework.

One file per matter: `bodies` (request body to records), `registry` (what the operator knows of agents), `admission`
(one record), `recent` (ids seen), `limits` (who may send how much), `letters` (what is refused), `door` (all together).
"""
