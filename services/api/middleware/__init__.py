"""ASGI middleware: runs before and after the route of every request."""
