"""HTTP: an ordinary FastAPI application, and in front of it the bare ASGI routes of requests that cannot wait.

Begin at `app.create_app`: it is given a `Runtime` and the slices (`slice.py`), and imports none of them. A route gets
the service of its slice by `dependencies.provided`.
"""
