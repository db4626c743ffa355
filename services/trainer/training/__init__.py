"""The training loop and everything it computes in a step."""
