"""Hyper-parameter sweeps: the record, the store in Redis, and the validation of a sweep before it starts."""
