"""Runs one job from claim to end: the supervisor, and the training process that it starts. Imports no torch."""
