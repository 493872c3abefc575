"""Containment: how long from the first malicious event until the authorization server says that the token is dead."""
