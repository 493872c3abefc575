"""Access decisions for hooks and gateways, while a token is issued or a call waits; approvals, pins and actuation.

The decision point answers from memory, makes every question an audit event, and asks a person where the policy wants
one. Hooks and gateways render its verdicts in the formats of their products and decide nothing themselves.
"""
