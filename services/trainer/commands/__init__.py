"""What `python -m services.trainer ...` does, and how it prints."""
