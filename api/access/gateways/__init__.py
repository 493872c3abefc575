"""Gateways check each call of an agent, which is the only way to stop a JWT that was already issued.

`gateway_checks` has the headers that they send, the decisions and the answers that they accept, `gateway_issuers` finds
the agent of a token, and `gateway_server` answers on bare ASGI, also to introspection requests (RFC 7662).
"""
