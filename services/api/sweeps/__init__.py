"""Hyper-parameter sweeps: trials become jobs, finished jobs become objective values."""
