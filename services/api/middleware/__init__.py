"""ASGI middleware, which runs before and after the route of every request."""
