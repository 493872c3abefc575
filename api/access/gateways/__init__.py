"""Gateways: they ask about each call of an agent, which is the only way to stop a JWT that is already out.

`asked` reads what they send, `issuers` and `holder` say whose token it is, `judging` asks the guard, `answers` holds
what they are told, `server` does it on bare ASGI; `introspection` is the same for who asks about a token (RFC 7662).
"""
