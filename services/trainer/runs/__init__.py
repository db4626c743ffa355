"""One training run from data set to published model."""
