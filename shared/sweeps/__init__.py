"""Hyper-parameter sweeps: the record, the store in Redis, and the validation of a search space."""
