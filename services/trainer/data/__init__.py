"""Data sets, their sampler and augmentation."""
