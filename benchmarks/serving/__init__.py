"""Serving speed: Kiln against other servers of the same model."""
