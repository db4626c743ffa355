"""Reads, samples and augments data sets."""
