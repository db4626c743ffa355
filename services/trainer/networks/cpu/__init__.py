"""Convolutions by algorithms that are faster on a CPU."""
