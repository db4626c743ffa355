"""Errors of the training loop that the training process handles itself. Needs no torch."""

from __future__ import annotations


class CaptureFailed(Exception):
    """The iteration could not be recorded or replayed as a CUDA graph; CUDA may be unusable in this process."""
