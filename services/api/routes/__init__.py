"""The HTTP routes. Each one parses its request, makes one call, and returns the result."""
