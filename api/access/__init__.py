"""The guard: what hooks and gateways ask while a token is issued or a call waits.

It answers from memory, notes every question as an audit event, and asks a person where the policy wants one. Hooks and
gateways render its verdicts in the words of their product and decide nothing themselves.
"""
