"""The commands of `python -m services.trainer`, and how they print."""
