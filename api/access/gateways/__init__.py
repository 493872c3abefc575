"""Gateways ask about each call of an agent, which is the only way to stop a JWT that was already issued.

`gateway_protocol` has the headers that they send and the answers that they take, `gateway_issuers` finds the agent of a
token, `gateway_decider` asks the decision point, `gateway_server` answers on bare ASGI, also to introspection requests
(RFC 7662).
"""
