"""Hooks at issuance: authorization servers ask, in the formats of their product, what is to become of a token.

`hook_adapter` is the interface to products, one module per product reads its requests and renders its answers,
`hook_decider` asks the decision point for all of them, `hook_server` answers on bare ASGI. Nothing here waits for a
store.
"""
