"""Hooks at issuance: authorization servers ask, in the shapes of their product, what is to become of a token.

`base` is what products have in common, one module per product reads its requests and renders its answers, `endpoint`
asks the guard for all of them, `server` answers on bare ASGI. Nothing here decides, and nothing waits for a store.
"""
