"""Access decisions for hooks and gateways, while a token is issued or a call waits; approvals, pins and actuation.

The decision point answers from memory, records every request as an audit event, and asks a person if the policy
requires it. Hooks and gateways render its verdicts in the formats of their products.
"""
