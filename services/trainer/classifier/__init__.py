"""Kiln's own classifier, whose features and predictions all metrics use."""
