"""Convolution algorithms that are faster than torch's own on a CPU."""
