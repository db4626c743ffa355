"""The classifier whose features and guesses all metrics are taken from, trained by Kiln itself."""
