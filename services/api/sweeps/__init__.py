"""Hyper-parameter sweeps: trials become jobs, jobs become values."""
