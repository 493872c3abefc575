"""HTTP: a bare ASGI route for the risk answer in front of an ordinary FastAPI application for everything else.

Begin at `app.create_app`. `front` is the bare route, `answers` what it answers, `services` what all of it is given.
"""
