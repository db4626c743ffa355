"""Turns a request for images into an encoded response."""
