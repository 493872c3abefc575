"""Hooks at issuance: authorization servers request, in their product's format, a decision about a token.

`hook_adapter` is the interface to products and calls the decision point for them, `product_hooks` and `authzen_hook`
read requests and render answers, `hook_server` answers on bare ASGI. Nothing here waits for a store.
"""
