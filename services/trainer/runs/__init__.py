"""One training run, from data set to exported model."""
